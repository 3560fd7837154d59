"""Two tokenizers are the same if each token means the same."""

from __future__ import annotations

from mllama.weights.token_texts import TokenTexts

MODEL = TokenTexts({0: "a", 1: "b"}, {2: "<|begin|>", 3: "<|reserved_0|>", 9: "<img>"})


def test_equal_tokenizers_don_t_differ() -> None:
    assert MODEL.difference(MODEL, 9) is None


def test_ordinary_tokens_must_be_equal() -> None:
    swapped = TokenTexts({0: "b", 1: "a"}, MODEL.special)
    shorter = TokenTexts({0: "a"}, MODEL.special)
    assert MODEL.difference(swapped, 9) == 0
    assert MODEL.difference(shorter, 9) == 1
    assert shorter.text(1) == "no token"


def test_special_tokens_may_be_missing_or_reserved() -> None:
    missing = TokenTexts(MODEL.ordinary, {2: "<|begin|>"})
    named = TokenTexts(MODEL.ordinary, {2: "<|begin|>", 3: "<|step|>"})
    other = TokenTexts(MODEL.ordinary, {2: "<|end|>"})
    assert MODEL.difference(missing, 9) is None
    assert named.difference(MODEL, 9) is None
    assert other.difference(MODEL, 9) == 2


def test_tokens_beyond_the_vocabulary_don_t_count() -> None:
    other = TokenTexts(MODEL.ordinary, {**MODEL.special, 9: "<image>"})
    assert MODEL.difference(other, 9) is None
    assert MODEL.difference(other, 10) == 9
