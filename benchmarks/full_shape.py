"""Serves a model of 11B's full size and measures loading and answering.

    python -m benchmarks.full_shape                # 40 text and 40 vision layers
    python -m benchmarks.full_shape --keep FILE    # keeps the file, or reuses it
    python -m benchmarks.full_shape --vision-encoding int8

Published weights are not needed: the file has random q4_k blocks with the scale of real
weights, and a tokenizer with as many tokens as the published one.  The benchmark starts
``mllama serve`` as a user does, and measures the memory of all its processes.  It
prints one JSON object.
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import openai
import psutil

from benchmarks.random_model import write_random_gguf
from benchmarks.serving import picture

GIB = 1 << 30
START_SECONDS = 3600


class PeakMemory:
    """Samples the peak memory of a process and its children.

    ``private`` is memory that no other process shares; ``mapped`` is memory of mapped
    files, such as the weights, which the system can reclaim.
    """

    def __init__(self, pid: int) -> None:
        self.private = self.mapped = 0
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Resets the peaks."""
        self.private = self.mapped = 0

    def stop(self) -> None:
        """Stops the sampling."""
        self._stop.set()
        self._thread.join()

    def report(self) -> dict[str, float]:
        """Returns the peaks in GiB."""
        return {"private": self.private / GIB, "mapped": self.mapped / GIB}

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            try:
                found = [
                    process.memory_info()
                    for process in [
                        self._process,
                        *self._process.children(recursive=True),
                    ]
                ]
            except psutil.Error:
                continue
            private = sum(info.rss - info.shared for info in found)
            self.private = max(self.private, private)
            self.mapped = max(self.mapped, max(info.shared for info in found))


def wait_until_ready(client: openai.OpenAI, process: subprocess.Popen[bytes]) -> None:
    """Waits until the server answers.

    Raises:
        SystemExit: If the server exits or takes too long.
    """
    for _ in range(START_SECONDS):
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        try:
            client.models.list()
            return
        except openai.APIConnectionError:
            time.sleep(1)
    raise SystemExit("the server didn't start in time")


def asked(
    client: openai.OpenAI, content: Any, max_tokens: int
) -> tuple[float, list[float]]:
    """Returns the seconds to an answer's first token, and between all later ones."""
    started = time.perf_counter()
    stamps = [
        time.perf_counter()
        for chunk in client.chat.completions.create(
            model="full-shape",
            messages=[{"role": "user", "content": content}],
            max_tokens=max_tokens,
            stream=True,
        )
        if chunk.choices and chunk.choices[0].delta.content
    ]
    return stamps[0] - started, list(np.diff(stamps))


def image_url(side: int) -> str:
    """Returns a new picture as a data URL."""
    buffer = BytesIO()
    generator = np.random.default_rng(time.time_ns())
    picture(generator, side).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def measure(model: Path, port: int, arguments: list[str]) -> dict[str, Any]:
    """Starts the server, measures its answers, and stops it."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mllama", "serve", "--model-path", str(model)),
            *("--served-model-name", "full-shape", "--port", str(port), *arguments),
        ]
    )
    memory = PeakMemory(process.pid)
    client = openai.OpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=3600
    )
    try:
        wait_until_ready(client, process)
        load_seconds = time.perf_counter() - started
        loading = memory.report()
        memory.reset()
        question = {"type": "text", "text": "What is in this picture?"}

        def about(side: int) -> list[dict[str, Any]]:
            image = {"type": "image_url", "image_url": {"url": image_url(side)}}
            return [image, question]

        small, _ = asked(client, about(560), 1)
        shown = about(1120)
        first, _ = asked(client, shown, 1)
        second, gaps = asked(client, shown, 32)
        text, text_gaps = asked(client, "Tell me a story.", 32)
        return {
            "file_gib": model.stat().st_size / GIB,
            "load_seconds": load_seconds,
            "peak_gib_of_loading": loading,
            "peak_gib_of_requests": memory.report(),
            "first_token_seconds": {
                "image of 1 tile": small,
                "image of 4 tiles": first,
                "same image again": second,
                "text": text,
            },
            "tokens_per_second": {
                "after 4 tiles": 1 / statistics.median(gaps),
                "text": 1 / statistics.median(text_gaps),
            },
        }
    finally:
        memory.stop()
        process.terminate()
        process.wait(60)


def main() -> None:
    """Builds the file, serves it and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="FILE")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--max-length", type=int, default=8192)
    parser.add_argument("--vision-encoding", metavar="ENCODING")
    options = parser.parse_args()
    arguments = ["--max-length", str(options.max_length)]
    if options.vision_encoding:
        arguments += ["--vision-encoding", options.vision_encoding]
    build: Callable[[Path], None] = write_random_gguf
    if options.keep:
        if not options.keep.exists():
            build(options.keep)
        report = measure(options.keep, options.port, arguments)
    else:
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "full-shape.gguf"
            build(model)
            report = measure(model, options.port, arguments)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
