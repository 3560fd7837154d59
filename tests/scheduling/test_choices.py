"""Several answers to one prompt compute it once, whatever happens in between."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from mllama.image_cache.shared_pixels import SharedPixels
from mllama.requests.answers import Answers
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.events import Event, Finished, Piece, PromptRead
from mllama.requests.messages import read_conversation
from mllama.requests.request import GenerationRequest
from mllama.requests.sampling_params import Sampling

from .conftest import BATCH, ask
from .harness import Request, Scheduled

Pictures = list[Image.Image]
KV_BLOCK = 128
LONG = "What is in the picture? " * 40


class Choices:
    """A request for several answers, submitted as the engine and the server do it."""

    def __init__(
        self, scheduled: Scheduled, messages: list[Any], choices: int, **sampling: Any
    ) -> None:
        self.scheduled = scheduled
        conversation = read_conversation(
            messages, prepare=scheduled.tokenizer.prepare_image
        )
        self.prepared = scheduled.prepare(
            GenerationRequest(
                prompt=ChatPrompt(messages=conversation.messages),
                images=conversation.images,
                sampling=Sampling(**{"ignore_eos": True, **sampling}),
                choices=choices,
            )
        )
        self.answers = Answers(self.prepared, scheduled.tokenizer, 0.0)
        self.requests = [scheduled.submit_context(self.prepared.contexts[0])]
        self.events: list[Event] = []
        self._read = [0] * choices

    def step(self) -> None:
        """Runs a step, and submits the other answers after the first one's token."""
        self.scheduled.step()
        for choice, request in enumerate(self.requests):
            for output in request.outputs[self._read[choice] :]:
                self.events += self.answers.receive(choice, [output], 1.0)
            self._read[choice] = len(request.outputs)
        if len(self.requests) == 1 and self.requests[0].token_ids:
            others = self.prepared.contexts[1:]
            self.requests += [self.scheduled.submit_context(each) for each in others]

    def run(self) -> None:
        """Runs steps until all answers are complete."""
        for _ in range(1000):
            if self.answers.are_finished:
                return
            self.step()
        raise AssertionError("the answers never ended")

    @property
    def text(self) -> str:
        pieces = [event for event in self.events if isinstance(event, Piece)]
        return "".join(piece.text for piece in pieces if piece.choice == 0)


def prefilled(request: Request) -> int:
    """Returns the tokens of a prompt that were computed for a request."""
    return request.prompt_length - int(request.context.cached_prefix_length)


@pytest.mark.parametrize("choices", [2, BATCH, 3 * BATCH])
def test_the_prompt_is_computed_once_beside_other_requests(
    tight: Scheduled, pictures: Pictures, choices: int
) -> None:
    tight.forget()
    others = [tight.submit(ask(picture, "Hm?"), 30) for picture in pictures[3:5]]
    before = tight.image_cache.stats().misses
    asked = Choices(
        tight, ask(pictures[0], f"{choices}: {LONG}"), choices, max_new_tokens=4
    )
    asked.run()
    assert tight.image_cache.stats().misses - before <= 1 + len(others)
    length = asked.requests[0].prompt_length
    rest = (length - 1) % KV_BLOCK + 1
    assert [prefilled(request) for request in asked.requests] == [
        length,
        *[rest] * (choices - 1),
    ]
    (read,) = [event for event in asked.events if isinstance(event, PromptRead)]
    assert len(read.token_ids) == length
    tight.run()
    assert tight.image_cache.stats().pinned == 0


def test_an_answer_of_one_token_leaves_the_prompt_to_the_others(
    tight: Scheduled, pictures: Pictures
) -> None:
    """The first answer has ended, and freed its memory, before the others begin."""
    tight.forget()
    before = tight.image_cache.stats().misses
    asked = Choices(tight, ask(pictures[1], LONG), 3, max_new_tokens=1)
    asked.run()
    assert tight.image_cache.stats().misses - before <= 1
    assert [prefilled(request) > KV_BLOCK for request in asked.requests] == [
        True,
        False,
        False,
    ]


@pytest.mark.skipif(
    not SharedPixels.are_possible(), reason="this system has no such memory"
)
def test_images_that_the_cache_has_evicted_are_read_where_the_request_was_made(
    tight: Scheduled, roomy: Scheduled, pictures: Pictures
) -> None:
    tight.forget()
    messages = ask(pictures[0], "a", pictures[3], "What are they?")
    asked, whole = (
        Choices(each, messages, 3, max_new_tokens=2, top_k=1) for each in (tight, roomy)
    )
    whole.run()
    first, *others = asked.prepared.contexts
    shared = SharedPixels(first)
    for context in others:
        shared.replace_pixels(context)
    # The answers wait while another request takes the cache.
    tight.run()
    tight.forget()
    tight.alone(ask(pictures[8], "a", pictures[9], "b", pictures[10], "Hm?"))
    tight.forget()
    before = tight.image_cache.stats().misses
    running = [tight.submit_context(context) for context in others]
    tight.run()
    assert tight.image_cache.stats().misses - before == 2
    expected = [request.token_ids for request in whole.requests[1:]]
    assert [request.token_ids for request in running] == expected
    shared.close()


@pytest.mark.skipif(
    not SharedPixels.are_possible(), reason="this system has no such memory"
)
def test_an_answer_whose_request_has_ended_fails_alone(
    tight: Scheduled, pictures: Pictures
) -> None:
    tight.forget()
    asked = Choices(tight, ask(pictures[4], "Hm?"), 2, max_new_tokens=2)
    shared = SharedPixels(asked.prepared.contexts[0])
    shared.replace_pixels(asked.prepared.contexts[1])
    shared.close()
    tight.run()
    tight.alone(ask(pictures[8], "a", pictures[9], "b", pictures[10], "Hm?"))
    tight.forget()
    gone = tight.submit_context(asked.prepared.contexts[1])
    other = tight.submit(ask(pictures[5], "Hm?"))
    tight.run()
    assert (gone.status, other.status) == ("failed", "maximum_length")


def test_a_preempted_answer_counts_its_tokens_once(
    tight: Scheduled, roomy: Scheduled, pictures: Pictures
) -> None:
    """MAX takes its tokens so far for a part of the prompt."""
    settings: dict[str, Any] = {"max_new_tokens": 9, "logprobs": 1}
    messages = ask(pictures[2], "What is it?")
    whole = Choices(roomy, messages, 1, **settings)
    whole.run()
    asked = Choices(tight, messages, 1, **settings)
    while len(asked.requests[0].token_ids) < 4:
        asked.step()
    tight.preempt(asked.requests[0])
    asked.run()
    assert asked.text == whole.text
    (end,) = [event for event in asked.events if isinstance(event, Finished)]
    assert (end.reason, end.completion_tokens) == ("length", 9)
    pieces = [event for event in asked.events if isinstance(event, Piece)]
    assert all(len(piece.logprobs) == len(piece.token_ids) for piece in pieces)
    reads = [event for event in asked.events if isinstance(event, PromptRead)]
    assert len(reads) == 1
    assert len(reads[0].token_ids) == asked.requests[0].prompt_length
