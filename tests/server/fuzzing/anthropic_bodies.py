"""Hostile bodies of Anthropic's API."""

from __future__ import annotations

from hypothesis import strategies as st

from .grammar import (
    LENGTHS,
    MODELS,
    NAMES,
    RATES,
    TOOL_CHOICES,
    TOOLS,
    Fields,
    kind,
    maybe,
    some,
)
from .hostile_values import image_sources, numbers, texts, values

_BLOCK = st.one_of(
    some({**kind("text"), "text": texts()}, {}),
    some(
        {
            **kind("image"),
            "source": st.one_of(
                image_sources().map(lambda url: {"type": "url", "url": url}),
                image_sources().map(
                    lambda data: {
                        "type": "base64",
                        "media_type": "image/png",
                        "data": data,
                    }
                ),
            ),
        },
        {},
    ),
    some(
        {
            **kind("tool_use"),
            "id": st.sampled_from(("t", "t1", "")),
            "name": NAMES,
            "input": values(),
        },
        {},
    ),
    some(
        {
            **kind("tool_result"),
            "tool_use_id": st.sampled_from(("t", "t1")),
            "content": st.one_of(texts(), st.lists(values(), max_size=2)),
        },
        {"is_error": st.booleans()},
    ),
    values(),
)
_ANTHROPIC_PROMPT: Fields = {
    "system": st.one_of(texts(), st.lists(_BLOCK, max_size=2)),
    "tools": TOOLS,
    "tool_choice": TOOL_CHOICES,
    "thinking": values(),
}
_ANTHROPIC_TURNS: Fields = {
    "model": MODELS,
    "messages": maybe(
        st.lists(
            some(
                {
                    "role": st.sampled_from(("user", "user", "assistant", "x")),
                    "content": maybe(st.one_of(texts(), st.lists(_BLOCK, max_size=3))),
                },
                {},
            ),
            max_size=4,
        )
    ),
}
MESSAGES = some(
    {**_ANTHROPIC_TURNS, "max_tokens": LENGTHS},
    {
        **_ANTHROPIC_PROMPT,
        "stream": st.booleans(),
        "temperature": RATES,
        "top_p": RATES,
        "top_k": numbers(),
        "stop_sequences": st.lists(texts(), max_size=3),
        "metadata": values(),
        "service_tier": texts(),
        "output_config": values(),
    },
)
COUNT = some(_ANTHROPIC_TURNS, _ANTHROPIC_PROMPT)
