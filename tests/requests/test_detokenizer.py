"""Streamed text is complete, in order, and ends before a stop string."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mllama.requests.detokenizer import StreamingDetokenizer
from mllama.requests.stop_strings import StopStringFilter


def byte_tokenizer() -> SimpleNamespace:
    """Returns a stand-in for a fast tokenizer of transformers with a token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return SimpleNamespace(backend_tokenizer=tokenizer)


TOKENIZER = byte_tokenizer()


def pieces(text: str, stop: list[str], size: int = 1) -> list[str]:
    stream = StreamingDetokenizer(TOKENIZER, stop)
    ids = TOKENIZER.backend_tokenizer.encode(text).ids
    out = []
    for start in range(0, len(ids), size):
        out.append(stream.push(ids[start : start + size]))
        if stream.stop is not None:
            return out
    return [*out, stream.finish()]


@given(st.text(st.characters(exclude_categories=("Cs",))), st.integers(1, 5))
def test_pieces_join_to_the_text(text: str, size: int) -> None:
    assert "".join(pieces(text, [], size)) == text


def test_a_character_of_several_tokens_is_returned_whole() -> None:
    assert [piece for piece in pieces("a😊b", []) if piece] == ["a", "😊", "b"]


def test_an_incomplete_character_becomes_a_replacement_at_the_end() -> None:
    ids = TOKENIZER.backend_tokenizer.encode("a😊").ids[:-1]
    stream = StreamingDetokenizer(TOKENIZER)
    assert stream.push(ids) == "a"
    assert set(stream.finish()) == {"\ufffd"}


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4)))
def test_text_ends_before_the_first_stop_string(text: str, stop: list[str]) -> None:
    places = [text.find(one) for one in stop if one in text]
    # The stop string that is complete first ends the answer, even if a longer one
    # began earlier.
    ends = [text.find(one) + len(one) for one in stop if one in text]
    got = "".join(pieces(text, stop))
    if not places:
        assert got == text
    else:
        first = min(ends)
        assert (
            got
            == text[: min(p for p, e in zip(places, ends, strict=True) if e == first)]
        )


def test_a_possible_start_of_a_stop_string_is_held_back() -> None:
    stop_filter = StopStringFilter(["END"])
    assert stop_filter.push("an E") == "an "
    assert stop_filter.push("N") == ""
    assert stop_filter.push("T") == "ENT"
    assert stop_filter.push("END and more") == ""
    assert stop_filter.found
    assert stop_filter.push("later") == ""


@pytest.mark.parametrize("stop", [[], [""]])
def test_without_stop_strings_nothing_is_held_back(stop: list[str]) -> None:
    assert StopStringFilter(stop).push("text") == "text"
