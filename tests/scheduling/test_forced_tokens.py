"""Answers with forced tokens are those of decoding one by one, in any schedule."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mllama.max_compat.pipeline import pipeline_model
from mllama.requests.answers import Answers
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.events import Finished, Piece
from mllama.requests.messages import read_conversation
from mllama.requests.output_format import OutputFormat
from mllama.requests.preparation import PreparedRequest
from mllama.requests.request import GenerationRequest
from mllama.requests.sampling_params import Sampling
from mllama.runtime import forced_tokens

from .conftest import BATCH, ask
from .harness import WHOLE, Request, Scheduled

WHAT = "What is it?"


def schema(properties: dict[str, Any]) -> OutputFormat:
    source = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }
    return OutputFormat.json_schema(source, strict=True)


FORMATS = [
    schema(
        {
            "kind_of_thing": {"enum": ["circle", "square", "star"]},
            "is_it_visible": {"type": "boolean"},
            "how_many_of_them": {"type": "integer", "minimum": 0, "maximum": 9},
            "remark": {"type": "string", "maxLength": 12},
            "license": {"const": "all rights reserved"},
        }
    ),
    schema({"outer": {"const": {"inner": [1, 2, {"innermost": "\u2713 \U0001f600"}]}}}),
    schema(
        {
            "items": {
                "type": "array",
                "items": {"enum": ["alpha", "beta"]},
                "minItems": 4,
                "maxItems": 4,
            }
        }
    ),
    schema(
        {
            "a": {"anyOf": [{"const": "either one"}, {"const": "either two"}]},
            "b": {"type": "null"},
        }
    ),
    OutputFormat.regex("It is an? (circle|square), and that is all there is[.!]"),
    OutputFormat.choice(["A red circle.", "A red square.", "No."]),
    OutputFormat.grammar('start: "[" /[0-9]{2}/ (", and then " /[0-9]{2}/){3} "]"'),
]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.5, "top_k": -1, "seed": 5},
    {"temperature": 1.2, "seed": 6, "presence_penalty": 1.5},
    {"repetition_penalty": 1.3},
    {"temperature": 1.0, "seed": 7},
    {"min_tokens": 5},
    {"temperature": 2.0, "seed": 8},
]


@contextmanager
def one_by_one() -> Iterator[None]:
    """Gives each token a step of its own, within a ``with`` block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forced_tokens, "MAX_FORCED_TOKENS", 0)
        yield


def prepare(
    scheduled: Scheduled,
    number: int,
    *parts: Any,
    new_tokens: int = 150,
    **settings: Any,
) -> PreparedRequest:
    conversation = read_conversation(
        ask(*(parts or [f"Number {number}: {WHAT}"])),
        prepare=scheduled.tokenizer.prepare_image,
    )
    return scheduled.prepare(
        GenerationRequest(
            prompt=ChatPrompt(messages=conversation.messages),
            images=conversation.images,
            sampling=Sampling(max_new_tokens=new_tokens, **SETTINGS[number] | settings),
            output_format=FORMATS[number],
        )
    )


def submit(scheduled: Scheduled, number: int, *parts: Any, **settings: Any) -> Request:
    (context,) = prepare(scheduled, number, *parts, **settings).contexts
    return scheduled.submit_context(context)


def submit_all(scheduled: Scheduled) -> list[Request]:
    return [submit(scheduled, number) for number in range(len(FORMATS))]


def most_at_once(request: Request) -> int:
    return max(len(output.tokens) for output in request.outputs)


@pytest.fixture(scope="module")
def expected(roomy: Scheduled) -> list[list[int]]:
    """The answers, each alone and token by token."""
    answers = []
    with one_by_one():
        for number in range(len(FORMATS)):
            roomy.forget()
            request = submit(roomy, number)
            roomy.run()
            assert most_at_once(request) == 1
            answers.append(request.token_ids)
    return answers


@pytest.mark.parametrize("is_overlapped", [False, True])
def test_forced_tokens_take_no_step(
    roomy: Scheduled,
    tight: Scheduled,
    expected: list[list[int]],
    is_overlapped: bool,
) -> None:
    scheduled = tight if is_overlapped else roomy
    scheduled.forget()
    for number in range(len(FORMATS)):
        request = submit(scheduled, number)
        scheduled.run()
        assert request.token_ids == expected[number]
        assert request.status == "end_of_sequence"
        assert most_at_once(request) > 1
        assert len(request.outputs) <= 0.6 * len(request.token_ids)


def test_forced_tokens_share_batches_with_free_ones(
    tight: Scheduled,
    roomy: Scheduled,
    expected: list[list[int]],
    pictures: list[Image.Image],
) -> None:
    alone = roomy.alone(ask("How many?"))
    tight.forget()
    free = tight.submit(ask("How many?"))
    requests = submit_all(tight)
    tight.step()
    late = tight.submit(ask(pictures[0], "How many?"))
    tight.run()
    assert [each.token_ids for each in requests] == expected
    assert free.token_ids == alone
    assert late.token_ids == roomy.alone(ask(pictures[0], "How many?"))


def test_forced_tokens_see_the_images(
    tight: Scheduled, roomy: Scheduled, pictures: list[Image.Image]
) -> None:
    parts = [pictures[0], "and", pictures[2], WHAT]
    with one_by_one():
        roomy.forget()
        reference = submit(roomy, 0, *parts)
        roomy.run()
    tight.forget()
    request = submit(tight, 0, *parts)
    tight.run()
    assert request.token_ids == reference.token_ids
    assert len(request.outputs) < len(reference.outputs)


