"""What guesses the next tokens of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Guesses = npt.NDArray[np.int64]
"""Guessed tokens ``[tokens]`` in their order."""


@dataclass(frozen=True)
class Prospect:
    """What a proposer could do for a request.

    Attributes:
        most: The most tokens that it could guess; 0 if it can't guess for the request.
        missed: Tokens that it has to compute before it can guess one.
        seconds: What they take; None if that isn't known.
    """

    most: int
    missed: int = 0
    seconds: float | None = None


class Proposer(Protocol):
    """Guesses how answers go on.

    A guess is checked before it becomes part of an answer, so that a wrong one costs
    time and nothing else.  All methods are called by the scheduler's thread, between
    two steps: no graph is running, and a proposer may run its own.
    """

    def prospects(self, contexts: Sequence[Any]) -> list[Prospect]:
        """Returns what the proposer could do for each request of a batch.

        It is asked before each step, and takes next to no time.

        Args:
            contexts: As for :meth:`propose`.
        """
        ...

    def propose(self, contexts: Sequence[Any], limits: Sequence[int]) -> list[Guesses]:
        """Returns guesses of the tokens that follow each request's tokens so far.

        ``context.tokens.all`` is the truth: the prompt and the answer so far, of which
        the last token has not been computed.  It holds no guesses.  A prompt has a
        token beyond the vocabulary where an image is.

        A request is known by ``context.request_id``, which may be new here at any
        length of its answer.  From one call to the next its tokens have grown by one
        token or more.  They may also be the same, if a step was prepared in vain, or
        the request may be absent, if it waits.  After a preemption it comes back with
        the same tokens.

        Args:
            contexts: Requests whose prompts are computed.  The order may differ from
                call to call.
            limits: The most tokens to guess for each; 0 asks for none.

        Returns:
            For each request up to so many tokens.  Fewer are better than unlikely ones:
            each takes the time of a token in the step that checks it.  Tokens beyond
            the vocabulary, and those that the request's grammar forbids, are cut off
            by the caller with all after them.
        """
        ...

    def release(self, request_id: Any) -> None:
        """Forgets a request, which has ended or was preempted.

        It is called for requests that were never seen too, and sometimes twice.  A step
        may be running meanwhile.
        """
        ...
