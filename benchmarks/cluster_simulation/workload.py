"""Requests: chats whose pictures are drawn by Zipf's law."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

RequestSeconds = Callable[[float], float]


@dataclass(slots=True)
class Request:
    """A turn of a chat.

    Attributes:
        number: Its number, from 0.
        chat: Its chat's number.
        pictures: The pictures of the conversation, the first one first.
        new_pictures: How many of them come with this turn.
        prompt_tokens: Tokens of its question.
        history_tokens: Tokens of the turns before.
        new_tokens: Tokens of its answer.
        pause: Seconds from the end of the turn before, or of the arrivals' beginning.
        next: The chat's next turn.
        arrived: When it came.
        first_token: When it had its first token.
        finished: When it had its last one.
        replica: The replica that answered it.
        encoded: Pictures that were encoded for it.
        refusals: Replicas that were full when it was routed.
        losses: Replicas that died with it.
    """

    number: int
    chat: int
    pictures: tuple[int, ...]
    new_pictures: int
    prompt_tokens: int
    history_tokens: int
    new_tokens: int
    pause: float
    next: Request | None = None
    arrived: float = field(default=-1.0)
    first_token: float = field(default=-1.0)
    finished: float = field(default=-1.0)
    replica: int = -1
    encoded: int = 0
    refusals: int = 0
    losses: int = 0


@dataclass(frozen=True)
class Workload:
    """What is asked.

    Attributes:
        requests: Number of requests.
        pictures: Number of pictures.
        zipf: The exponent: the picture of rank k is asked for k**-zipf as often as the
            first.
        turns: Mean number of turns of a chat, a geometric distribution.
        new_picture: How often a later turn brings another picture.
        think: Mean seconds between an answer and the next turn, exponential.
        prompt_tokens: Tokens of a question.
        new_tokens: Mean tokens of an answer, a geometric distribution.
    """

    requests: int
    pictures: int = 10_000
    zipf: float = 1.0
    turns: float = 1.0
    new_picture: float = 0.0
    think: float = 60.0
    prompt_tokens: int = 24
    new_tokens: float = 64.0

    def chats(self, request_seconds: RequestSeconds, seed: int) -> Iterator[Request]:
        """Yields the first turn of each chat, which arrive as a Poisson process.

        Args:
            request_seconds: Returns the mean seconds between two requests.  It gets the
                probability that a request brings a picture that nobody asked about yet.
            seed: Makes the same chats each time.
        """
        random = np.random.default_rng(seed)
        draw = _Pictures(self, random)
        number = chat = 0
        while number < self.requests:
            novelty = draw.novelty() * draw.count / number if number else 1.0
            turns = min(int(random.geometric(1 / self.turns)), self.requests - number)
            pictures: tuple[int, ...] = ()
            history = 0
            first = last = None
            for turn in range(turns):
                is_new = turn == 0 or random.random() < self.new_picture
                if is_new:
                    pictures = (*pictures, draw.next())
                request = Request(
                    number=number,
                    chat=chat,
                    pictures=pictures,
                    new_pictures=int(is_new),
                    prompt_tokens=self.prompt_tokens,
                    history_tokens=history,
                    new_tokens=int(random.geometric(1 / self.new_tokens)),
                    pause=float(
                        random.exponential(
                            self.think
                            if turn
                            else self.turns * request_seconds(novelty)
                        )
                    ),
                )
                history += request.prompt_tokens + request.new_tokens
                number += 1
                if last is None:
                    first = request
                else:
                    last.next = request
                last = request
            chat += 1
            assert first is not None
            yield first


class _Pictures:
    """Draws pictures by their popularity, many at a time.

    Attributes:
        count: How many have been drawn.
    """

    _BLOCK = 4096
    _NOVELTY_EVERY = 256

    def __init__(self, workload: Workload, random: np.random.Generator) -> None:
        weights = np.arange(1, workload.pictures + 1) ** -workload.zipf
        self._chances = weights / weights.sum()
        self._cumulated = np.cumsum(self._chances)
        self._cumulated[-1] = 1.0
        self._random = random
        self._drawn: list[int] = []
        self.count = 0
        self._novelty = 1.0

    def next(self) -> int:
        """Returns a picture's rank, from 0."""
        if not self._drawn:
            values = self._random.random(self._BLOCK)
            self._drawn = np.searchsorted(self._cumulated, values, "right").tolist()
        self.count += 1
        return self._drawn.pop()

    def novelty(self) -> float:
        """Returns the probability that the next picture was never drawn before."""
        if self.count % self._NOVELTY_EVERY == 0 or self.count < self._NOVELTY_EVERY:
            unseen = (1 - self._chances) ** self.count
            self._novelty = float(self._chances @ unseen)
        return self._novelty
