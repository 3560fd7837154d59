"""Regular expressions as grammars match what Python's ``re`` matches."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllama.grammars.json_text import character
from mllama.grammars.patterns import PatternError, search_match, whole_match
from tests.grammars.node_regex import matches

PATTERNS = [
    "a",
    "^a",
    "a$",
    "^a$",
    "^(a|b)$",
    "^a|b$",
    "(^a|b$)",
    "a*b+",
    "^a{2}$",
    "^a{1,2}b{0,}$",
    "^[ab]$",
    "^[^a]$",
    "[^ab]",
    "^.$",
    "^(?:ab)*$",
    "^(ab|c)+?$",
    "^\\S$",
    "^a\\\\b$",
    '^"$',
    "^$",
    "",
    "a|",
    "^[\\n\\t]$",
    "^(?P<x>a)b$",
    "^\\u0061$",
]
TEXTS = [
    "".join(each)
    for length in range(4)
    for each in itertools.product('abc\\"\n', repeat=length)
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_search_is_that_of_re(pattern: str) -> None:
    node = search_match(pattern)
    for text in TEXTS:
        # Python's $ also matches before a line's end.
        expected = re.search(pattern.replace("$", "\\Z"), text) is not None
        assert matches(node, text) == expected, text


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_whole_match_is_that_of_re(pattern: str) -> None:
    node = whole_match(pattern)
    for text in TEXTS:
        assert matches(node, text) == (re.fullmatch(pattern, text) is not None), text


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_hold_within_json_strings(pattern: str) -> None:
    node = search_match(pattern, character)
    for text in TEXTS:
        expected = re.search(pattern.replace("$", "\\Z"), text) is not None
        assert matches(node, json.dumps(text, ensure_ascii=False)[1:-1]) == expected, (
            text
        )


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_a_pattern_matches_is_in_its_grammar(data: st.DataObject) -> None:
    pattern = data.draw(
        st.sampled_from([r"^[a-z0-9_-]{3,16}$", r"^\d{4}-\d{2}$", r"[A-Z]+", r"^x?y*"])
    )
    text = data.draw(st.from_regex(re.compile(pattern, re.ASCII)))
    if re.search(pattern.replace("$", "\\Z"), text, re.ASCII):
        assert matches(search_match(pattern), text)


def test_classes_are_ascii() -> None:
    assert not matches(whole_match(r"\d"), "٣")
    assert not matches(whole_match(r"\w"), "é")
    assert matches(whole_match(r"\W"), "é")
    assert not matches(whole_match(r"\s"), "\u2028")


def test_any_character_is_one_of_all_planes() -> None:
    for text in ("a", "é", "\u20ac", "\U0001f600", "\x7f"):
        assert matches(whole_match("."), text)
    for text in ("\n", "\r", "\u2028", "\ud800"):
        assert not matches(whole_match("."), text)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "no regular expression"),
        ("a(?=b)", "look-ahead"),
        ("(?!a)b", "look-ahead"),
        (r"(a)\1", "back reference"),
        (r"\p{L}+", r"class \\p\{L\} of Unicode"),
        (r"a\\\PZ", r"class \\P of Unicode"),
        ("(?i)a", "flags"),
        ("(?i:a)", "flags"),
        ("a^b", "anchor"),
        (r"\bword", "anchor"),
        ("a{20000}", "times"),
        ("((a{200}){200}){200}", "times"),
        ("(?>a)", "atomic"),
    ],
)
def test_what_is_not_regular_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(PatternError, match=reason):
        search_match(pattern)


def test_a_backslash_before_p_is_no_class() -> None:
    assert matches(whole_match(r"\\p{2}"), "\\pp")


def test_pydantics_pattern_of_decimals_has_an_equivalent() -> None:
    pattern = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"
    node = search_match(pattern)
    for length in range(6):
        for each in itertools.product("+-.01", repeat=length):
            text = "".join(each)
            assert matches(node, text) == (re.search(pattern, text) is not None), text


def test_characters_of_json_are_escaped_as_json_escapes_them() -> None:
    node = whole_match(r"[\x00-\uffff]", character)
    for code in [*range(0x100), 0x2028, 0xFFFF]:
        assert matches(node, json.dumps(chr(code), ensure_ascii=False)[1:-1])
