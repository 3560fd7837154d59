"""A replica: an engine of one process, which Ray Serve starts, watches and replaces.

This module is imported by Ray's processes before they know what runs in them, so that
it loads nothing of MAX.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from mllama.batch.inputs.parquet import load_pyarrow
from mllama.cluster.messages import (
    AnswerMessage,
    Failure,
    RemoteRequest,
    ReplicaFigures,
    ServedModel,
)
from mllama.cluster.remote_answers import RemoteAnswers
from mllama.engine.serving import ServingOptions
from mllama.errors import MllamaError
from mllama.launch.options import EngineOptions
from mllama.requests.chat_prompt import ChatPrompt
from mllama.runtime.engine_stats import EngineStats
from mllama.utils.max_threads import limit_spinning
from mllama.utils.telemetry import disable_telemetry
from mllama.utils.torch_blocker import block_torch

logger = logging.getLogger("ray.serve")

START_ERROR: Final = "mllama replica: "
"""Begins the line that says why a replica can't start, among those of Ray."""

_STILL_SECONDS: Final = 600.0
"""How long an engine may report nothing about any of its requests.

A step takes seconds, and minutes where a large model runs on few cores.
"""


class ReplicaStartError(RuntimeError):
    """A replica can't start.  Ray passes on the text of this error only."""


@dataclass(frozen=True, kw_only=True)
class ReplicaOptions:
    """What a replica is started with.

    Attributes:
        engine: The engine's options.
        model_name: Name of the served model.
        serving: What requests get that leave it open, and what they may ask for.
    """

    engine: EngineOptions
    model_name: str
    serving: ServingOptions = field(default_factory=ServingOptions)


class Replica:
    """Answers requests with an engine of this process.

    Args:
        options: The engine, and what is said about it.

    Raises:
        ReplicaStartError: If the model can't be served on this node.
    """

    def __init__(self, options: ReplicaOptions) -> None:
        self._options = options
        self._replica, self._node = _own_names()
        prepare_process(options.engine)
        from mllama.engine.engine import Engine

        try:
            self._engine = Engine(options.engine, serving=options.serving)
        except MllamaError as error:
            raise ReplicaStartError(
                f"{START_ERROR}node {self._node}: {' '.join(str(error).split())}"
            ) from None
        self._stats = EngineStats()
        self._own_answers: RemoteAnswers | None = None

    @property
    def _answers(self) -> RemoteAnswers:
        """Returns what answers, which belongs to the event loop that asks first."""
        if self._own_answers is None:
            from mllama.engine.async_client import AsyncEngineClient

            client = AsyncEngineClient(self._engine)
            self._own_answers = RemoteAnswers(
                client, self._figures, self._engine.check_alive
            )
        return self._own_answers

    async def describe(self) -> ServedModel:
        """Returns what the front needs to know of the model."""
        return await asyncio.to_thread(self._describe)

    def _describe(self) -> ServedModel:
        from mllama.max_model.settings import ModelSettings
        from mllama.requests.token_bytes import TokenBytes
        from mllama.server.capabilities import ServerCapabilities
        from mllama.server.model_description import describe_model

        engine, options = self._engine, self._options.engine
        settings = ModelSettings(max_images_per_request=options.max_images_per_request)
        capabilities = ServerCapabilities.of(
            engine.settings,
            engine.tokenizer,
            model_name=self._options.model_name,
            max_images=settings.image_limit,
            max_image_bytes=None,
            description=describe_model(engine.files, options.model),
            attention=self._options.serving.attention,
        )
        of_token = TokenBytes(engine.tokenizer.delegate)
        return ServedModel(
            capabilities=capabilities,
            token_bytes=[of_token(each) for each in range(capabilities.vocabulary)],
            batch_size=engine.max_batch_size,
        )

    async def answer(
        self, remote: RemoteRequest
    ) -> AsyncGenerator[AnswerMessage, None]:
        """Answers a request; see :meth:`RemoteAnswers.answer`."""
        async with aclosing(self._answers.answer(remote)) as messages:
            async for message in messages:
                yield message

    async def tokenize(self, prompt: ChatPrompt | str) -> list[int] | Failure:
        """Returns the ids of a prompt's tokens, in which each image is one."""
        return await self._answers.tokenize(prompt)

    async def count_tokens(
        self, prompt: ChatPrompt | str, images: Sequence[bytes]
    ) -> int | Failure:
        """Returns the number of tokens that usage would count for a prompt.

        Args:
            prompt: The prompt.
            images: The files of its images, in order.
        """
        return await self._answers.count_tokens(prompt, images)

    async def figures(self) -> ReplicaFigures:
        """Returns what the front shows of this replica."""
        return self._figures()

    async def reset_prefix_cache(self) -> None:
        """Has the prefix cache emptied before the next step.

        Raises:
            RuntimeError: If the engine has failed.
        """
        self._engine.reset_prefix_cache()

    def _figures(self) -> ReplicaFigures:
        from mllama.server.observability.process_memory import MemorySizes

        # An engine that has failed has none.
        with contextlib.suppress(RuntimeError):
            self._stats = self._engine.stats()
        return ReplicaFigures(
            self._replica,
            self._node,
            self._stats,
            self._engine.gpu_verdict,
            MemorySizes.of(os.getpid()),
        )

    def check_health(self) -> None:
        """Is called by Ray Serve, which replaces a replica for which it raises.

        Raises:
            RuntimeError: If the engine has failed, or works and reports nothing.
        """
        self._engine.check_alive()
        answers = self._own_answers
        if answers is None or not answers.running:
            return
        still = time.monotonic() - answers.reported_at
        if still > _STILL_SECONDS:
            raise RuntimeError(
                f"the engine has reported nothing for {still:.0f} s, with "
                f"{answers.running} requests"
            )

    def __del__(self) -> None:
        """Frees the model, when Ray Serve has drained the replica."""
        engine = getattr(self, "_engine", None)
        if engine is not None:
            engine.close()


def prepare_process(options: EngineOptions) -> None:
    """Prepares a process of Ray's for MAX, before it is imported.

    Args:
        options: The engine that is to run in it.
    """
    disable_telemetry(server=True)
    limit_spinning()
    if not options.trust_remote_code:
        block_torch()
    load_pyarrow()


def _own_names() -> tuple[str, str]:
    """Returns Ray Serve's id of this replica, and the address of its node."""
    import ray
    from ray import serve

    context = serve.get_replica_context()
    return context.replica_tag, ray.util.get_node_ip_address()
