"""Random questions of an exact length, and pictures with a given number of tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from benchmarks.serving import picture

SIDES = {1: (500, 500), 2: (1100, 500), 3: (1600, 500), 4: (1100, 1100)}
"""Width and height of pictures by the number of 560-pixel tiles that they fill."""

_TRIES = 20


class Prompts:
    """Random questions from a checkpoint's vocabulary, each of them different.

    Args:
        checkpoint: Folder of the tokenizer and the chat template.
        folder: Folder to write pictures to.
    """

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
        self._random = np.random.default_rng(0)
        self.folder = folder
        self._pictures = 0
        self._words = [
            " " + token[1:]
            for token in sorted(self._tokenizer.get_vocab())
            if token.startswith("Ġ") and token[1:].isalpha() and token[1:].isascii()
        ]

    def question(self, tokens: int, images: int = 0) -> str:
        """Returns a question whose prompt has the given number of tokens.

        The prompt includes the chat template, and each image counts as one token.

        Raises:
            ValueError: If the chat template alone is longer, or no words fit.
        """
        words = tokens - self.length("", images)
        if words < 0:
            raise ValueError(f"a prompt has at least {tokens - words} tokens")
        for _ in range(_TRIES):
            text = "".join(self._random.choice(self._words, words))
            missing = tokens - self.length(text, images)
            if not missing:
                return text
            words = max(0, words + missing)
        raise ValueError(f"no question of {tokens} tokens was found")

    def picture(self, tiles: int) -> str:
        """Writes a new picture that fills a number of tiles; returns its path."""
        self._pictures += 1
        path = self.folder / f"{self._pictures}.png"
        picture(self._random, *SIDES[tiles]).save(path)
        return str(path)

    def length(self, text: str, images: int) -> int:
        """Returns the number of tokens of a question's prompt, one for each image."""
        rendered = self.rendered(text, images)
        return len(self._tokenizer(rendered, add_special_tokens=False)["input_ids"])

    def rendered(self, text: str, images: int) -> str:
        """Returns the question in the chat template."""
        content: Any = text
        if images:
            content = [{"type": "image"}] * images + [{"type": "text", "text": text}]
        rendered: str = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=False,
            add_generation_prompt=True,
        )
        return rendered
