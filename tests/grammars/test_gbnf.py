"""Grammars in GBNF mean what they say, and wrong ones are refused with the line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mllama.errors import RequestError
from mllama.grammars.convert import format_grammar
from tests.grammars.walking import Format

SQL = """
root ::= select_statement

select_statement ::= "SELECT " column " from " table " where " condition

column ::= "col_1 " | "col_2 "

table ::= "table_1 " | "table_2 "

condition ::= column "= " number

number ::= "1 " | "2 "
"""

JSON = r"""
# As llama.cpp's example.
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::=
  "[" ws (
            value
    ("," ws value)*
  )? "]" ws

string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws

number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [1-9]+)? ws

ws ::= | " " | "\n" [ \t]{0,20}
"""


@pytest.mark.parametrize(
    ("source", "texts", "others"),
    [
        (SQL, ["SELECT col_1  from table_2  where col_2 = 1 "], ["SELECT col_3 "]),
        (JSON, ['{"a": [1, 2.5e3, {"é": null}]}', "{}"], ["[1]", "{", '{"a" 1}']),
        # No character is taken that a later part needs.
        ('root ::= word "end"\nword ::= [a-z]+', ["xend", "endend"], ["end", "x"]),
        ('root ::= "a" "b" "d" | "ab" "c"', ["abd", "abc"], ["ab", "abdc"]),
        # Rules over several lines, names of all kinds, and repetitions.
        (
            'root ::= "a"\n  | "b" # b\n  | Value-2\nValue-2 ::= "c"{2} [^a-z]?',
            ["a", "b", "cc", "cc8"],
            ["c", "cca"],
        ),
        ('root ::= ("a"{2}){2,3} ("b"?)+', ["aaaa", "aaaaaab"], ["aaa", "aaaab8"]),
        ('root ::= "a"{2,} "b"', ["aab", "aaaaab"], ["ab"]),
        ('root ::= root "a" | "b"', ["b", "baa"], ["ab"]),
        ('root ::= | "x"', ["", "x"], ["xx"]),
        # Escapes, and sets with signs.
        (r'root ::= "\u00e9\n\x41\"\U0001F600"', ['é\nA"😀'], []),
        (r"root ::= [\u4e00-\u4e10\t] [^\n]", ["\u4e05a", "\t😀"], ["a", "\ta\n"]),
        (r"root ::= [-a] [a-] [\]\-^] .", ["-a]\n", "a-^x"], ["b"]),
        # What looks like a special token, or like Lark, is text.
        ('root ::= "<|eot_id|>" | "start: a"', ["<|eot_id|>", "start: a"], ["a"]),
    ],
)
def test_what_a_grammar_derives(
    source: str, texts: list[str], others: list[str]
) -> None:
    grammar = Format("grammar", source)
    for text in texts:
        assert grammar.accepts(text), text
    for text in others:
        assert not grammar.accepts(text), text


def test_walks_of_the_json_grammar_are_json() -> None:
    walks = [Format("grammar", JSON).walk(seed) for seed in range(8)]
    objects = [json.loads(text, strict=False) for text in walks if text is not None]
    assert objects
    assert all(isinstance(each, dict) for each in objects)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('root ::= "a" root', "has no text that ends"),
        ("root ::= []", "has no text that ends"),
        ('start ::= "a"', "has no rule root"),
        ('root ::= "a"\n  foo', "has no rule foo, in line 2"),
        ('root ::= "a"\nroot ::= "b"', "defines root again, in line 2"),
        ('root ::= "a', "has a wrong '\"', in line 1"),
        ("root ::= 'a'", 'has a wrong "\'", in line 1'),
        ('root ::= ("a"', "has a ( without a ), in line 1"),
        ('root ::= "a" )', "has ')' without an expression before it, in line 1"),
        ('root ::= *"a"', "has '*' without an expression before it, in line 1"),
        ('"a" root ::= "b"\nroot2 ::= "a"', "has 'a' before the first rule, in line 1"),
        ('root ::= (= "a") "a"', "has a look-ahead in line 1, which is not supported"),
        (r'root ::= "\d"', r"has an unknown escape \d, in line 1"),
        (r'root ::= "\ud800"', r"has \ud800, which is no character, in line 1"),
        ("root ::= [z-a]", "has the wrong range z-a, in line 1"),
        ('root ::= "a"{3,1}', "has a wrong '{3,1}', in line 1"),
        (
            'root ::= "a"{0,10001}',
            "repeats something more than 10000 times, in line 1",
        ),
    ],
)
def test_a_wrong_grammar_is_refused(source: str, reason: str) -> None:
    with pytest.raises(RequestError) as raised:
        format_grammar("grammar", source, is_strict=False, path="guided_grammar")
    assert str(raised.value) == f"guided_grammar {reason}"
    assert raised.value.param == "guided_grammar"


@pytest.mark.parametrize(
    "source",
    [
        "\n".join(
            [f"r{i} ::= r{i + 1} r{i + 1}" for i in range(40)]
            + ["root ::= r0", 'r40 ::= "a"']
        ),
        'root ::= "' + "a" * 20_000 + '"',
        'root ::= (.*){5} "x"',
        'root ::= ("a"?){10000}',
    ],
    ids=["doubled", "long", "ambiguous", "repeated"],
)
def test_a_large_grammar_takes_little_time(source: str) -> None:
    matcher = Format("grammar", source).matcher()
    assert matcher.bitmask(np.empty(0, np.int64)).any()
