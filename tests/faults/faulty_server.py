"""``mllama serve`` whose model is slow, or hangs, on images of certain colors."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from typing import Any, Final

from mllama.cli.main import main
from mllama.image_cache.encoder_runner import ImageEncoderRunner
from mllama.runtime.overlap import OverlappedExecution
from mllama.server import app
from mllama.server.supervisor import backoff, supervisor
from mllama.server.worker_pipeline import WorkerPipelineFactory

SLOW: Final = (200, 0, 0)
"""The color of images that take :data:`STEP_SECONDS` to encode."""

HANGS: Final = (0, 0, 200)
"""The color of images whose encoding never ends, and computes nothing."""

STEP_SECONDS: Final = "TEST_STEP_SECONDS"
"""The environment variable with the seconds of a slow step."""

LONG_PROMPT: Final = 1000
"""Tokens from which on a prefill step is slow."""


def compute(seconds: float) -> None:
    """Uses a core for some seconds, without Python's lock, as a graph does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 100_000)


class FaultyPipelineFactory(WorkerPipelineFactory):
    """Builds, in the worker, a pipeline with these faults."""

    def __call__(self) -> Any:
        """Builds the pipeline."""
        seconds = float(os.environ[STEP_SECONDS])
        encode, execute = ImageEncoderRunner._encode, OverlappedExecution.execute

        def encode_slowly(self: Any, images: Any, tiles: int) -> None:
            for image in images:
                color = tuple(image.pixel_values[0, :, 10, 10])
                if color == SLOW:
                    compute(seconds)
                if color == HANGS:
                    threading.Event().wait()
            encode(self, images, tiles)

        def execute_slowly(self: Any, inputs: Any) -> Any:
            lengths = (each.tokens.active_length for each in inputs.flat_batch)
            if sum(lengths) >= LONG_PROMPT:
                compute(seconds)
            return execute(self, inputs)

        ImageEncoderRunner._encode = encode_slowly  # type: ignore[method-assign]
        OverlappedExecution.execute = execute_slowly  # type: ignore[method-assign]
        return super().__call__()


if __name__ == "__main__":
    import tests.faults.faulty_server as module  # the worker imports it by this name

    app.WorkerPipelineFactory = module.FaultyPipelineFactory  # type: ignore[misc]
    # Tests kill one worker after the other, and don't want to wait.
    backoff.STEADY_SECONDS = 0  # type: ignore[misc]
    supervisor._STANDBY_DELAY_SECONDS = 0  # type: ignore[misc]
    main()
