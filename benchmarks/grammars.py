"""Measures what a format costs: its grammar, and the tokens that it allows in a step.

    python -m benchmarks.grammars

The vocabulary has 128,256 tokens, words of the standard library's sources among them.
"""

from __future__ import annotations

import json
import re
import statistics
import sysconfig
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers

from mllama.grammars.convert import format_grammar
from mllama.requests.token_bytes import _characters
from mllama.requests.token_grammars import TokenGrammars
from mllama.sampling.logits import processed_logits
from mllama.sampling.state import SamplingSettings, SamplingState

VOCABULARY: Final = 128_256
SPECIAL: Final = 256
END: Final = VOCABULARY - 1
ROUNDS: Final = 5

_FIELDS: Final[list[tuple[dict[str, Any], Any]]] = [
    ({"type": "string"}, "hello world"),
    ({"type": "string", "maxLength": 50}, "at most fifty characters"),
    ({"type": "integer", "minimum": 0, "maximum": 1000}, 17),
    ({"type": "number"}, 3.25),
    ({"type": "boolean"}, True),
    ({"enum": ["red", "green", "blue"]}, "green"),
    ({"type": "string", "format": "date"}, "2024-02-29"),
    ({"type": "array", "items": {"type": "string"}, "maxItems": 5}, ["a", "bb"]),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
    ({"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"}, "ABC-1234"),
]


class Tokenizer:
    """A byte-level vocabulary in the form that transformers has."""

    def __init__(self) -> None:
        character = _characters()
        words: dict[bytes, None] = {bytes([byte]): None for byte in range(256)}
        for word in islice(_words(), VOCABULARY):
            words.setdefault(word)
            if len(words) == VOCABULARY - SPECIAL:
                break
        names = ["".join(character[byte] for byte in word) for word in words]
        names += [f"<{number}>" for number in range(VOCABULARY - len(names))]
        self._names = names
        ids = {name: number for number, name in enumerate(names)}
        # Takes the longest token that a text goes on with.
        longest_first = models.WordPiece(
            ids,
            unk_token=names[-1],
            continuing_subword_prefix="",
            max_input_chars_per_word=1 << 20,
        )
        self.backend_tokenizer = tokenizers.Tokenizer(longest_first)
        self.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=False, use_regex=False
        )
        self.added_tokens_decoder = {
            number: SimpleNamespace(content=names[number])
            for number in range(len(words), VOCABULARY)
        }

    def __len__(self) -> int:
        return VOCABULARY

    def convert_ids_to_tokens(self, token: int) -> str:
        """Returns a token's name."""
        return self._names[token]

    def encode(self, text: str, **_: Any) -> list[int]:
        """Returns a text's tokens, the longest first."""
        ids: list[int] = self.backend_tokenizer.encode(text).ids
        return ids


def _words() -> Iterator[bytes]:
    """Yields parts of the standard library's sources."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        text = path.read_text("utf-8", "ignore")
        for word in re.findall(r" ?\w{1,20}|[^\w\s]{1,6} ?", text):
            yield word.encode()[:24]


def main() -> None:
    """Prints times in milliseconds."""
    tokenizer = Tokenizer()
    started = time.perf_counter()
    grammars = TokenGrammars(tokenizer, [END])
    print(f"vocabulary: {(time.perf_counter() - started) * 1e3:.0f} ms")
    fields = [
        (f"field_{number}", *_FIELDS[number % len(_FIELDS)]) for number in range(30)
    ]
    schema = {
        "type": "object",
        "properties": {name: each for name, each, _ in fields},
        "required": [name for name, _, _ in fields],
    }
    answer = json.dumps({name: value for name, _, value in fields})
    logits = np.random.default_rng(0).normal(0, 4, VOCABULARY).astype(np.float32)
    for strict in (True, False):
        making, steps = [], []
        for number in range(ROUNDS):
            # Another name each time, so that nothing is known from before.
            source = json.dumps({"title": f"{number}", **schema})
            started = time.perf_counter()
            text = format_grammar("json_schema", source, is_strict=strict, path="f")
            matcher = grammars.matcher(f"{text}\n// {number}\n")
            making.append((time.perf_counter() - started) * 1e3)
            tokens = np.array(tokenizer.encode(answer), np.int64)
            for position in range(len(tokens) + 1):
                state = SamplingState(
                    settings=SamplingSettings(top_k=1),
                    position=position,
                    tokens=tokens[:position],
                    grammar=matcher,
                )
                started = time.perf_counter()
                processed = processed_logits(logits, state)
                steps.append((time.perf_counter() - started) * 1e3)
                following = tokens[position] if position < len(tokens) else END
                assert processed[following] > -np.inf
        name = "no other properties" if strict else "with other properties"
        print(
            f"30 fields, {name}: made in {statistics.median(making):.1f} ms; a step of "
            f"{len(tokens)}: mean {statistics.mean(steps):.3f} ms, median "
            f"{statistics.median(steps):.3f}, 99 % within "
            f"{statistics.quantiles(steps, n=100)[98]:.3f}"
        )


if __name__ == "__main__":
    main()
