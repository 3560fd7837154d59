"""Compiles graphs for this CPU in the background, while a server uses slower ones."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from mllama.compilation.manifest import Manifest
from mllama.compilation.parallel import ParallelTask
from mllama.compilation.store import CompiledStore, GraphKey

BACKGROUND_NICENESS: Final = 19
"""The lowest priority: the server's own threads come first."""


@dataclass(frozen=True)
class BackgroundCompilation:
    """A task that compiles a model's graphs one after the other.

    Attributes:
        tasks: The task that adds each graph to the directory.
        manifest: Describes the graphs.
        directory: The directory of the graphs in the cache.
    """

    tasks: Mapping[GraphKey, ParallelTask]
    manifest: Manifest
    directory: Path

    def run(self) -> None:
        """Compiles the graphs that the directory lacks, then lists them.

        Returns at once if another server is compiling them.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.directory / "compiling.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return
        with lock:
            store = CompiledStore.open_or_create(self.directory)
            for key, task in self.tasks.items():
                # An earlier server may have ended after one of them.
                if store.find_added(key) is None:
                    task.run()
                    store.find_added(key)
            store.write_manifest(self.manifest)
        print(
            "mllama: graphs for this CPU are compiled; the next run uses them",
            file=sys.stderr,
        )
