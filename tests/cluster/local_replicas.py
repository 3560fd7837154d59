"""Replicas without Ray: what a deployment's handle does, in this process."""

from __future__ import annotations

import asyncio
import base64
import pickle
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import ActorDiedError

from mllama.cluster.affinity import AffinityMiddleware
from mllama.cluster.engine_client import RayEngineClient
from mllama.cluster.messages import ReplicaFigures, ServedModel
from mllama.cluster.remote_answers import RemoteAnswers
from mllama.cluster.replica_metrics import ReplicaMetrics
from mllama.cluster.replica_states import ReplicaStates
from mllama.image_cache.verdict import ImageVerdict
from mllama.runtime.engine_stats import EngineStats
from mllama.server.capabilities import ServerCapabilities
from mllama.server.observability.process_memory import MemorySizes

from ..server.dialects.fake_engine import VOCABULARY, FakeEngine
from ..server.dialects.in_process import InProcessServer


@dataclass
class LocalReplica:
    """A replica over an engine that answers with given texts."""

    name: str
    engine: FakeEngine
    stats: EngineStats = field(default_factory=EngineStats)
    verdict: ImageVerdict = field(default_factory=ImageVerdict)
    dies_after: int | None = None
    has_failed: bool = False

    def __post_init__(self) -> None:
        self.answers = RemoteAnswers(
            self.engine, self.replica_figures, self.check_alive
        )
        self.answers.figures = self.figures  # type: ignore[attr-defined]
        self.answers.reset_prefix_cache = self.reset  # type: ignore[attr-defined]
        self.resets = 0

    def replica_figures(self) -> ReplicaFigures:
        return ReplicaFigures(
            self.name,
            f"node-of-{self.name}",
            self.stats,
            self.verdict,
            MemorySizes(100, 50),
        )

    async def figures(self) -> ReplicaFigures:
        if self.has_failed:
            raise ActorDiedError()
        return self.replica_figures()

    async def reset(self) -> None:
        self.check_alive()
        self.resets += 1

    def check_alive(self) -> None:
        if self.has_failed:
            raise RuntimeError("the engine has failed")


class LocalResponse:
    """What a handle's ``remote`` returns: it is iterated over, or awaited."""

    def __init__(
        self,
        replica: LocalReplica | None,
        call: Callable[[LocalReplica], Any],
    ) -> None:
        self._replica = replica
        self._call = call
        self.is_cancelled = False

    def __await__(self) -> Any:
        return self._result().__await__()

    async def _result(self) -> Any:
        if self._replica is None:
            # Ray waits for a replica.
            await asyncio.Event().wait()
        assert self._replica is not None
        return pickle.loads(pickle.dumps(await self._call(self._replica)))

    async def __aiter__(self) -> AsyncIterator[Any]:
        if self._replica is None:
            # Ray waits for a replica.
            await asyncio.Event().wait()
        assert self._replica is not None
        source = self._call(self._replica)
        count = 0
        try:
            async for message in source:
                if count == self._replica.dies_after:
                    raise ActorDiedError()
                count += 1
                yield pickle.loads(pickle.dumps(message))
        finally:
            await source.aclose()

    def cancel(self) -> None:
        self.is_cancelled = True


class LocalResults:
    """What a handle's ``broadcast`` returns."""

    def __init__(self, calls: list[Any]) -> None:
        self._calls = calls

    async def results_async(
        self, *, timeout_s: float, return_exceptions: bool
    ) -> list[Any]:
        assert timeout_s > 0
        if not self._calls:
            raise RuntimeError("no replica is available")
        return list(
            await asyncio.gather(*self._calls, return_exceptions=return_exceptions)
        )


class LocalHandle:
    """A deployment's handle: the next replica gets each request."""

    def __init__(self, *replicas: LocalReplica) -> None:
        self.replicas = list(replicas)
        self.keys: list[str] = []
        self.responses: list[LocalResponse] = []
        self._method = ""

    def options(
        self,
        method_name: str = "",
        session_id: str = "",
        stream: bool = False,
        _by_reference: bool = False,
    ) -> LocalHandle:
        if session_id:
            self.keys.append(session_id)
        handle = LocalHandle()
        handle.__dict__ |= self.__dict__ | {"_method": method_name or self._method}
        return handle

    def broadcast(self, method: str) -> LocalResults:
        return LocalResults([getattr(each.answers, method)() for each in self.replicas])

    def remote(self, *arguments: Any) -> LocalResponse:
        sent = pickle.loads(pickle.dumps(arguments))
        replica = self.replicas[0] if self.replicas else None
        if len(self.replicas) > 1:
            self.replicas.append(self.replicas.pop(0))
        method = self._method
        response = LocalResponse(
            replica, lambda chosen: getattr(chosen.answers, method)(*sent)
        )
        self.responses.append(response)
        return response


@dataclass
class LocalCluster:
    """The server's routes over replicas of this process."""

    replicas: list[LocalReplica]

    def __post_init__(self) -> None:
        self.handle = LocalHandle(*self.replicas)
        self.states = ReplicaStates(lambda: len(self.handle.replicas))
        self.states.update(len(self.replicas))
        self.metrics = ReplicaMetrics(lambda: self.states.number)
        engine = self.replicas[0].engine if self.replicas else FakeEngine()
        self.client = RayEngineClient(
            self.handle,  # type: ignore[arg-type]
            ServedModel(
                capabilities=ServerCapabilities(model_name="served", vocabulary=1),
                token_bytes=[engine.token_bytes(each) for each in range(VOCABULARY)],
                batch_size=4,
            ),
            self.states,
            self.metrics,
        )
        self.server = InProcessServer(engine=self.client)  # type: ignore[arg-type]
        self.server.app().add_middleware(AffinityMiddleware)


def image_chat(content: bytes, **fields: Any) -> dict[str, Any]:
    """A chat about a picture of an engine that takes any content for one."""
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is it?"},
    ]
    return {
        "model": "served",
        "messages": [{"role": "user", "content": parts}],
        **fields,
    }
