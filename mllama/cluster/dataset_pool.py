"""Replicas that answer the lines of one batch together."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydantic_core import from_json

from mllama.batch.lines import BatchLine, sources
from mllama.batch.local_files import read_picture
from mllama.batch.results import LineAnswer
from mllama.cluster.dataset_replica import BatchReplica, StartEngine, node_address
from mllama.cluster.options import ClusterOptions
from mllama.cluster.waiting_replicas import WaitingReplicas
from mllama.errors import ImageError, MllamaError
from mllama.utils.event_loops import background_task

TRIES: Final = 3
"""Times that Ray asks a line again whose replica has died."""

_CALLS: Final = 10_000
"""Calls that a replica takes at a time: the batch bounds them."""

_PLACES: Final = 100_000
"""Pictures whose replicas are remembered."""

_LOOK_SECONDS: Final = 1.0
"""Pause between two looks whether replicas have their CPUs."""

_FILE_URL: Final = re.compile(rb"file:", re.IGNORECASE)


@dataclass
class _Member:
    actor: Any
    slots: int
    ongoing: int = 0


class ReplicaPool:
    """Answers lines with the actors of a cluster.

    Lines about a picture go to the replica that had it last, while that has room.

    Args:
        members: The actors, with the lines that each answers at a time.
        folder: Where relative ``file:`` URLs begin, on this machine.
    """

    def __init__(self, members: list[tuple[Any, int]], folder: Path) -> None:
        self._members = [_Member(*member) for member in members]
        self._folder = folder
        self._places: OrderedDict[bytes, _Member] = OrderedDict()

    @property
    def slots(self) -> int:
        """Returns the lines that all of them answer at a time."""
        return sum(member.slots for member in self._members)

    def end(self) -> None:
        """Ends the replicas."""
        import ray

        for member in self._members:
            ray.kill(member.actor)

    async def __call__(self, line: BatchLine) -> LineAnswer:
        """Returns the answer to a line, or the error in its place.

        Raises:
            MllamaError: If Ray's object store is full.
            RuntimeError: If the replicas have failed.
        """
        from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError

        line = await asyncio.to_thread(with_files, line, self._folder)
        member = self._choose(line.picture)
        member.ongoing += 1
        try:
            answer: LineAnswer = await member.actor.answer.remote(line)
        except (ObjectStoreFullError, OutOfDiskError) as error:
            raise MllamaError(store_is_full(error)) from error
        except RayError as error:
            # Its last line says what happened, those before where.
            cause = str(error).strip().rpartition("\n")[2]
            raise RuntimeError("a replica has failed") from RuntimeError(cause)
        finally:
            member.ongoing -= 1
        return answer

    def _choose(self, picture: bytes | None) -> _Member:
        member = None if picture is None else self._places.get(picture)
        if member is None or member.ongoing >= 2 * member.slots:
            member = min(self._members, key=lambda each: each.ongoing / each.slots)
        if picture is not None:
            self._places[picture] = member
            self._places.move_to_end(picture)
            if len(self._places) > _PLACES:
                self._places.popitem(last=False)
        return member


async def start_pool(
    ray: Any, cluster: ClusterOptions, start: StartEngine, folder: Path
) -> ReplicaPool:
    """Starts the replicas, and returns them when all can answer.

    Args:
        ray: The module ``ray``, which is connected.
        cluster: How many there are, and what each has.
        start: Starts an engine in a replica's process.
        folder: Where relative ``file:`` URLs begin, on this machine.

    Raises:
        MllamaError: If one can't answer.
    """
    actor = ray.remote(BatchReplica).options(
        num_cpus=cluster.replica_cpus,
        num_gpus=cluster.replica_gpus or 0,
        max_concurrency=_CALLS,
        max_restarts=-1,
        max_task_retries=TRIES,
    )
    actors = [actor.remote(start) for _ in range(cluster.replicas)]
    try:
        async with background_task(_watch_placement(ray, cluster, actors)):
            slots = await asyncio.gather(*(_prepared(each) for each in actors))
    except BaseException:
        # The others may start for minutes yet.
        for each in actors:
            ray.kill(each)
        raise
    return ReplicaPool(list(zip(actors, slots, strict=True)), folder)


async def _watch_placement(
    ray: Any, cluster: ClusterOptions, actors: list[Any]
) -> None:
    """Says when actors wait for CPUs, until all have theirs."""
    waiting = {asyncio.ensure_future(_placed(each)) for each in actors}
    said = WaitingReplicas(ray, cluster)
    try:
        while waiting:
            _, waiting = await asyncio.wait(waiting, timeout=_LOOK_SECONDS)
            await asyncio.to_thread(said.note, len(waiting))
    finally:
        for each in waiting:
            each.cancel()


async def _placed(actor: Any) -> None:
    from ray.exceptions import RayError

    # What has gone wrong is said when it is prepared.
    with contextlib.suppress(RayError):
        await actor.be_placed.remote()


async def _prepared(actor: Any) -> int:
    """Returns how many lines a replica answers at a time, when it can.

    Raises:
        MllamaError: If it can't answer any.
    """
    from ray.exceptions import RayError

    try:
        slots: int | str = await actor.prepare.remote()
    except RayError as error:
        slots = " ".join(str(error).split())[-300:]
    if isinstance(slots, str):
        raise MllamaError(f"a replica can't start: {slots}")
    return slots


def with_files(line: BatchLine, folder: Path) -> BatchLine:
    """Returns a line with the contents of its ``file:`` URLs.

    The nodes of a cluster don't have this machine's files.  Where one can't be read
    here, the line says why, and its answer will.

    Args:
        line: The line.
        folder: Where relative URLs begin.
    """
    if _FILE_URL.search(line.body) is None:
        return line
    attachments, unreadable = dict(line.attachments), dict(line.unreadable)
    for url in sources(from_json(line.body)):
        if url[:5].lower() == "file:":
            try:
                attachments[url] = read_picture(url, folder)
            except ImageError as error:
                unreadable[url] = str(error)
    return replace(line, attachments=attachments, unreadable=unreadable)


def store_is_full(error: BaseException) -> str:
    """Returns what is said about an object store that is full: this machine's."""
    return (
        f"Ray's object store on node {node_address()} is full, and can't spill to the "
        "disk either "
        f"({' '.join(str(error).split())[:150]}): free space below Ray's temporary "
        "folder, or start the nodes with a larger --object-store-memory"
    )
