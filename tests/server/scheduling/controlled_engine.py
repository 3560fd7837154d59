"""An engine whose every step a test decides."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Sequence
from concurrent.futures import Future
from contextlib import aclosing, suppress
from typing import Any

from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.events import Accepted, Event, Finished, Piece, PromptRead
from mllama.requests.request import GenerationRequest
from mllama.server.clients import ClientId
from mllama.server.engine_client import EngineClient, Turns
from mllama.server.request_origin import RequestOrigin


class ControlledEngine:
    """Answers when it is told to.  A request's prompt is its name.

    Attributes:
        slow: Names of requests whose preparation ends when :meth:`prepared` says so.
        broken: Names of requests on which it fails.
        preparing: Names in the order in which their preparation began.
        begun: Names in the order in which their answers began, once for each choice.
        closed: Names of requests that have ended in whatever way.
    """

    def __init__(self) -> None:
        self.slow: set[str] = set()
        self.broken: set[str] = set()
        self.preparing: list[str] = []
        self.begun: list[str] = []
        self.closed: list[str] = []
        self._prepared: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._ended: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def prepare(self, name: str) -> None:
        """Ends the preparation of a request."""
        self._prepared[name].set()

    def end(self, name: str, choice: int = 0) -> None:
        """Ends an answer."""
        self._ended[f"{name}.{choice}"].set()

    async def generate(
        self,
        request: GenerationRequest,
        *,
        origin: RequestOrigin | None = None,
        turns: Turns | None = None,
    ) -> AsyncGenerator[Event, None]:
        name = str(request.prompt)
        assert turns is not None
        self.preparing.append(name)
        tasks: list[asyncio.Task[None]] = []
        try:
            if name in self.slow:
                await self._prepared[name].wait()
            await turns.next()
            self.begun.append(name)
            yield Accepted()
            if name in self.broken:
                raise RuntimeError("broken")
            yield PromptRead([1, 2, 3], 0)
            events: asyncio.Queue[Event] = asyncio.Queue()

            async def answer(choice: int) -> None:
                if choice:
                    await turns.next()
                    self.begun.append(name)
                events.put_nowait(Piece(choice, "a", [1]))
                await self._ended[f"{name}.{choice}"].wait()
                events.put_nowait(Finished(choice, "stop", completion_tokens=1))

            tasks = [asyncio.ensure_future(answer(i)) for i in range(request.choices)]
            finished = 0
            while finished < request.choices:
                event = await events.get()
                finished += isinstance(event, Finished)
                yield event
        finally:
            for task in tasks:
                task.cancel()
            self.closed.append(name)

    def prepare_image(self, image: Any) -> Future[Any]:
        raise NotImplementedError

    async def tokenize(self, prompt: ChatPrompt | str) -> list[int]:
        return [1, 2, 3]

    async def count_tokens(
        self, prompt: ChatPrompt | str, images: Sequence[Any]
    ) -> int:
        return 3

    def token_bytes(self, token_id: int) -> bytes:
        return b"a"


class Asker:
    """A client that reads what it has asked for.

    Attributes:
        events: What it has got.
        error: What ended its request, if that was an error.
    """

    def __init__(
        self, engine: EngineClient, name: str, *, choices: int = 1, part: int = 0
    ) -> None:
        self.events: list[Event] = []
        self.error: Exception | None = None
        self._reads = asyncio.Event()
        self._reads.set()
        request = GenerationRequest(prompt=name, choices=choices)
        # The client's name is the letter.
        origin = RequestOrigin(client=ClientId(key=name[0]), part=part)
        self.task = asyncio.ensure_future(self._ask(engine, request, origin))

    async def _ask(
        self, engine: EngineClient, request: GenerationRequest, origin: RequestOrigin
    ) -> None:
        try:
            async with aclosing(engine.generate(request, origin=origin)) as events:
                async for event in events:
                    self.events.append(event)
                    await self._reads.wait()
        except Exception as error:
            self.error = error

    def stop_reading(self) -> None:
        """Reads no more after the next event."""
        self._reads.clear()

    async def leave(self) -> None:
        """Goes away."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


def run(main: Awaitable[None]) -> None:
    """Runs a test, which must end."""
    asyncio.run(asyncio.wait_for(main, 20))  # type: ignore[arg-type]


async def settle() -> None:
    """Lets everything happen that nothing keeps."""
    for _ in range(30):
        await asyncio.sleep(0)
