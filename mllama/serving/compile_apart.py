"""One graph compiled in a process of its own, on another core.

MAX compiles one graph of a process at a time and has little for a second core to do.
The first start of a model has two graphs that take minutes each.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mllama.child_environment import end_with_parent, restore_child_environment
from mllama.compiled.store import CompiledStore, GraphKey
from mllama.imports import leave_torch_out
from mllama.network.projections import Encodings

if TYPE_CHECKING:
    from mllama.serving.arch_config import MllamaArchConfig


@dataclass(frozen=True)
class VisionCompilation:
    """The vision graph of a model on a CPU, which another process is to compile.

    Attributes:
        config: The model's, resolved.
        encodings: Which of its tensors are blocks.
        key: Of the graph.
        directory: Where the graph is kept.
    """

    config: MllamaArchConfig
    encodings: Encodings
    key: GraphKey
    directory: Path

    def start(self) -> subprocess.Popen[bytes] | None:
        """Starts the process; None if that isn't worth it, or can't be done.

        It ends with this one.
        """
        if _cores() < 2:
            return None
        # MAX is loaded in this process.
        restore_child_environment()
        try:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from mllama.serving.compile_apart import main; main()",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )
        except OSError:
            return None
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
            pickle.dump(self, pipe)
        return process

    def run(self) -> None:
        """Compiles the graph and keeps it."""
        from max.driver import CPU
        from max.engine import InferenceSession

        from mllama.serving.graphs import name_weights, networks

        network, _ = networks(self.config, self.encodings)
        name_weights(network)
        graph = network.trace(*network.input_types(), name=self.key.name)
        compiled = InferenceSession(devices=[CPU()]).compile(graph)
        CompiledStore(self.directory).add(self.key, compiled.export_mef)


def main() -> None:
    """What the process does."""
    end_with_parent(signal.SIGKILL)
    # A compilation can't be interrupted otherwise.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    leave_torch_out()
    task = pickle.load(sys.stdin.buffer)
    assert isinstance(task, VisionCompilation)
    task.run()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
