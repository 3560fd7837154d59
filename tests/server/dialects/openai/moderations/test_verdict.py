"""Verdicts and scores, of tokens as Llama's tokenizer has them and of single bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import pytest

from mllama.requests.events import TokenLogprob
from mllama.server.dialects.openai.moderations.hazards import HAZARDS
from mllama.server.dialects.openai.moderations.verdict import (
    Verdict,
    VerdictReader,
    longest_verdict,
    verdict_format,
)

END = "<|eot_id|>"
TOKENS = [END, "\n\n", "\n", "safe", "unsafe", "un", "I", "S", ",", ",S"]
TOKENS += [str(number) for number in range(20)]

Place = tuple[str, Mapping[str, float]]
"""A written token, and the probabilities of the likeliest ones."""


def sure(token: str) -> Place:
    return token, {token: 1.0}


def read(*places: Place, hazards: Sequence[str] = tuple(HAZARDS)) -> Verdict:
    reader = VerdictReader(
        hazards, lambda token: TOKENS[token].encode(), lambda token: token == 0
    )
    return reader.read(
        [
            TokenLogprob(
                TOKENS.index(written),
                math.log(top.get(written, 1e-9)),
                {TOKENS.index(token): math.log(p) for token, p in top.items()},
            )
            for written, top in places
        ]
    )


UNSAFE = ("unsafe", {"unsafe": 0.9, "safe": 0.1})
LIST = (sure("\n"), sure("S"))


def test_the_score_is_the_share_of_unsafe_among_the_verdicts() -> None:
    verdict = read(
        ("unsafe", {"unsafe": 0.6, "safe": 0.2, "I": 0.2}), *LIST, sure("1"), sure(END)
    )
    assert verdict.unsafe == pytest.approx(0.75)
    assert verdict.is_unsafe
    assert verdict.listed == ("S1",)


def test_tokens_that_begin_a_verdict_count_for_it() -> None:
    verdict = read(
        ("unsafe", {"unsafe": 0.3, "un": 0.3, "safe": 0.2}), *LIST, sure("1")
    )
    assert verdict.unsafe == pytest.approx(0.75)


def test_safe_content_has_scores_and_no_hazards() -> None:
    verdict = read(
        ("unsafe", {"safe": 0.98, "unsafe": 0.02}),
        *LIST,
        ("2", {"2": 0.5, "10": 0.5}),
        sure(END),
    )
    assert not verdict.is_unsafe
    assert not any(verdict.hazards.values())
    assert verdict.scores["S2"] == pytest.approx(0.01)
    assert verdict.scores["S10"] == pytest.approx(0.01)


def test_a_verdict_that_is_not_among_the_likeliest_is_as_likely_as_the_last() -> None:
    # `unsafe` was written, because the format asks for it.
    verdict = read(("unsafe", {"safe": 0.9, "I": 0.1}), *LIST, sure("1"))
    assert verdict.unsafe < 1e-8
    verdict = read(("unsafe", {"unsafe": 0.9, "I": 0.1}), *LIST, sure("1"))
    assert verdict.unsafe == pytest.approx(0.9)


def test_a_verdict_after_an_empty_line() -> None:
    verdict = read(
        ("\n\n", {"\n\n": 0.99, "safe": 0.01}), UNSAFE, *LIST, sure("1"), sure(END)
    )
    assert verdict.unsafe == pytest.approx(0.9)
    assert verdict.listed == ("S1",)


def test_an_empty_line_that_the_format_forced_has_no_verdict() -> None:
    # `safe` is not of the format, so the next likeliest token was written.
    verdict = read(
        ("\n\n", {"safe": 0.999, "\n\n": 0.0009, "unsafe": 0.0001}),
        ("unsafe", {"unsafe": 0.9, "safe": 0.1}),
        *LIST,
        sure("1"),
        sure(END),
    )
    assert verdict.unsafe == pytest.approx(0.0001, rel=0.01)


def test_shares_are_the_probabilities_of_lists() -> None:
    verdict = read(
        UNSAFE,
        *LIST,
        ("1", {"1": 0.5, "2": 0.3, "13": 0.2}),
        (",S", {",S": 0.6, END: 0.4}),
        ("2", {"2": 0.75, "3": 0.25}),
        (END, {END: 0.9, ",": 0.1}),
    )
    assert verdict.listed == ("S1", "S2")
    assert verdict.shares["S1"] == pytest.approx(0.5)
    assert verdict.shares["S2"] == pytest.approx(0.3 + 0.5 * 0.6 * 0.75)
    assert verdict.shares["S3"] == pytest.approx(0.5 * 0.6 * 0.25)
    assert verdict.shares["S13"] == pytest.approx(0.2)
    assert verdict.shares["S4"] == 0.0


def test_tokens_that_are_no_hazard_have_no_share() -> None:
    verdict = read(
        UNSAFE, *LIST, ("1", {"1": 0.4, "2": 0.4, "14": 0.1, "I": 0.1}), sure(END)
    )
    assert verdict.shares["S1"] == verdict.shares["S2"] == pytest.approx(0.5)
    assert "S14" not in verdict.shares


def test_numbers_of_several_tokens() -> None:
    verdict = read(
        UNSAFE,
        *LIST,
        ("1", {"1": 0.8, "2": 0.2}),
        ("0", {"0": 0.5, "3": 0.25, END: 0.25}),
        sure(END),
    )
    assert verdict.listed == ("S10",)
    assert verdict.shares["S10"] == pytest.approx(0.8 * 0.5)
    assert verdict.shares["S13"] == pytest.approx(0.8 * 0.25)
    assert verdict.shares["S1"] == pytest.approx(0.8 * 0.25)
    assert verdict.shares["S2"] == pytest.approx(0.2)


def test_a_hazard_counts_once_though_it_is_listed_twice() -> None:
    verdict = read(UNSAFE, *LIST, sure("1"), sure(","), sure("S"), sure("1"), sure(END))
    assert verdict.listed == ("S1",)
    assert verdict.shares["S1"] == pytest.approx(1.0)
    assert sum(verdict.shares.values()) == pytest.approx(1.0)


def test_the_end_may_come_without_a_token() -> None:
    ended = read(UNSAFE, *LIST, sure("1"), sure("3"), sure(END))
    assert read(UNSAFE, *LIST, sure("1"), sure("3")) == ended
    assert ended.listed == ("S13",)


@pytest.mark.parametrize("first", [1e-300, 1.0])
def test_extreme_probabilities_give_numbers(first: float) -> None:
    verdict = read(("unsafe", {"\n\n": 1.0, "unsafe": first}), *LIST, sure("1"))
    assert 0 <= verdict.unsafe <= 1


@pytest.mark.parametrize(
    "text",
    ["unsafe\nS1", "\n\nunsafe\nS13", "unsafe\nS10,S1", "unsafe\n" + ",".join(HAZARDS)],
)
def test_the_format_has_every_verdict_with_hazards(text: str) -> None:
    source = verdict_format(tuple(HAZARDS)).source
    assert re.fullmatch(source, text)
    assert len(text) < longest_verdict(tuple(HAZARDS))


@pytest.mark.parametrize(
    "text", ["safe", "unsafe", "unsafe\n", "unsafe\nS14", "unsafe\nS1,", "unsafe\nS1S2"]
)
def test_the_format_has_nothing_else(text: str) -> None:
    assert not re.fullmatch(verdict_format(tuple(HAZARDS)).source, text)
