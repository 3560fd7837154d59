"""Matchers follow answers, and give up what takes too much."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest

from mllama.errors import RequestError
from mllama.requests.answer_matcher import (
    GrammarError,
)
from mllama.requests.engine_settings import EngineSettings
from mllama.requests.format_grammars import FormatGrammars
from mllama.requests.output_format import OutputFormat
from mllama.requests.token_bytes import TokenBytes
from mllama.requests.token_grammars import (
    LIMITS,
    MAX_KEPT,
    MAX_KEPT_CHARACTERS,
    TokenGrammars,
)
from tests.grammars.walking import allowed, demo_grammars, demo_tokenizer, end_token

DIGITS = "start: /[0-9]{4}/"


def token(text: str) -> int:
    (found,) = demo_tokenizer().encode(text, add_special_tokens=False)
    return int(found)


def test_an_answer_may_go_on_from_an_earlier_one() -> None:
    matcher = demo_grammars().matcher('start: "a" "b" "c" /[0-9]/ | "a" "d"')
    a, b, c, d = map(token, "abcd")
    assert allowed(matcher, [a, b]) == [c]
    assert allowed(matcher, [a, b, c]) != []
    # A step that ran ahead was discarded.
    assert d in allowed(matcher, [a])
    assert allowed(matcher, [a, d]) == [end_token()]
    assert allowed(matcher, [a, b]) == [c]
    assert a in allowed(matcher, [])


def test_only_ends_follow_what_is_complete() -> None:
    matcher = demo_grammars().matcher(DIGITS)
    tokens: list[int] = []
    while end_token() not in allowed(matcher, tokens):
        options = allowed(matcher, tokens)
        assert not set(options) & set(demo_tokenizer().all_special_ids)
        tokens.append(options[0])
    assert allowed(matcher, tokens) == [end_token()]
    assert len(demo_tokenizer().decode(tokens)) == 4


def test_tokens_that_may_follow_are_counted() -> None:
    matcher = demo_grammars().matcher('start: "a" "b" "c" | "a" "d"')
    a, b, c, d = map(token, "abcd")

    def count(answer: list[int], tokens: list[int]) -> int:
        found = matcher.allowed_count(
            np.array(answer, np.int64), np.array(tokens, np.int64)
        )
        # Nothing has been added to the answer.
        assert allowed(matcher, [a, d]) == [end_token()]
        return found

    assert count([], [a, b, c]) == 3
    assert count([], [a, d, c]) == 2
    assert count([a], [c, b]) == 0
    assert count([a, b], [c, c]) == 1
    assert count([a], []) == 0
    # Ends, images and what isn't of the grammar end the count.
    assert count([a], [b, c, end_token()]) == 2
    assert count([a], [10**6]) == 0
    assert count([a], [len(demo_tokenizer())]) == 0
    # The answer isn't one of the grammar's.
    assert matcher.allowed_count(np.array([c]), np.array([a])) == 0


def test_a_token_is_forced_where_a_grammar_leaves_one() -> None:
    matcher = demo_grammars().matcher('start: "Hello there: " ("yes" | "no")')
    answer: list[int] = []
    while (forced := matcher.forced_token(np.array(answer, np.int64))) is not None:
        assert allowed(matcher, answer) == [forced]
        answer.append(forced)
    assert "Hello there:".startswith(demo_tokenizer().decode(answer).strip())
    assert len(answer) > 1
    assert len(allowed(matcher, answer)) > 1


def test_the_end_is_forced_where_an_answer_has_no_other_token() -> None:
    matcher = demo_grammars().matcher('start: "a" "b"?')
    a, b = map(token, "ab")
    assert matcher.forced_token(np.array([a], np.int64)) is None
    assert matcher.forced_token(np.array([a, b], np.int64)) == end_token()


def test_nothing_is_forced_where_the_mask_is_an_error() -> None:
    matcher = demo_grammars().matcher(DIGITS)
    wrong = np.array([token("x")], np.int64)
    assert matcher.forced_token(wrong) is None
    with pytest.raises(GrammarError):
        matcher.bitmask(wrong)


def test_every_bit_of_a_mask_is_a_token() -> None:
    """A token at the sign of a word too."""
    matcher = demo_grammars().matcher(DIGITS)
    for forced in (0, 30, 31, 32, 63, len(demo_tokenizer()) - 1):
        mask = np.zeros(len(demo_tokenizer()) // 32 + 1, np.uint32)
        mask[forced // 32] = np.uint32(1 << forced % 32)
        matcher.bitmask = lambda _, mask=mask: mask.view(np.int32)  # type: ignore[method-assign]
        assert matcher.forced_token(np.empty(0, np.int64)) == forced


def test_a_mask_is_computed_once() -> None:
    matcher = demo_grammars().matcher(DIGITS)
    digit = np.array([token("1")], np.int64)
    first = matcher.bitmask(digit)
    assert matcher.bitmask(digit.copy()) is first
    other = matcher.bitmask(np.empty(0, np.int64))
    again = matcher.bitmask(digit)
    assert again is not first
    assert (again == first).all()
    assert not first.flags.writeable
    assert other is not again


def test_a_token_that_does_not_fit_is_an_error() -> None:
    matcher = demo_grammars().matcher(DIGITS)
    with pytest.raises(GrammarError):
        matcher.bitmask(np.array([token("x")], np.int64))


MANY_STATES = "start: /[ab]*a[ab]{12}c/"
"""A grammar with thousands of states, of which an answer needs few."""


def random_texts(length: int, count: int) -> list[list[int]]:
    random, pair = np.random.default_rng(0), [token("a"), token("b")]
    return random.choice(pair, (count, length)).tolist()


@pytest.fixture
def few_states(monkeypatch: pytest.MonkeyPatch) -> TokenGrammars:
    monkeypatch.setitem(LIMITS, "max_lexer_states", 500)
    return TokenGrammars(demo_tokenizer(), [end_token()])


def test_what_other_answers_needed_is_no_error(few_states: TokenGrammars) -> None:
    a, b = token("a"), token("b")
    for text in random_texts(100, 50):
        matcher = few_states.matcher(MANY_STATES)
        for length in range(0, 100, 10):
            assert {a, b} <= set(allowed(matcher, text[:length]))


def test_wrong_guesses_are_no_error(few_states: TokenGrammars) -> None:
    a, b = token("a"), token("b")
    matcher = few_states.matcher(MANY_STATES)
    answer = np.array([a, b])
    for text in random_texts(100, 50):
        assert {a, b} <= set(allowed(matcher, answer))
        matcher.allowed_count(answer, np.array(text))
    assert {a, b} <= set(allowed(matcher, [*answer, b]))


@pytest.mark.parametrize("name", ["<|eot_id|>", "<|image|>", "<|python_tag|>"])
def test_names_of_special_tokens_are_text_in_a_grammar(name: str) -> None:
    matcher = demo_grammars().matcher(f'start: "{name}" "x"')
    tokens: list[int] = []
    while end_token() not in (options := allowed(matcher, tokens)):
        assert not set(options) & set(demo_tokenizer().all_special_ids)
        tokens.append(options[0])
    assert b"".join(map(TokenBytes(demo_tokenizer()), tokens)) == f"{name}x".encode()


@pytest.mark.parametrize("grammar", ["nonsense", "start: A", "start: start"])
def test_what_is_no_grammar_is_refused(grammar: str) -> None:
    with pytest.raises(GrammarError) as raised:
        demo_grammars().matcher(grammar).bitmask(np.empty(0, np.int64))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "grammar",
    [
        # A text without an end, and more that may be next than the parser keeps.
        'start: "a" start',
        "start: /[ab]/ (" + " | ".join(f'"{n}"' for n in range(2500)) + ")",
    ],
)
def test_a_grammar_that_fails_in_use_is_refused_before(grammar: str) -> None:
    with pytest.raises(RequestError) as raised:
        made(OutputFormat.grammar(grammar, path="guided_grammar"))
    assert raised.value.param == "guided_grammar"
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "grammar",
    [
        'start: <|image|> "x"',
        'start: "a" <|eot_id|> "x"',
        'start: <|python_tag|> "x"',
        "start: <|end_of_text|>",
    ],
)
def test_a_grammar_that_needs_a_special_token_is_refused(grammar: str) -> None:
    with pytest.raises(
        RequestError, match="no token can go on, and the answer can't end"
    ):
        made(OutputFormat.grammar(grammar, path="guided_grammar"))


def test_no_special_token_is_allowed_but_an_end_where_the_grammar_has_one() -> None:
    matcher = demo_grammars().matcher('start: ("a" | <[*]>) ("b" | <|eot_id|> "c")?')
    special = set(demo_tokenizer().added_tokens_decoder)
    assert not special & set(allowed(matcher, []))
    assert special & set(allowed(matcher, [token("a")])) == {end_token()}


def test_the_check_of_a_grammar_ends_with_its_texts() -> None:
    for grammar in ('start: "a"', 'start: "a" | "aa"', 'start: ""', "start: /a*/"):
        demo_grammars().check(grammar, 10)


def test_few_grammars_are_kept() -> None:
    grammars = demo_grammars()
    for number in range(3 * MAX_KEPT):
        grammars.matcher(f'start: "{number}"')
    assert len(grammars._kept) == MAX_KEPT


def test_large_grammars_make_room_for_each_other() -> None:
    grammars = demo_grammars()
    texts = "".join(f'| "{number:030}"' for number in range(1000))
    for number in range(6):
        grammars.matcher(f'start: "{number}" {texts}')
    others = sum(map(len, list(grammars._kept)[:-1]))
    assert 0 < others <= MAX_KEPT_CHARACTERS < others + 2 * len(texts)


def made(output_format: OutputFormat) -> str:
    grammars = FormatGrammars(demo_grammars)
    return asyncio.run(grammars.grammar(output_format))


def test_a_format_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = FormatGrammars(demo_grammars)
    first = asyncio.run(grammars.grammar(OutputFormat.regex("a+")))
    monkeypatch.setattr(grammars, "_made", None)
    assert asyncio.run(grammars.grammar(OutputFormat.regex("a+"))) is first


def test_the_kept_grammars_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllama.requests.format_grammars.MAX_KEPT_CHARACTERS", 100)
    grammars = FormatGrammars(demo_grammars)
    for number in range(20):
        asyncio.run(grammars.grammar(OutputFormat.regex(f"a{{{number}}}b")))
    assert 0 < len(grammars._kept) < 10


def _growing() -> dict[str, Any]:
    """Returns a schema whose combinations are all subsets of its definitions."""
    definitions = {
        f"d{n}": {
            "type": "object",
            "properties": {
                f"x{m}": {
                    "allOf": [
                        {"$ref": f"#/$defs/d{(n + 1) % 20}"},
                        {"$ref": f"#/$defs/d{(n + 2) % 20}"},
                    ]
                }
                for m in range(3)
            },
        }
        for n in range(20)
    }
    return {"$ref": "#/$defs/d0", "$defs": definitions}


@pytest.mark.parametrize(
    "schema",
    [
        _growing(),
        {"allOf": [{"anyOf": [{"minimum": n} for n in range(10)]} for _ in range(6)]},
        {
            "$defs": {
                **{
                    f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2}
                    for n in range(30)
                },
                "d30": {},
            },
            "$ref": "#/$defs/d0",
        },
    ],
)
def test_a_hostile_schema_is_given_up(schema: Any) -> None:
    started = time.process_time()
    with pytest.raises(RequestError):
        made(OutputFormat.json_schema(schema))
    assert time.process_time() - started < 20


@pytest.mark.parametrize(
    "output_format",
    [
        OutputFormat.regex("((((a*)*)*)*)*b"),
        OutputFormat.regex("(a|aa)+$"),
        OutputFormat.regex("(.{0,100}){0,100}"),
        OutputFormat.json_schema({"type": "string", "pattern": "(a|b)*a(a|b){60}$"}),
        OutputFormat.json_schema({"enum": [f"value {n}" for n in range(3000)]}),
    ],
)
def test_what_other_engines_take_long_for_is_fast(output_format: OutputFormat) -> None:
    started = time.process_time()
    made(output_format)
    assert time.process_time() - started < 20


def test_a_gpu_needs_sampling_on_the_host() -> None:
    settings = EngineSettings(vocabulary=10, max_length=10, output_formats=False)
    with pytest.raises(RequestError, match="--sample-on-host") as raised:
        settings.check_format(OutputFormat.json_object(path="response_format"))
    assert raised.value.param == "response_format"
