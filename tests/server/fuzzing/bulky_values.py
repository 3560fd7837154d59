"""Values that are long, many or deep: what costs time grows with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

_UNITS = (
    *(
        "a",
        "0",
        "9",
        " ",
        "\n",
        "\t",
        "\\",
        '"',
        "'",
        "<",
        ">",
        "&",
        "`",
        "*",
        "#",
        "|",
    ),
    *("é", "\u0301", "\u200d", "\ufeff", "\x00", "\ud800", "🦙", "字", "\u2028"),
    *(
        "(",
        "[",
        "{",
        "{{",
        "{%",
        "((",
        "[]",
        "{}",
        "()",
        "a?",
        "a|",
        "-",
        "+",
        "%",
        "$",
    ),
    *("<!---->", "<!--", "-->", "/**/", "//", "{# #}", "<a>", "</s>", "&amp;", "<|"),
    *("<|image|>", "<|eot_id|>", "\r\n", "ab ", "1e", "0.", "\\u0000", "data: \n\n"),
)
_TIMES = (50, 500, 5_000, 60_000)

_KEYS = ("k" * 64, "k" * 65, "k" * 5_000, "é" * 3_000, " " * 300, "\\" * 300, "." * 300)


def runs() -> SearchStrategy[str]:
    """One character, digit, comment or the like, many times, perhaps with an end."""
    return st.builds(
        lambda unit, times, end: unit * (times // len(unit) or 1) + end,
        st.sampled_from(_UNITS),
        st.sampled_from(_TIMES),
        st.sampled_from(("", "", "!", "b", '"}', "-->")),
    )


_Wrap = Callable[[Any], Any]

_LEVELS: Mapping[str, _Wrap] = {
    "list": lambda inner: [inner],
    "object": lambda inner: {"a": inner},
    "sibling": lambda inner: [0, inner, {}],
    "long key": lambda inner: {"k" * 100: inner, "b": []},
    "array schema": lambda inner: {"type": "array", "items": inner},
    "object schema": lambda inner: {"type": "object", "properties": {"a": inner}},
    "required": lambda inner: {
        "type": "object",
        "properties": {"a": inner},
        "required": ["a"],
    },
    "any": lambda inner: {"anyOf": [inner, {"type": "null"}]},
    "all": lambda inner: {"allOf": [inner]},
    "not": lambda inner: {"not": inner},
    "definitions": lambda inner: {"$defs": {"a": inner}, "$ref": "#/$defs/a"},
    "tuple": lambda inner: {"type": "array", "prefixItems": [inner, inner]},
    "text": lambda inner: {"type": "text", "text": "a", "content": [inner]},
}


@st.composite
def nested(draw: DrawFn) -> Any:
    """Objects and lists in each other, in a repeated pattern, around the limit."""
    names = draw(st.lists(st.sampled_from(sorted(_LEVELS)), min_size=1, max_size=4))
    # One of these doubles with each level.
    levels = 12 if "tuple" in names else draw(st.sampled_from((5, 40, 90, 195, 250)))
    value: Any = draw(st.sampled_from(({}, [], {"type": "string"}, 1, "a", None)))
    for level in range(levels):
        value = _LEVELS[names[level % len(names)]](value)
    return value


@st.composite
def bulky_schemas(draw: DrawFn) -> Any:
    """Parameters of a tool with long keys, many properties, or deep ones."""
    key = draw(st.sampled_from(_KEYS))
    count = draw(st.sampled_from((1, 30, 300)))
    many = {f"{key[:200]}{number}": {"type": "string"} for number in range(count)}
    run = draw(runs())
    bulky = (
        {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]},
        {"type": "object", "properties": many, "required": sorted(many)},
        {"type": "object", "properties": many, "additionalProperties": False},
        {"type": "object", "properties": {"a": {"enum": sorted(many)}}},
        {"type": "object", "properties": {"a": {"const": run}}},
        {"type": "object", "properties": {"a": {"pattern": run[:5_000]}}},
        {"type": "object", "description": run, "title": key},
        {"$defs": {key: {"type": "string"}}, "$ref": f"#/$defs/{key}"},
        {"$ref": "#/" + "a/" * count},
        draw(nested()),
    )
    return draw(st.sampled_from(bulky))


@st.composite
def bulky_tools(draw: DrawFn) -> Any:
    """Tools whose names, descriptions or parameters are long, many or deep."""
    name = draw(st.sampled_from(("look", *_KEYS)))
    function = {
        "name": name,
        "description": draw(st.sampled_from(("", "a" * 5_000, "<!---->" * 500))),
        "parameters": draw(bulky_schemas()),
    }
    tool = draw(
        st.sampled_from(
            (
                {"type": "function", "function": function},
                {"type": "function", **function},
                {"name": name, "input_schema": function["parameters"]},
            )
        )
    )
    return [tool] * draw(st.sampled_from((1, 1, 1, 20, 600)))


@st.composite
def bulky(draw: DrawFn) -> Any:
    """Any value that is long, deep, or has much in it."""
    number = draw(st.sampled_from((1e10, 10**399, -(10**399), 10**401, 10**4000)))
    count = draw(st.sampled_from((100, 5_000, 30_000)))
    return draw(
        st.one_of(
            runs(),
            nested(),
            bulky_schemas(),
            st.sampled_from(
                (
                    number,
                    [number] * 50,
                    [0] * count,
                    ["a"] * count,
                    [{}] * count,
                    [[]] * count,
                    {f"k{each}": 0 for each in range(count)},
                    {each: each for each in _KEYS},
                )
            ),
        )
    )


@st.composite
def with_double_keys(draw: DrawFn, encoded: bytes) -> bytes:
    """A body with a key twice in one of its objects, or in one that is added.

    Before the second one there are none or many, and its escape may be another.
    """
    count = draw(st.sampled_from((0, 1, 100, 20_000)))
    key = draw(
        st.sampled_from(("a", "", "k" * 3_000, "\ud800", "é", "messages", "model"))
    )
    first = json.dumps(key)
    second = draw(
        st.sampled_from(
            (
                first,
                first,
                '"' + "".join(f"\\u{ord(each):04x}" for each in key[:500]) + '"',
                first[:-1] + ' "',
            )
        )
    )
    between = "".join(f'"k{each}": 0, ' for each in range(count))
    double = f"{{{first}: 1, {between}{second}: 2}}"
    depth = draw(st.sampled_from((0, 1, 50, 150)))
    inner = "[" * depth + double + "]" * depth
    added = draw(
        st.sampled_from(
            (
                inner,
                f"[{', '.join([inner] * 3)}]",
                f'{{"a": [], "b": {inner}}}',
                double,
            )
        )
    )
    places = [place for place, each in enumerate(encoded) if each == ord("{")]
    if not places:
        return added.encode()
    place = draw(st.sampled_from(places)) + 1
    empty = encoded[place : place + 1] == b"}"
    name = draw(st.sampled_from(("x", "metadata", "parameters", "properties")))
    member = f'"{name}": {added}' + ("" if empty else ", ")
    return encoded[:place] + member.encode() + encoded[place:]