@pytest.mark.parametrize("chunk", [3, 7])
def test_a_step_with_little_room_computes_forced_tokens_in_parts(
    tight: Scheduled, expected: list[list[int]], chunk: int
) -> None:
    tight.forget()
    tight.chunk_size(chunk)
    chunked = 0
    try:
        requests = submit_all(tight)[:3]
        while any(request.status is None for request in requests):
            tight.step()
            chunked += any(
                request.context.tokens.generated_length
                and request.context.tokens.active_length > chunk
                for request in requests
            )
        tight.run()
    finally:
        tight.chunk_size(WHOLE)
    assert chunked
    assert [each.token_ids for each in requests] == expected[:3]


@pytest.mark.parametrize("steps", range(1, 6))
def test_a_preempted_answer_goes_on_after_its_forced_tokens(
    tight: Scheduled, expected: list[list[int]], steps: int
) -> None:
    tight.forget()
    requests = submit_all(tight)
    while not requests[-1].token_ids:
        tight.step()
    for _ in range(steps):
        tight.step()
    for request in requests:
        if request.status is None:
            tight.preempt(request)
    tight.run()
    assert [each.token_ids for each in requests] == expected


def test_the_length_ends_an_answer_amid_forced_tokens(
    tight: Scheduled, expected: list[list[int]]
) -> None:
    tight.forget()
    lengths = range(1, 41)
    for start in range(0, len(lengths), BATCH):
        some = lengths[start : start + BATCH]
        requests = [submit(tight, 0, new_tokens=length) for length in some]
        tight.run()
        for length, request in zip(some, requests, strict=True):
            assert request.token_ids == expected[0][:length]
            assert request.status == "maximum_length"


def test_log_probabilities_are_those_of_each_token(
    tight: Scheduled, expected: list[list[int]]
) -> None:
    tight.forget()
    request = submit(tight, 0, logprobs=2)
    beside = submit(tight, 1)
    tight.run()
    assert request.token_ids == expected[0]
    assert len(request.log_probabilities) == len(expected[0])
    assert most_at_once(request) == 1
    assert beside.token_ids == expected[1]


def test_forced_tokens_fill_further_blocks_of_the_cache(
    tight: Scheduled, roomy: Scheduled
) -> None:
    """A block may end at any place of a run, and is cached with the right content."""
    page = tight.pipeline.kv_manager.params.page_size
    within: set[int] = set()
    requests = []
    # The prompts' last blocks have room for 3 to 60 tokens of the answer.
    for repeats in range(page // 3 - 22, page // 3 - 3, 6):
        text = "So " * repeats
        requests.append((text, submit(tight, 0, text)))
    tight.run()
    for text, request in requests:
        with one_by_one():
            roomy.forget()
            reference = submit(roomy, 0, text)
            roomy.run()
        assert request.token_ids == reference.token_ids
        assert len(request.outputs) < len(reference.outputs)
        ends = request.prompt_length + np.cumsum(
            [len(o.tokens) for o in request.outputs]
        )
        # The tokens of an output are computed together, except the first output's.
        within.update(
            page - start
            for start, end in pairwise(ends.tolist())
            if start < page < end - 1
        )
        # The next turn of the conversation reads the blocks of the answer.
        answer = roomy.tokenizer.delegate.decode(
            request.token_ids, skip_special_tokens=True
        )
        turns = [*ask(text), {"role": "assistant", "content": answer}, *ask(WHAT)]
        (again,) = tight.answers([turns])
        assert again == roomy.alone(turns)
    assert len(within) > 1


def test_the_events_of_an_answer_have_all_of_its_tokens(
    tight: Scheduled, expected: list[list[int]]
) -> None:
    tight.forget()
    prepared = prepare(tight, 0)
    request = tight.submit_context(prepared.contexts[0])
    tight.run()
    answers = Answers(prepared, tight.tokenizer, 0.0)
    events = [
        event for each in request.outputs for event in answers.receive(0, [each], 1.0)
    ]
    pieces = [event for event in events if isinstance(event, Piece)]
    assert [token for piece in pieces for token in piece.token_ids] == expected[0]
    text = tight.tokenizer.delegate.decode(expected[0], skip_special_tokens=True)
    assert "".join(piece.text for piece in pieces) == text
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.reason, end.completion_tokens) == ("stop", len(expected[0]))


def test_a_step_that_fails_leaves_the_other_answers_as_they_were(
    tight: Scheduled, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tight.forget()
    requests = submit_all(tight)
    bad = requests[1].id
    model = pipeline_model(tight.pipeline)
    execute = model.execute
    failures = 0

    def failing(model_inputs: Any) -> Any:
        nonlocal failures
        for context in model_inputs.batch:
            forced = (
                context.tokens.generated_length and context.tokens.active_length > 1
            )
            if context.request_id == bad and forced:
                failures += 1
                raise RuntimeError("out of memory")
        return execute(model_inputs)

    monkeypatch.setattr(model, "execute", failing)
    tight.run()
    assert failures
    assert requests[1].status == "failed"
    for number, request in enumerate(requests):
        if number != 1:
            assert request.token_ids == expected[number]
