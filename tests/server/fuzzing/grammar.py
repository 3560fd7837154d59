"""Parts of hostile requests that all APIs share, and how to put them together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from .bulky_values import bulky_tools
from .hostile_values import numbers, schemas, texts, values

MODEL = "mllama-demo"

MODELS = st.sampled_from(
    (MODEL, MODEL, MODEL, "", "llama3.2-vision", "nobody", "\ud800", "a/b:c")
)
SCHEMA_VALUES = schemas()
NAMES = st.one_of(st.sampled_from(("look", "get_weather")), texts())
ARGUMENTS = st.sampled_from(
    (
        *("{}", '{"at": 1}', "[]", "1", "", "null", "{", '{"a": "\ud800"}', "{" * 300),
        *("[" * 199 + "]" * 199, '{"a":' * 300 + "1" + "}" * 300, "1" * 5000),
        *('{"a": 1, "a": 2}', '{"' + "k" * 5000 + '": 1}', "{}" + " " * 5000),
    )
)
RATES = st.one_of(
    st.sampled_from((1, 0.5, 0.9)), st.sampled_from((0, 1e-30, 2, "0.3")), numbers()
)
STOPS = st.one_of(
    st.sampled_from(("a", ["a", "b"], [], "", ["\x00"], ["\ud800"], ["x" * 3000])),
    st.lists(texts(), max_size=40),
)
LENGTHS = st.one_of(st.integers(1, 8), st.sampled_from((0, -1, 10**9)), numbers())

Fields = Mapping[str, SearchStrategy[Any]]


@st.composite
def some(draw: DrawFn, required: Fields, optional: Fields, most: int = 4) -> Any:
    """An object with all required and some optional fields, in any order."""
    names = draw(
        st.lists(st.sampled_from(sorted(optional)), max_size=most, unique=True)
        if optional
        else st.just([])
    )
    return {
        name: draw(kind)
        for name, kind in (
            *required.items(),
            *((name, optional[name]) for name in names),
        )
    }


def kind(name: str) -> Fields:
    return {"type": st.just(name)}


@st.composite
def maybe(draw: DrawFn, good: SearchStrategy[Any]) -> Any:
    """Mostly a good value, sometimes any."""
    return draw(values() if draw(rarely(10)) else good)


def rarely(cases: int) -> SearchStrategy[bool]:
    """True once in so many cases; Hypothesis prefers the ends of ranges of numbers."""
    return st.sampled_from((*(False,) * (cases - 1), True))


_TOOL = st.one_of(
    some(
        {
            "type": st.just("function"),
            "function": some(
                {"name": NAMES},
                {
                    "description": texts(),
                    "parameters": SCHEMA_VALUES,
                    "strict": st.sampled_from((True, False, None)),
                },
            ),
        },
        {},
    ),
    some(
        {"name": NAMES, "input_schema": SCHEMA_VALUES},
        {
            "description": texts(),
            "strict": st.booleans(),
            "type": texts(),
            "input_examples": st.lists(values(), max_size=2),
            "eager_input_streaming": st.booleans(),
        },
    ),
    some({"type": st.just("function"), "name": NAMES}, {"parameters": SCHEMA_VALUES}),
)
TOOLS = st.one_of(*(st.lists(_TOOL, max_size=3),) * 4, bulky_tools())
TOOL_CHOICES = st.one_of(
    st.sampled_from(("auto", "none", "required", {"type": "any"}, {"type": "auto"})),
    NAMES.map(lambda name: {"type": "function", "function": {"name": name}}),
    NAMES.map(lambda name: {"type": "tool", "name": name}),
    NAMES.map(lambda name: {"type": "function", "name": name}),
)
SAMPLING: Fields = {
    **dict.fromkeys(
        (
            *("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty"),
            *("repetition_penalty", "repeat_penalty"),
        ),
        RATES,
    ),
    "top_k": numbers(),
    "seed": numbers(),
    "stop": STOPS,
    "stop_token_ids": st.one_of(st.lists(numbers(), max_size=3), values()),
    "ignore_eos": st.booleans(),
    "min_tokens": numbers(),
    "logit_bias": st.dictionaries(
        st.sampled_from(("0", "5", "99999", "-1", "a", "")), numbers(), max_size=3
    ),
}
