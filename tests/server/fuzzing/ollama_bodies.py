"""Hostile bodies of Ollama's API."""

from __future__ import annotations

from hypothesis import strategies as st

from .grammar import (
    MODELS,
    NAMES,
    RATES,
    SCHEMA_VALUES,
    STOPS,
    TOOLS,
    Fields,
    maybe,
    some,
)
from .hostile_values import image_sources, numbers, texts, values

_OLLAMA_OPTIONS = some(
    {},
    {
        **dict.fromkeys(("temperature", "top_p", "min_p", "typical_p"), RATES),
        "repeat_penalty": RATES,
        **{
            name: numbers()
            for name in ("top_k", "seed", "num_ctx", "num_predict", "repeat_last_n")
        },
        "stop": STOPS,
        "mirostat": numbers(),
        "num_gpu": values(),
    },
)
_OLLAMA: Fields = {
    "options": maybe(_OLLAMA_OPTIONS),
    "stream": st.booleans(),
    "format": st.one_of(st.just("json"), SCHEMA_VALUES),
    "keep_alive": values(),
    "think": values(),
    "logprobs": st.booleans(),
    "top_logprobs": numbers(),
}
OLLAMA_CHAT = some(
    {
        "model": MODELS,
        "messages": maybe(
            st.lists(
                some(
                    {
                        "role": st.sampled_from(
                            ("user", "user", "assistant", "system", "tool", "x")
                        ),
                        "content": maybe(texts()),
                    },
                    {
                        "images": st.lists(image_sources(), max_size=2),
                        "tool_calls": st.lists(
                            some(
                                {
                                    "function": some(
                                        {"name": NAMES, "arguments": values()}, {}
                                    )
                                },
                                {},
                            ),
                            max_size=2,
                        ),
                        "tool_name": NAMES,
                        "thinking": texts(),
                    },
                    most=2,
                ),
                max_size=4,
            )
        ),
    },
    {**_OLLAMA, "tools": TOOLS},
)
OLLAMA_GENERATE = some(
    {"model": MODELS, "prompt": maybe(texts())},
    {
        **_OLLAMA,
        "system": texts(),
        "images": st.lists(image_sources(), max_size=2),
        "raw": st.booleans(),
        "template": texts(),
        "context": st.lists(numbers(), max_size=3),
        "suffix": texts(),
    },
)
