"""Large answers are the same JSON, and other tasks run while they are written."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mllama.server.json_response import json_response, json_text

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('ab"\\é'), inner),
    max_leaves=30,
)


def body_of(value: Any) -> bytes:
    return bytes(asyncio.run(json_response(value)).body)


@given(VALUES)
def test_any_value_is_the_same(value: Any) -> None:
    assert json.loads(body_of(value)) == value


def test_long_lists_are_the_same() -> None:
    value = {"ids": list(range(10_000)), "texts": ["a"] * 4096, "none": [None] * 4097}
    assert json.loads(body_of(value)) == value


def test_parts_may_be_json_already() -> None:
    entry = {"token": "é", "bytes": [195, 169], "top": [{"logprob": -0.5}]}
    value = {"content": [entry] * 3, "entry": entry}
    made = {"content": [json_text(entry)] * 3, "entry": json_text(entry)}
    assert json.loads(body_of(made)) == value


def test_other_tasks_run_while_log_probabilities_are_written() -> None:
    top = [{"token": "a", "logprob": -1.25, "bytes": [97]}] * 20
    token = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": top}
    answer = {"choices": [{"index": 0, "logprobs": {"content": [token] * 4000}}]}

    async def run() -> list[float]:
        held = []
        # Each piece is a step of the same length, however many answers there are.
        ended = asyncio.gather(*(json_response(answer) for _ in range(6)))
        last = time.thread_time()
        while not ended.done():
            await asyncio.sleep(0)
            now = time.thread_time()
            held.append(now - last)
            last = now
        assert all(json.loads(each.body) == answer for each in ended.result())
        return held

    held = asyncio.run(run())
    assert len(held) > 20
    # But for the ends, which put the pieces together.
    assert sorted(held)[-7] < 0.05
