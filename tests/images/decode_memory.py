"""Measures what decoding takes: ``python -m tests.images.decode_memory``.

Prints a table of bytes a pixel by kind of picture: the peak of the process that decodes
it, and what is counted for it.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from mllama.config import MllamaVisionConfig
from mllama.errors import ImageError
from mllama.images.load import open_image
from mllama.images.preprocess import ImageProcessor
from mllama.images.worker_process import WorkerProcess

from .picture_kinds import KINDS

PROCESSOR = ImageProcessor(
    {}, MllamaVisionConfig.from_dict({"image_size": 56, "patch_size": 14})
)


@dataclass(frozen=True)
class Decoding:
    """What decoding one file took.

    Attributes:
        size: The file's bytes.
        peak: Bytes that the process had more at its peak than before.
        counted: Bytes that are counted for it.
        kept: Bytes that the process has more afterwards.
        seconds: Seconds that it took.
        failure: The error, or nothing.
    """

    size: int
    peak: int
    counted: int
    kept: int
    seconds: float
    failure: str = ""


class DecodingProcess(WorkerProcess):
    """A process that decodes, as a server has them, and whose memory is measured."""

    def measure(self, content: bytes) -> Decoding:
        """Decodes a file."""
        counted = open_image(content).decoded_bytes
        before = self._resident()
        # The kernel sets the peak to what is there.
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        began, failure = time.monotonic(), ""
        try:
            self.prepare(content, PROCESSOR)
        except ImageError as error:
            failure = str(error)
        seconds = time.monotonic() - began
        status = Path(f"/proc/{self.pid}/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0]) << 10
        return Decoding(
            size=len(content),
            peak=peak - before,
            counted=counted,
            kept=self._resident() - before,
            seconds=seconds,
            failure=failure,
        )

    def _resident(self) -> int:
        return int(psutil.Process(self.pid).memory_info().rss)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.images.decode_memory")
    parser.add_argument("--side", type=int, default=6325, help="pixels of a side")
    parser.add_argument("--kind", default="", help="what names begin with")
    parser.add_argument("--cut", type=float, default=0, help="part that is cut off")
    options = parser.parse_args()
    process = DecodingProcess()
    process.start()
    for name in KINDS:
        process.prepare(KINDS[name](64), PROCESSOR)
    small = options.side // 2
    pixels = options.side**2 - small**2
    print(
        f"bytes a pixel, between {small} x {small} and {options.side} x {options.side}"
    )
    print(f"{'kind':34} {'file':>7} {'peak':>7} {'counted':>7} {'kept':>7} {'s':>6}")
    for name, make in KINDS.items():
        if not name.startswith(options.kind):
            continue
        less, more = (
            process.measure(_cut(make(side), options.cut))
            for side in (small, options.side)
        )
        growth = (
            more.size - less.size,
            more.peak - less.peak,
            more.counted - less.counted,
            more.kept,
        )
        shown = " ".join(f"{figure / pixels:7.2f}" for figure in growth)
        over = " <" if more.peak > more.counted else ""
        line = f"{name:34} {shown} {more.seconds:6.2f}{over} {more.failure}"
        print(line, flush=True)
    process.close()


def _cut(content: bytes, part: float) -> bytes:
    return content[: int(len(content) * (1 - part))]


if __name__ == "__main__":
    main()
