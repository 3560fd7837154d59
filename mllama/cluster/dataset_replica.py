"""A replica that answers lines of batches: an engine in a process of Ray's."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mllama.batch.lines import BatchLine
from mllama.batch.results import LineAnswer
from mllama.cluster.replica import prepare_process
from mllama.errors import MllamaError
from mllama.launch.options import EngineOptions

if TYPE_CHECKING:
    from mllama.server.batches.local_answers import LocalAnswers

logger = logging.getLogger("mllama")


class LineEngine(Protocol):
    """Answers lines.

    Attributes:
        slots: Lines that it answers at a time.
    """

    slots: int

    def __call__(self, line: BatchLine) -> Awaitable[LineAnswer]:
        """Returns the answer to a line, or the error in its place.

        Raises:
            RuntimeError: If it has failed as a whole.
        """
        ...


StartEngine = Callable[[], LineEngine]
"""Starts an engine in the process of a replica; an MllamaError says why it can't."""


class ReplicaEngine:
    """An engine of this process, which answers lines.

    Attributes:
        slots: Lines that it answers at a time.

    Args:
        options: The engine's options.
        model_name: The name of the model in its answers.
        folder: Where relative ``file:`` URLs begin.

    Raises:
        MllamaError: If the model can't be served on this node.
    """

    def __init__(self, options: EngineOptions, model_name: str, folder: str) -> None:
        prepare_process(options)
        from mllama.engine.engine import Engine

        self._engine = Engine(options, quiet=True)
        self.slots = self._engine.max_batch_size
        self._model_name = model_name
        self._folder = Path(folder)
        self._answers: LocalAnswers | None = None

    async def __call__(self, line: BatchLine) -> LineAnswer:
        """Returns the answer to a line, or the error in its place.

        Raises:
            RuntimeError: If the engine has failed as a whole.
        """
        if self._answers is None:
            from mllama.engine.async_client import AsyncEngineClient
            from mllama.server.batches.local_answers import (
                LocalAnswers,
                engine_capabilities,
            )

            engine = self._engine
            # It belongs to the event loop that asks.
            self._answers = LocalAnswers(
                AsyncEngineClient(engine),
                engine_capabilities(
                    engine.settings, engine.tokenizer, self._model_name
                ),
                self._folder,
                engine.check_alive,
            )
        return await self._answers(line)


class BatchReplica:
    """An actor of Ray that answers lines.

    Args:
        start: Starts its engine.
    """

    def __init__(self, start: StartEngine) -> None:
        # Once it is here the actor has its CPUs, which can't be told otherwise.
        self._start = start
        self._starting = asyncio.Lock()
        self._engine: LineEngine | None = None
        self._problem = ""

    async def be_placed(self) -> None:
        """Returns when the actor has a node, before its engine has been started."""

    async def prepare(self) -> int | str:
        """Returns how many lines it answers at a time, or why it can't answer any."""
        engine = await self._started()
        if engine is None:
            return f"node {node_address()}: {self._problem}"
        return engine.slots

    async def answer(self, line: BatchLine) -> LineAnswer:
        """Returns the answer to a line, or the error in its place.

        If the engine fails as a whole, its process ends, so that Ray starts another one
        and asks again what it had not answered.

        Raises:
            RuntimeError: If it has no engine.
        """
        engine = await self._started()
        if engine is None:
            raise RuntimeError(f"node {node_address()}: {self._problem}")
        return await answered_or_ended(engine, line)

    async def _started(self) -> LineEngine | None:
        """Returns the engine, which the first call starts; None if it can't be."""
        async with self._starting:
            if self._engine is None and not self._problem:
                try:
                    self._engine = await asyncio.to_thread(self._start)
                except Exception as error:
                    if not isinstance(error, MllamaError):
                        logger.exception("the engine can't be started")
                    self._problem = " ".join(str(error).split()) or repr(error)
            return self._engine


async def answered_or_ended(engine: LineEngine, line: BatchLine) -> LineAnswer:
    """Returns the answer to a line; ends the process if the engine has failed."""
    try:
        return await engine(line)
    except RuntimeError as error:
        cause = error.__cause__ or error
        logger.error("the engine on node %s has failed: %s", node_address(), cause)
        os._exit(1)


def node_address() -> str:
    """Returns the address of the node that this process runs on."""
    import ray

    return str(ray.util.get_node_ip_address())
