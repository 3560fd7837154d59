"""Measures ``mllama quantize`` on a bfloat16 checkpoint of 11B's size.

``python -m benchmarks.quantizing`` writes such a checkpoint of random weights (21 GB),
quantizes it, and prints the time, the speed and the peak memory.  It removes both files
at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.full_shape import GIB, PeakMemory
from benchmarks.random_model import SPREAD, write_small_files
from mllama.weights.names import expected_tensors
from mllama.weights.quantization_plan import GGUF_ENCODINGS

_NOISE_WEIGHTS = 1 << 25


def write_random_checkpoint(folder: Path) -> int:
    """Writes configuration, tokenizer and weights; returns the number of weights."""
    shapes = expected_tensors(write_small_files(folder))
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        source = name if name.startswith("lm_head") else f"model.{name}"
        header[source] = {
            "dtype": "BF16",
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    values = np.random.default_rng(0).normal(0, SPREAD, _NOISE_WEIGHTS)
    bits = values.astype(np.float32).view(np.uint32) >> 16
    noise = memoryview(bits.astype(np.uint16)).cast("B")
    with (
        (folder / "model.safetensors").open("wb") as file,
        tqdm(total=end, desc="writing", unit="B", unit_scale=True) as bar,
    ):
        file.write(len(text).to_bytes(8, "little") + text)
        written = 0
        while written < end:
            written += file.write(noise[: end - written])
            bar.update(written - bar.n)
    return end // 2


def main() -> None:
    """Quantizes to one encoding and prints the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoding", choices=GGUF_ENCODINGS, default="q4_k")
    parser.add_argument(
        "--folder",
        help="folder with 30 GB of free space; default: the system's temporary folder",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder, target = Path(name), Path(name) / "model.gguf"
        weights = write_random_checkpoint(folder)
        started = time.perf_counter()
        command = [sys.executable, "-m", "mllama", "quantize", str(folder), str(target)]
        process = subprocess.Popen([*command, "--encoding", options.encoding])
        memory = PeakMemory(process.pid)
        code = process.wait()
        memory.stop()
        if code:
            sys.exit(code)
        seconds = time.perf_counter() - started
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"{options.encoding}: {weights / 1e9:.2f} G weights to "
            f"{target.stat().st_size / 1e9:.2f} GB in {seconds:.0f} s, "
            f"{weights / seconds / 1e6:.0f} M weights/s; "
            f"{(usage.ru_utime + usage.ru_stime) / seconds:.2f} of {os.cpu_count()} "
            f"cores busy; peak memory {memory.private / GIB:.2f} GiB and "
            f"{memory.mapped / GIB:.2f} GiB of mapped files"
        )


if __name__ == "__main__":
    main()
