"""Records what an engine does for requests."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from mllama.requests.events import Accepted, Event, Finished, Piece, PromptRead
from mllama.requests.request import GenerationRequest
from mllama.server.engine_client import Turns
from mllama.server.forwarding_engine_client import ForwardingEngineClient
from mllama.server.observability.metrics import METRICS
from mllama.server.observability.request_record import RequestRecord, current_record
from mllama.server.request_origin import RequestOrigin

if TYPE_CHECKING:
    from concurrent.futures import Future

    from mllama.images.load import ImageFile
    from mllama.images.preprocess import ImageTiles


class ObservedEngineClient(ForwardingEngineClient):
    """An engine client that records another one's events in metrics.

    Args:
        engine: The engine client.
    """

    async def generate(
        self,
        request: GenerationRequest,
        *,
        origin: RequestOrigin | None = None,
        turns: Turns | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Answers a request; see :class:`~mllama.server.engine_client.EngineClient`."""
        origin = RequestOrigin() if origin is None else origin
        # Nobody waits for the first token of a batch's line.
        arrived_ns = None if origin.is_batch else origin.arrived_ns
        observer = _Observer(current_record(), arrived_ns)
        with METRICS.answering(), observer:
            generation = self._engine.generate(request, origin=origin, turns=turns)
            async with aclosing(generation) as events:
                async for event in events:
                    observer.add(event)
                    yield event

    def prepare_image(self, image: ImageFile | bytes) -> Future[ImageTiles]:
        """Starts to decode an image and to split it into tiles, in another thread."""
        started_ns = time.perf_counter_ns()
        record = current_record()
        tiles = self._engine.prepare_image(image)

        def note(done: Future[ImageTiles]) -> None:
            if done.cancelled() or done.exception() is not None:
                return
            ended_ns = time.perf_counter_ns()
            METRICS.image_preparation.observe((ended_ns - started_ns) / 1e9)
            METRICS.prompt_images.inc()
            if record is not None:
                record.images += 1
                record.add_phase("mllama.image", started_ns, ended_ns)

        tiles.add_done_callback(note)
        return tiles


class _Observer:
    """Records the events of one request to the engine, within a ``with`` block.

    Args:
        record: The HTTP request's record, if there is one.
        arrived_ns: When the request arrived; None if nobody waits for its first token.
    """

    def __init__(self, record: RequestRecord | None, arrived_ns: int | None) -> None:
        self._record = RequestRecord() if record is None else record
        self._record.answers += 1
        self._arrived_ns = arrived_ns
        self._generated: dict[int, int] = {}
        self._last_ns: dict[int, int] = {}
        self._phase = "mllama.prepare"
        self._phase_ns = time.perf_counter_ns()

    def __enter__(self) -> None:
        """Begins the first phase."""

    def __exit__(self, *error: object) -> None:
        """Ends the last phase."""
        self._next_phase("")

    def _next_phase(self, name: str) -> None:
        now = time.perf_counter_ns()
        self._record.add_phase(self._phase, self._phase_ns, now)
        self._phase, self._phase_ns = name, now

    def add(self, event: Event) -> None:
        """Records an event."""
        if isinstance(event, Piece):
            self._add_tokens(event.choice, len(event.token_ids))
        elif isinstance(event, PromptRead):
            METRICS.prompt_tokens.inc(event.prompt_tokens)
            METRICS.cached_tokens.inc(event.cached_tokens)
            self._record.prompt_tokens += event.prompt_tokens
            self._record.cached_tokens += event.cached_tokens
        elif isinstance(event, Finished):
            self._count(
                event.choice,
                event.completion_tokens - self._generated.get(event.choice, 0),
            )
            METRICS.request_success.labels(event.reason).inc()
        elif isinstance(event, Accepted):
            self._next_phase("mllama.prefill")

    def _add_tokens(self, choice: int, tokens: int) -> None:
        if not tokens:
            return
        now = time.perf_counter_ns()
        last = self._last_ns.get(choice)
        self._last_ns[choice] = now
        if last is not None:
            # Tokens that come together share the time since the last ones.
            seconds = (now - last) / 1e9 / tokens
            for _ in range(tokens):
                METRICS.inter_token_latency.observe(seconds)
        elif self._record.first_token_seconds is None and self._arrived_ns is not None:
            seconds = (now - self._arrived_ns) / 1e9
            METRICS.time_to_first_token.observe(seconds)
            self._record.first_token_seconds = seconds
            self._next_phase("mllama.decode")
        self._count(choice, tokens)

    def _count(self, choice: int, tokens: int) -> None:
        if tokens <= 0:
            return
        self._generated[choice] = self._generated.get(choice, 0) + tokens
        self._record.generated_tokens += tokens
        METRICS.generation_tokens.inc(tokens)
