"""An exception anywhere in a step ends the request that causes it, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mllama.requests.answer_matcher import (
    AnswerMatcher,
)
from mllama.requests.output_format import OutputFormat
from mllama.runtime import host_sampler

from .conftest import ask
from .harness import Request, Scheduled
from .test_formats import submit

FORMAT = OutputFormat.regex("([ab]c){20}")


class Fault:
    """Raises an exception for one request, from a length of its answer on.

    Args:
        request: The request.
        length: Tokens of its answer.
    """

    def __init__(self, request: Request, length: int) -> None:
        self._context = request.context
        self._length = length
        self.has_raised = False

    def check(self, context: Any) -> None:
        """Raises if it is time."""
        if context is self._context:
            self.check_length()

    def check_matcher(self, matcher: Any) -> None:
        """Raises if it is time, and if this is the request's grammar."""
        if self._context.matcher is matcher:
            self.check_length()

    def check_length(self) -> None:
        if self._context.tokens.generated_length >= self._length:
            self.has_raised = True
            raise RuntimeError("a fault of the test")


def break_image_reservation(
    patch: pytest.MonkeyPatch, fault: Fault, tight: Scheduled
) -> None:
    reserve = tight.image_cache.reserve

    def broken(context: Any) -> None:
        fault.check(context)
        reserve(context)

    patch.setattr(tight.image_cache, "reserve", broken)


def break_block_allocation(
    patch: pytest.MonkeyPatch, fault: Fault, tight: Scheduled
) -> None:
    alloc = tight.admission._alloc

    def broken(context: Any) -> Any:
        transfer = alloc(context)
        fault.check(context)
        return transfer

    patch.setattr(tight.admission, "_alloc", broken)


def break_preparation(
    patch: pytest.MonkeyPatch, fault: Fault, tight: Scheduled
) -> None:
    prepare = tight.overlap._prepare_batch  # type: ignore[union-attr]

    def broken(batches: Any) -> Any:
        for batch in batches:
            for context in batch:
                fault.check(context)
        return prepare(batches)

    patch.setattr(tight.overlap, "_prepare_batch", broken)


def break_forward_pass(
    patch: pytest.MonkeyPatch, fault: Fault, tight: Scheduled
) -> None:
    launch = tight.overlap._launch  # type: ignore[union-attr]

    def broken(inputs: Any, batch: Any, **options: Any) -> Any:
        for context in batch:
            fault.check(context)
        return launch(inputs, batch, **options)

    patch.setattr(tight.overlap, "_launch", broken)


def break_sampling(patch: pytest.MonkeyPatch, fault: Fault, tight: Scheduled) -> None:
    state = host_sampler._sampling_state

    def broken(context: Any, bitmask: Any) -> Any:
        fault.check(context)
        return state(context, bitmask)

    patch.setattr(host_sampler, "_sampling_state", broken)


def break_grammar(method: str) -> Callable[..., Any]:
    def break_method(patch: pytest.MonkeyPatch, fault: Fault, tight: Scheduled) -> None:
        original = getattr(AnswerMatcher, method)

        def broken(self: Any, *arguments: Any) -> Any:
            fault.check_matcher(self)
            return original(self, *arguments)

        patch.setattr(AnswerMatcher, method, broken)

    return break_method


HOOKS = {
    "images": break_image_reservation,
    "KV-cache blocks": break_block_allocation,
    "preparation": break_preparation,
    "forward pass": break_forward_pass,
    "sampling": break_sampling,
    "mask of a grammar": break_grammar("bitmask"),
    "forced token": break_grammar("forced_token"),
}
"""Image encoding is in ``test_faults.py``."""


@pytest.mark.parametrize("length", [0, 3])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_fault_ends_its_own_request(
    tight: Scheduled, monkeypatch: pytest.MonkeyPatch, hook: str, length: int
) -> None:
    messages = [ask("Hello"), ask("What is in the picture?")]
    expected = [tight.alone(each) for each in messages]
    tight.forget()
    others = [tight.submit(messages[0])]
    faulty = submit(tight, FORMAT, "Hello")
    others.append(tight.submit(messages[1]))
    fault = Fault(faulty, length)
    with monkeypatch.context() as patch:
        HOOKS[hook](patch, fault, tight)
        tight.run()
    assert fault.has_raised
    assert faulty.status == "failed"
    assert [request.token_ids for request in others] == expected
    # The next requests meet nothing of it.
    assert [tight.alone(each) for each in messages] == expected
    assert tight.blocks.pinned_entries == 0
