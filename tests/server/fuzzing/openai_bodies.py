"""Hostile bodies of OpenAI's API."""

from __future__ import annotations

from hypothesis import strategies as st

from .grammar import (
    ARGUMENTS,
    LENGTHS,
    MODELS,
    NAMES,
    RATES,
    SAMPLING,
    SCHEMA_VALUES,
    TOOL_CHOICES,
    TOOLS,
    Fields,
    kind,
    maybe,
    some,
)
from .hostile_values import image_sources, numbers, texts, values

_OPENAI: Fields = {
    **SAMPLING,
    "max_tokens": LENGTHS,
    "stream": st.booleans(),
    "stream_options": st.sampled_from(({}, {"include_usage": True}, None, 1)),
    "n": st.one_of(st.integers(1, 3), numbers()),
    "prompt_logprobs": st.one_of(st.integers(0, 3), numbers()),
    "user": texts(),
    "metadata": values(),
    "response_format": st.one_of(
        st.sampled_from(({"type": "text"}, {"type": "json_object"})),
        SCHEMA_VALUES.map(
            lambda schema: {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": schema},
            }
        ),
    ),
    "guided_regex": texts(),
    "structured_outputs": values(),
    "priority": numbers(),
}

OPENAI_PART = st.one_of(
    some({**kind("text"), "text": texts()}, {}),
    some(
        {
            **kind("image_url"),
            "image_url": st.one_of(
                image_sources(), image_sources().map(lambda url: {"url": url})
            ),
        },
        {},
    ),
    values(),
)
_CALL = some(
    {
        "id": st.sampled_from(("c", "c1", "", "\ud800")),
        "type": st.just("function"),
        "function": some({"name": NAMES, "arguments": maybe(ARGUMENTS)}, {}),
    },
    {},
)
_OPENAI_MESSAGE = some(
    {
        "role": st.sampled_from(
            ("user", "user", "user", "system", "assistant", "tool", "developer", "x")
        ),
        "content": maybe(st.one_of(texts(), st.lists(OPENAI_PART, max_size=3))),
    },
    {
        "tool_calls": st.lists(_CALL, max_size=2),
        "tool_call_id": st.sampled_from(("c", "c1", "\ud800")),
        "name": texts(),
        "refusal": texts(),
        "images": st.lists(image_sources(), max_size=2),
    },
    most=2,
)
OPENAI_MESSAGES = st.lists(_OPENAI_MESSAGE, max_size=4)

_INDICES = st.one_of(
    st.sampled_from(("all", "last", "mean", "")),
    st.lists(st.one_of(st.integers(0, 9), numbers()), max_size=3),
    st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=2),
)
_MAPS = some({}, {"layers": _INDICES, "heads": _INDICES})

CHAT = some(
    {"model": MODELS, "messages": maybe(OPENAI_MESSAGES)},
    {
        **_OPENAI,
        "tools": TOOLS,
        "tool_choice": TOOL_CHOICES,
        "parallel_tool_calls": st.booleans(),
        "logprobs": st.booleans(),
        "top_logprobs": st.one_of(st.integers(0, 3), numbers()),
        "add_generation_prompt": st.booleans(),
        "continue_final_message": st.booleans(),
        "echo": st.booleans(),
        "attention": st.one_of(_MAPS, values()),
        "chat_template_kwargs": st.dictionaries(
            st.sampled_from(("date_string", "tools", "messages", "bos_token", "a")),
            values(),
            max_size=2,
        ),
    },
)
COMPLETION = some(
    {
        "model": MODELS,
        "prompt": maybe(
            st.one_of(
                texts(),
                st.lists(texts(), max_size=3),
                st.lists(numbers(), max_size=3),
                st.lists(st.lists(numbers(), max_size=3), max_size=3),
            )
        ),
    },
    {
        **_OPENAI,
        "echo": st.booleans(),
        "best_of": numbers(),
        "logprobs": st.one_of(st.integers(0, 3), numbers()),
        "suffix": texts(),
    },
)
_RESPONSE_ITEM = st.one_of(
    some(
        {
            "role": st.sampled_from(("user", "assistant", "system", "developer", "x")),
            "content": maybe(
                st.one_of(
                    texts(),
                    st.lists(
                        st.one_of(
                            some({**kind("input_text"), "text": texts()}, {}),
                            some(
                                {
                                    **kind("input_image"),
                                    "image_url": image_sources(),
                                },
                                {"detail": texts()},
                            ),
                            values(),
                        ),
                        max_size=3,
                    ),
                )
            ),
        },
        {"type": st.just("message"), "id": texts(), "status": texts()},
    ),
    some(
        {
            **kind("function_call"),
            "call_id": st.sampled_from(("c", "c1")),
            "name": NAMES,
            "arguments": ARGUMENTS,
        },
        {},
    ),
    some(
        {
            **kind("function_call_output"),
            "call_id": st.sampled_from(("c", "c1")),
            "output": texts(),
        },
        {},
    ),
)
RESPONSES = some(
    {
        "model": MODELS,
        "input": maybe(st.one_of(texts(), st.lists(_RESPONSE_ITEM, max_size=4))),
    },
    {
        "stream": st.booleans(),
        "instructions": texts(),
        "max_output_tokens": LENGTHS,
        "temperature": RATES,
        "top_p": RATES,
        "tools": TOOLS,
        "tool_choice": TOOL_CHOICES,
        "top_logprobs": numbers(),
        "include": st.lists(texts(), max_size=2),
        "metadata": values(),
        "text": SCHEMA_VALUES.map(
            lambda schema: {
                "format": {"type": "json_schema", "name": "a", "schema": schema}
            }
        ),
        "stream_options": values(),
        "truncation": texts(),
        "previous_response_id": texts(),
    },
)
