"""Where the words of an answer looked in its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mllama.engine.attention.overlay import overlaid
from mllama.errors import MllamaError
from mllama.images.load import ImageFile
from mllama.requests.attention import AttentionMaps, Head, HeadScore, ImageMaps
from mllama.requests.attention_words import (
    AttentionToken,
    AttentionWord,
    tokens_and_words,
    with_clearest_maps,
)

if TYPE_CHECKING:
    from mllama.requests.preparation import PreparedRequest


@dataclass(frozen=True)
class Attention:
    """Where the tokens and words of an answer looked in its images.

    For example::

        output = llm.generate("What is here?", ["photo.jpg"], attention=True)
        output.attention.overlay("circle").save("circle.png")
        output.attention.save("answer.html")

    A token's map is that of the query that predicts it, at the position before.  A
    word's is the clearest among those of its queries: from the one that predicts its
    first token to the one at its last.

    Attributes:
        answer: The answer's text.
        tokens: The tokens that have maps, in order.
        words: The words that they make.
        images: The maps of all tokens in each image.
        heads: The heads that the maps are the mean of: layer and head.
        scores: How well each head localizes, best first, if that was asked for.
    """

    answer: str
    tokens: list[AttentionToken]
    words: list[AttentionWord]
    images: list[ImageMaps]
    heads: list[Head]
    scores: list[HeadScore]
    _files: list[ImageFile]

    @classmethod
    def of(
        cls,
        maps: AttentionMaps,
        prepared: PreparedRequest,
        answer: Sequence[int],
        text: str,
        files: Sequence[ImageFile],
        tokenizer: Any,
    ) -> Attention:
        """Returns the attention of an answer.

        Args:
            maps: The maps.
            prepared: The request.
            answer: The answer's tokens.
            text: The answer's text.
            files: The files of the images.
            tokenizer: The model's fast tokenizer.
        """
        prompt = len(prepared.token_ids)
        asked = prepared.request.attention
        first = 1 if asked is not None and asked.prompt else prompt
        tokens, words = tokens_and_words(
            [*prepared.token_ids, *answer][first:], prompt - first, tokenizer
        )
        return cls(
            text,
            tokens,
            with_clearest_maps(words, maps.images),
            list(maps.images),
            list(maps.heads),
            list(maps.scores),
            list(files),
        )

    @property
    def maps(self) -> list[npt.NDArray[np.float32]]:
        """Returns for each image float32 ``[tokens, rows, columns]``: the share of each
        token's attention on each patch of the picture."""
        return [image.maps for image in self.images]

    @cached_property
    def pictures(self) -> list[Image.Image]:
        """Returns the pictures as people see them: upright, opaque, mode RGB."""
        return [file.decode() for file in self._files]

    def word(self, word: str | int | AttentionWord) -> AttentionWord:
        """Returns a word.

        Args:
            word: The word itself; or its text, of which the first is taken, and one of
                the answer rather than of the prompt; or its index in ``words``.

        Raises:
            MllamaError: If there is no such word.
        """
        if isinstance(word, AttentionWord):
            return word
        if isinstance(word, int):
            if not -len(self.words) <= word < len(self.words):
                raise MllamaError(
                    f"there is no word {word}; there are {len(self.words)} words"
                )
            return self.words[word]
        same = [each for each in self.words if each.text == word] or [
            each for each in self.words if each.text.casefold() == word.casefold()
        ]
        if not same:
            raise MllamaError(
                f"the answer has no word {word!r}; its words are "
                + ", ".join(each.text for each in self.words[:50])
            )
        return min(same, key=lambda each: each.is_prompt)

    def map(
        self, word: str | int | AttentionWord, image: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Returns a word's map in an image, float32 ``[rows, columns]``.

        Args:
            word: See :meth:`word`.
            image: The image's number, from 0; by default the one it looked at most.

        Raises:
            MllamaError: If there is no such word or image.
        """
        found = self.word(word)
        return self.images[self.image_of(found, image)].maps[found.at]

    def image_of(self, word: AttentionWord, image: int | None = None) -> int:
        """Returns the number of an image, by default of the one that a word looked at
        most.

        Raises:
            MllamaError: If there is no such image.
        """
        if not self.images:
            raise MllamaError("the request has no images that words could look at")
        if image is None:
            mass = [each.maps[word.at].sum() for each in self.images]
            return int(np.argmax(mass))
        if not 0 <= image < len(self.images):
            raise MllamaError(
                f"there is no image {image}; they are numbered from 0 to "
                f"{len(self.images) - 1}"
            )
        return image

    def overlay(
        self, word: str | int | AttentionWord, image: int | None = None
    ) -> Image.Image:
        """Returns the picture with a word's map over it.

        Args:
            word: See :meth:`word`.
            image: The image's number, from 0; by default the one it looked at most.

        Raises:
            MllamaError: If there is no such word or image.
        """
        found = self.word(word)
        number = self.image_of(found, image)
        of_image = self.images[number]
        return overlaid(self.pictures[number], of_image.maps[found.at], of_image.grid)

    def to_dict(self) -> dict[str, Any]:
        """Returns answer, tokens, words and maps as JSON values."""
        from mllama.engine.attention.document import document

        return document(self)

    def save(self, path: str | Path) -> None:
        """Writes a file, by its ending: ``.png``, ``.html`` or ``.json``.

        The PNG shows the picture once for each word.  The HTML file contains everything
        it needs, and shows where a word looked under the pointer.

        Raises:
            MllamaError: If the ending is another, or the file can't be written.
        """
        from mllama.engine.attention.files import save

        save(self, Path(path))
