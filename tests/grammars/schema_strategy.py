"""Draws JSON schemas over the keywords that docs/api.md lists as supported."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NAMES = st.sampled_from(["a", "b", "ab", "id", "x y", 'q"', "é", "", "name"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-1000, 1000)
    | st.integers(-400, 400).map(lambda each: each / 8)
    | st.text(max_size=6)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2)
    ),
    max_leaves=4,
)
PATTERNS = ["^[a-z]{2,4}$", "^x", "[0-9]+$", "^(a|bc)*$", '^"[^"]*"$', "a.c"]
FORMATS = ["date", "time", "date-time", "uuid", "ipv4", "ipv6", "email", "hostname"]


def _some(draw: Any, **keywords: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Returns some of the keywords with values."""
    return {key: draw(value) for key, value in keywords.items() if draw(st.booleans())}


@st.composite
def _strings(draw: Any) -> dict[str, Any]:
    kind = draw(st.sampled_from(["plain", "length", "pattern", "format"]))
    schema: dict[str, Any] = {"type": "string"}
    if kind == "length":
        least = draw(st.integers(0, 4))
        schema |= _some(
            draw,
            minLength=st.just(least),
            maxLength=st.integers(least, least + 5),
        )
    elif kind == "pattern":
        schema["pattern"] = draw(st.sampled_from(PATTERNS))
    elif kind == "format":
        schema["format"] = draw(st.sampled_from(FORMATS))
    return schema


@st.composite
def _numbers(draw: Any) -> dict[str, Any]:
    kind = draw(st.sampled_from(["integer", "number"]))
    bound = st.integers(-50, 50)
    if kind == "number":
        bound |= st.integers(-500, 500).map(lambda each: each / 10)
    low = draw(bound)
    high = draw(bound.filter(lambda each: each > low + 2))
    lower = draw(st.sampled_from(["minimum", "exclusiveMinimum"]))
    upper = draw(st.sampled_from(["maximum", "exclusiveMaximum"]))
    schema = {"type": kind} | _some(draw, **{lower: st.just(low), upper: st.just(high)})
    if kind == "integer" and draw(st.booleans()):
        schema["multipleOf"] = 1
    return schema


@st.composite
def _enumerations(draw: Any) -> dict[str, Any]:
    if draw(st.booleans()):
        return {"const": draw(VALUES)}
    return {"enum": draw(st.lists(VALUES, min_size=1, max_size=4))}


@st.composite
def _arrays(draw: Any, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    least = draw(st.integers(0, 3))
    schema = _some(
        draw,
        items=inner,
        prefixItems=st.lists(inner, min_size=1, max_size=2),
        minItems=st.just(least),
        maxItems=st.integers(least, least + 3),
    )
    if schema.get("maxItems") == 1:
        schema["uniqueItems"] = draw(st.booleans())
    return {"type": "array", **schema}


@st.composite
def _objects(draw: Any, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    if draw(st.integers(0, 3)) == 0:
        schema = _some(
            draw,
            additionalProperties=inner,
            maxProperties=st.integers(1, 3),
            minProperties=st.integers(0, 1),
            propertyNames=st.just({"pattern": "^[a-c]+$"}),
        )
        return {"type": "object", **schema}
    properties = draw(st.dictionaries(NAMES, inner, min_size=1, max_size=4))
    names = list(properties)
    schema = {"type": "object", "properties": properties}
    others = _some(
        draw,
        required=st.lists(st.sampled_from([*names, "other"]), unique=True, max_size=3),
        additionalProperties=st.booleans() | inner,
    )
    if others.get("additionalProperties") is False and "other" in others.get(
        "required", ()
    ):
        # No value would fit.
        others["required"].remove("other")
    return schema | others


@st.composite
def _combinations(draw: Any, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    kind = draw(st.sampled_from(["anyOf", "oneOf", "allOf", "types", "ref"]))
    if kind == "anyOf":
        return {"anyOf": draw(st.lists(inner, min_size=1, max_size=3))}
    if kind == "oneOf":
        tag = draw(st.sampled_from(["kind", "type"]))
        return {
            "oneOf": [
                {
                    "type": "object",
                    "properties": {tag: {"const": word}, "value": draw(inner)},
                    "required": [tag],
                    "additionalProperties": False,
                }
                for word in ("cat", "dog")
            ]
        }
    if kind == "allOf":
        low = draw(st.integers(-9, 9))
        return {
            "allOf": [{"type": ["integer", "null"]}, {"minimum": low}],
            "maximum": low + draw(st.integers(0, 20)),
        }
    if kind == "types":
        return {
            "type": draw(
                st.lists(
                    st.sampled_from(["string", "null", "boolean", "integer", "array"]),
                    min_size=1,
                    max_size=3,
                    unique=True,
                )
            ),
            "minLength": 1,
            "maxItems": 2,
        }
    return {"$ref": draw(st.sampled_from(["#/$defs/node", "#/$defs/word"]))}


_LEAVES = _strings() | _numbers() | _enumerations() | st.just({"type": "boolean"})

DEFINITIONS = {
    "word": {"type": "string", "pattern": "^[a-z]+$"},
    "node": {
        "type": "object",
        "properties": {
            "value": {"type": "integer"},
            "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
        },
        "required": ["value"],
        "additionalProperties": False,
    },
}
_LAST = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"type": "null"}},
    "required": ["value"],
    "additionalProperties": False,
}


def without_recursion(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns a schema some of whose values fit another one, which refers to itself."""
    last: dict[str, Any] = _LAST
    either = {"anyOf": [last, {"type": "null"}]}
    node = last | {"properties": {"value": {"type": "integer"}, "next": either}}
    return schema | {"$defs": DEFINITIONS | {"node": node}}


SCHEMAS = st.recursive(
    _LEAVES,
    lambda inner: _arrays(inner) | _objects(inner) | _combinations(inner),
    max_leaves=8,
).map(lambda schema: {**schema, "$defs": DEFINITIONS})
"""Schemas, in which each definition may be referred to."""
