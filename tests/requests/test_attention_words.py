"""Tokens, words, and the maps that words get."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from mllama.demo_model import MODEL_PATH
from mllama.images.patch_grid import PatchGrid
from mllama.requests.attention import ImageMaps
from mllama.requests.attention_words import tokens_and_words, with_clearest_maps


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL_PATH)


def ids(tokenizer: Any, text: str) -> list[int]:
    result: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return result


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A green circle.", ["A", "green", "circle"]),
        (
            "It's 3.5 well-known, isn't it?",
            ["It's", "3.5", "well-known", "isn't", "it"],
        ),
        ("Größe \u4e2d\u6587 na\u00efve", ["Größe", "\u4e2d", "\u6587", "na\u00efve"]),
        ("\U0001f600 !!", []),
        ("", []),
    ],
)
def test_words_are_found_in_tokens(tokenizer: Any, text: str, words: list[str]) -> None:
    token_ids = ids(tokenizer, text)
    tokens, found = tokens_and_words(token_ids, 0, tokenizer)
    assert [word.text for word in found] == words
    for word in found:
        inside = b"".join(
            tokenizer.convert_tokens_to_string([t]).encode()
            for t in tokenizer.convert_ids_to_tokens(token_ids[word.start : word.end])
        ).decode(errors="ignore")
        assert all(c in inside for c in word.text if c.isascii())
    assert [token.id for token in tokens] == token_ids


def test_words_end_at_special_tokens_and_at_the_answer(tokenizer: Any) -> None:
    (end,) = ids(tokenizer, "<|eot_id|>")
    left, right = ids(tokenizer, "cir"), ids(tokenizer, "cle")
    token_ids = [*left, end, *right, *right]
    prompt = len(left) + 1 + len(right)
    tokens, words = tokens_and_words(token_ids, prompt, tokenizer)
    assert [(word.text, word.is_prompt) for word in words] == [
        ("cir", True),
        ("cle", True),
        ("cle", False),
    ]
    assert [token.is_special for token in tokens].index(True) == len(left)


def test_bytes_that_are_no_text_are_no_words(tokenizer: Any) -> None:
    broken = ids(tokenizer, "\u4e2d")[:-1]
    assert broken
    _, words = tokens_and_words([*broken, *ids(tokenizer, " red")], 0, tokenizer)
    assert [word.text for word in words] == ["red"]
    assert words[0].start == len(broken)


def test_a_word_has_the_clearest_map_of_its_queries(tokenizer: Any) -> None:
    token_ids = ids(tokenizer, "A green circle.")
    _, words = tokens_and_words(token_ids, 0, tokenizer)
    maps = np.full((len(token_ids), 2, 2), 0.25, np.float32)
    green, circle = words[1], words[2]
    maps[green.end] = [[0, 0], [0, 0.9]]
    zeros = np.zeros(len(token_ids), np.float32)
    grid = PatchGrid(1, 1, 2, 2, 2, 32, 32, 32.0, 32.0)
    found = with_clearest_maps(words, [ImageMaps(grid, maps, zeros, zeros)])
    assert found[1].at == green.end
    assert found[2].at == circle.start == green.end
    assert found[0].at == words[0].start
    assert with_clearest_maps(words, []) == words
