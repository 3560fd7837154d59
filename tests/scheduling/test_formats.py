"""Answers keep to their formats, however MAX schedules them, beside free ones."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from PIL import Image

from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.output_format import OutputFormat
from mllama.requests.request import GenerationRequest
from mllama.requests.sampling_params import Sampling

from .conftest import ask
from .harness import WHOLE, Request, Scheduled

SCHEMA = {
    "type": "object",
    "properties": {
        "shape": {"enum": ["circle", "square"]},
        "color": {"type": "string", "maxLength": 20},
        "count": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["shape", "color", "count"],
}
FORMATS = [
    OutputFormat.json_schema(SCHEMA, strict=True),
    OutputFormat.regex("[A-Z][a-z]{2,20}( [a-z]{2,20}){3}\\."),
    OutputFormat.choice(["A red circle.", "A red square.", "No."]),
    OutputFormat.grammar('start: "[" /[0-9]{1,5}/ (", " start)? "]"'),
]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.5, "top_k": -1, "seed": 5},
    {"temperature": 1.2, "top_p": 0.9, "seed": 6, "presence_penalty": 1.5},
    {"min_tokens": 5},
]


def submit(
    scheduled: Scheduled,
    output_format: OutputFormat | None,
    text: str = "What is it?",
    **settings: Any,
) -> Request:
    request = GenerationRequest(
        prompt=ChatPrompt(messages=ask(text)),
        sampling=Sampling(max_new_tokens=120, **settings),
        output_format=output_format,
    )
    (context,) = scheduled.prepare(request).contexts
    return scheduled.submit_context(context)


def text_of(scheduled: Scheduled, request: Request) -> str:
    text: str = scheduled.tokenizer.delegate.decode(
        request.token_ids, skip_special_tokens=True
    )
    return text


def submit_all(scheduled: Scheduled) -> list[Request]:
    return [
        submit(scheduled, each, f"What is in number {number}?", **settings)
        for number, (each, settings) in enumerate(zip(FORMATS, SETTINGS, strict=True))
    ]


@pytest.fixture(scope="module")
def expected(roomy: Scheduled) -> list[list[int]]:
    """The answers, each alone, where no step runs ahead."""
    answers = []
    for number, (each, settings) in enumerate(zip(FORMATS, SETTINGS, strict=True)):
        roomy.forget()
        request = submit(roomy, each, f"What is in number {number}?", **settings)
        roomy.run()
        answers.append(request.token_ids)
    return answers


def test_answers_have_their_formats(
    roomy: Scheduled, expected: list[list[int]]
) -> None:
    texts = [
        roomy.tokenizer.delegate.decode(each, skip_special_tokens=True)
        for each in expected
    ]
    jsonschema.validate(json.loads(texts[0]), SCHEMA)
    assert texts[2] in json.loads(FORMATS[2].source)
    assert texts[3].startswith("[")
    ends = set(roomy.tokenizer.eos_token_ids)
    # The last one has no end that a model can't put off.
    assert all(each[-1] in ends for each in expected[:3])
    assert all(not ends & set(each[:-1]) for each in expected)


def test_steps_that_run_ahead_keep_to_formats(
    tight: Scheduled, expected: list[list[int]]
) -> None:
    for number, (each, settings) in enumerate(zip(FORMATS, SETTINGS, strict=True)):
        tight.forget()
        request = submit(tight, each, f"What is in number {number}?", **settings)
        tight.run()
        assert request.token_ids == expected[number]


def test_formats_and_free_answers_share_batches(
    tight: Scheduled, expected: list[list[int]], pictures: list[Image.Image]
) -> None:
    alone = tight.alone(ask("How many?"))
    tight.forget()
    free = [tight.submit(ask("How many?")) for _ in range(2)]
    requests = submit_all(tight)
    tight.step()
    late = tight.submit(ask(pictures[0], "How many?"))
    tight.run()
    assert [each.token_ids for each in requests] == expected
    assert [each.token_ids for each in free] == [alone] * 2
    assert late.status is not None


def test_a_prompt_in_chunks_keeps_to_its_format(
    tight: Scheduled, expected: list[list[int]]
) -> None:
    tight.chunk_size(7)
    try:
        tight.forget()
        requests = submit_all(tight)
        tight.run()
    finally:
        tight.chunk_size(WHOLE)
    assert [each.token_ids for each in requests] == expected


@pytest.mark.parametrize("steps", [3, 8, 15])
def test_a_preempted_answer_goes_on_in_its_format(
    tight: Scheduled, expected: list[list[int]], steps: int
) -> None:
    tight.forget()
    requests = submit_all(tight)
    while not requests[0].token_ids:
        tight.step()
    for _ in range(steps):
        tight.step()
    for request in requests:
        if request.status is None:
            tight.preempt(request)
    tight.run()
    assert [each.token_ids for each in requests] == expected


def test_an_answer_is_cut_at_its_length(tight: Scheduled) -> None:
    request = GenerationRequest(
        prompt=ChatPrompt(messages=ask("What is it?")),
        sampling=Sampling(max_new_tokens=4),
        output_format=FORMATS[0],
    )
    (context,) = tight.prepare(request).contexts
    cut = tight.submit_context(context)
    tight.run()
    assert len(cut.token_ids) == 4
    assert cut.status == "maximum_length"


def test_a_request_can_be_cancelled_before_its_grammar_is_read(
    tight: Scheduled,
) -> None:
    request = submit(tight, FORMATS[0])
    tight.cancel(request)
    tight.run()
    assert request.status in ("cancelled", "end_of_sequence")
    other = submit(tight, FORMATS[2])
    tight.run()
    assert text_of(tight, other) in json.loads(FORMATS[2].source)
