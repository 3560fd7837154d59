"""One replica: an engine that encodes, reads prompts and decodes."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection
from typing import Final

from benchmarks.cluster_simulation.costs import Costs
from benchmarks.cluster_simulation.workload import Request

IDLE: Final = math.inf


class PictureCache:
    """The image cache: pictures that no running request has leave it, oldest first.

    Args:
        capacity: Pictures that it holds.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._unpinned: OrderedDict[int, None] = OrderedDict()
        self._pins: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._unpinned) + len(self._pins)

    def __contains__(self, picture: int) -> bool:
        return picture in self._unpinned or picture in self._pins

    def pin(self, pictures: Collection[int]) -> int | None:
        """Keeps pictures for a request.

        Returns:
            How many of them had to be encoded, or None if there is no room.
        """
        pictures = set(pictures)
        if len(pictures | self._pins.keys()) > self._capacity:
            return None
        missing = sum(picture not in self for picture in pictures)
        for picture in pictures:
            self._unpinned.pop(picture, None)
            self._pins[picture] += 1
        while len(self) > self._capacity:
            self._unpinned.popitem(last=False)
        return missing

    def unpin(self, pictures: Collection[int]) -> None:
        """Lets go of a request's pictures."""
        for picture in set(pictures):
            self._pins[picture] -= 1
            if not self._pins[picture]:
                del self._pins[picture]
                self._unpinned[picture] = None


class Replica:
    """A replica's engine.

    Prompts come before decode steps, one after the other, as MAX's scheduler has it.
    A prompt's pictures are encoded with it, and meanwhile nobody's answer goes on.

    Attributes:
        number: Its number.
        ongoing: Requests that it has taken and not finished.
        busy: Seconds in which it worked.
        next_event: When it will have done what it is at; infinity if it is idle.
        cache: Its image cache.

    Args:
        number: Its number.
        costs: What work takes.
        cache: Its image cache.
        prefixes: Chats whose tokens its KV cache holds.
        finish: Is called with each request that has its last token.
    """

    def __init__(
        self,
        number: int,
        costs: Costs,
        cache: PictureCache,
        prefixes: int,
        finish: Callable[[Request, float], None],
    ) -> None:
        self.number = number
        self.ongoing = 0
        self.busy = 0.0
        self.next_event = IDLE
        self.cache = cache
        self._costs = costs
        self._steps = [0.0, *(costs.step(n + 1) for n in range(costs.max_batch))]
        self._finish = finish
        self._prefixes: OrderedDict[int, None] = OrderedDict()
        self._most_prefixes = prefixes
        self._waiting: deque[Request] = deque()
        # Those that decode, by the count of decode steps at their ends.
        self._running: list[tuple[int, int, Request]] = []
        self._order = itertools.count()
        self._count = 0
        self._prefilling: Request | None = None
        self._started = 0.0

    def take(self, request: Request, now: float) -> None:
        """Takes a request."""
        request.replica = self.number
        self.ongoing += 1
        self._waiting.append(request)
        if self.next_event == IDLE:
            self._begin(now)
        elif self._prefilling is None and len(self._running) < self._costs.max_batch:
            # The prompt is read after the decode step that is under way.
            step = self._steps[len(self._running)]
            steps = math.ceil((now - self._started) / step - 1e-9)
            self.next_event = min(self.next_event, self._started + steps * step)

    def advance(self, now: float) -> None:
        """Ends what it was at, and begins what comes next.

        Args:
            now: The time of ``next_event``.
        """
        self.busy += now - self._started
        request, self._prefilling = self._prefilling, None
        if request is not None:
            request.first_token = now
            self._remember(request.chat)
            end = self._count + request.new_tokens - 1
            heapq.heappush(self._running, (end, next(self._order), request))
        elif self._running:
            step = self._steps[len(self._running)]
            self._count += round((now - self._started) / step)
        while self._running and self._running[0][0] <= self._count:
            _, _, done = heapq.heappop(self._running)
            self.cache.unpin(done.pictures)
            self.ongoing -= 1
            self._finish(done, now)
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._started = now
        if self._waiting and len(self._running) < self._costs.max_batch:
            missing = self.cache.pin(self._waiting[0].pictures)
            if missing is not None:
                request = self._waiting.popleft()
                request.encoded += missing
                self._prefilling = request
                tokens = request.prompt_tokens
                if request.chat not in self._prefixes:
                    tokens += request.history_tokens
                work = missing * self._costs.encode + tokens * self._costs.prefill_token
                self.next_event = now + work
                return
            if not self._running:
                raise ValueError("the image cache can't hold one request's pictures")
        if self._running:
            steps = self._running[0][0] - self._count
            self.next_event = now + steps * self._steps[len(self._running)]
        else:
            self.next_event = IDLE

    def _remember(self, chat: int) -> None:
        self._prefixes[chat] = None
        self._prefixes.move_to_end(chat)
        if len(self._prefixes) > self._most_prefixes:
            self._prefixes.popitem(last=False)

    def kill(self) -> list[Request]:
        """Ends at once, and returns the requests that it hasn't answered."""
        lost = [*self._waiting, *(entry[2] for entry in self._running)]
        if self._prefilling is not None:
            lost.append(self._prefilling)
        self.next_event = IDLE
        return lost
