"""Checks results and measures speed on a GPU.

    python -m benchmarks.gpu                          # compiles first, for minutes
    python -m benchmarks.gpu --demo DIR --full DIR    # uses compiled models
    python -m benchmarks.gpu --parts demo,logits
    python -m benchmarks.gpu --find-images-fault --json FILE

The last one finds out within ten minutes which images come out wrong on this GPU, and
why (:mod:`benchmarks.gpu_fault`); the others check everything.

DIR is a folder that ``mllama compile --target ... --max-batch-size 16`` wrote on
another machine, with ``--max-length 8192`` for the model of 11B's size.

Each part runs in a separate process, so that a failure doesn't affect other parts:

* ``device``: the GPU that MAX finds.
* ``demo``: the number of questions that the demo model answers correctly.
* ``logits``: the logits of the demo model in bfloat16 for the requests of
  ``tests/parity``, compared with transformers in float32 on the CPU.
* ``server``: ``mllama serve`` with one request and then many concurrent ones.
* ``transformers``: writes a random checkpoint of 11B's full size (21 GB), and runs
  transformers in float32 for logits and in bfloat16 for logits and times.
* ``full``: runs this package on the same checkpoint and questions.

The last line of each part is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_fault.search import add_options, find_images_fault
from benchmarks.gpu_full_shape import full, transformers

SECONDS = 600
"""Time limit of a part."""


def start(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the options to start the demo model, from a compiled model if given."""
    return {"devices": "gpu", "serialized_model_path": arguments.demo}


def device(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the properties of the GPU that MAX finds."""
    from max.driver import Accelerator

    gpu = Accelerator(0)
    return {
        "api": gpu.api,
        "architecture": gpu.architecture_name,
        "model": gpu.model_name,
        "memory": gpu.stats["total_memory"],
        "cpus": os.cpu_count(),
    }


def demo(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the demo model's score on random questions."""
    from demo.evaluate import run

    started = time.perf_counter()
    result = run(11, 600, **start(arguments))
    return {**result, "seconds": time.perf_counter() - started}


def logits(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compares the logits of every test request, alone and in a batch."""
    from max.driver import DeviceSpec

    from mllama.image_cache.verdict import ImageMode, ImageVerdict
    from mllama.launch.options import EngineOptions
    from tests.parity.pipeline import STEPS, Pipeline
    from tests.reference.cases import cases
    from tests.reference.compare import spread_error
    from tests.reference.configs import DEMO_MODEL
    from tests.reference.oracle import Reference

    files = EngineOptions(**start(arguments)).resolve()
    pipeline = Pipeline(
        DEMO_MODEL,
        device_specs=[DeviceSpec.accelerator(0)],
        quantization_encoding="bfloat16",
        vision_config_overrides=files.settings.to_max(),
        max_batch_size=16,
    )
    # Images as they are, whatever a self-check would say.
    as_they_are = ImageVerdict(ImageMode.DIRECT)
    pipeline.tokenizer.image_limits.set_gpu_verdict(lambda: as_they_are)
    oracle = Reference(DEMO_MODEL)
    side = pipeline.model.arch_config.model.vision_config.image_size
    asked = cases(side)
    batch = asked[:8]
    errors, equal, tokens = {}, 0, 0
    together = pipeline.decode(batch)
    for index, case in enumerate(asked):
        (answer,) = pipeline.decode([case])
        expected = oracle.decode(case.messages, STEPS)
        same = [
            ours == theirs
            for ours, theirs in zip(answer.token_ids, expected.token_ids, strict=True)
        ]
        # After the first different token, the contexts differ.
        until = same.index(False) + 1 if False in same else len(same)
        found = np.stack(answer.logits)[:until]
        errors[case.name] = float(spread_error(found, expected.logits[:until]).max())
        if index < len(batch):
            first = together[index].logits[0]
            errors[f"{case.name} in a batch"] = float(
                spread_error(first, expected.logits[0])
            )
        equal, tokens = equal + sum(same), tokens + len(same)
    return {"tokens": tokens, "equal": equal, "errors": errors}


def server(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures the server with OpenAI's client."""
    import openai

    from benchmarks.full_shape import wait_until_ready
    from demo.evaluate import example
    from tests.reference.cases import data_url

    shown, question, answer = example()
    command = [sys.executable, "-m", "mllama", "serve", "--devices", "gpu"]
    command += ["--port", "8765", "--served-model-name", "demo"]
    command += ["--max-batch-size", "16"]
    if arguments.demo is not None:
        command += ["--serialized-model-path", str(arguments.demo)]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    client = openai.OpenAI(base_url="http://127.0.0.1:8765/v1", api_key="none")
    try:
        wait_until_ready(client, process)
        ready = time.perf_counter() - started

        def ask(number: int) -> str:
            url = {"url": data_url(shown)}
            content: Any = [
                {"type": "image_url", "image_url": url},
                {"type": "text", "text": question},
            ]
            chunks = client.chat.completions.create(
                model="demo",
                messages=[{"role": "user", "content": content}],
                max_tokens=40,
                stream=bool(number % 2),
            )
            if number % 2:
                return "".join(
                    chunk.choices[0].delta.content or ""
                    for chunk in chunks
                    if chunk.choices
                )
            return chunks.choices[0].message.content or ""

        first = ask(1)
        began = time.perf_counter()
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(ask, range(64)))
        return {
            "ready_seconds": ready,
            "right": first.strip() == answer,
            "right_of_64": sum(text.strip() == answer for text in answers),
            "seconds_of_64": time.perf_counter() - began,
        }
    finally:
        process.terminate()
        process.wait(60)


PARTS = {
    function.__name__: function
    for function in (device, demo, logits, server, transformers, full)
}


def main() -> None:
    """Runs the parts, and exits with 1 if one failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--demo", type=Path, help="folder of the compiled demo model")
    parser.add_argument(
        "--full", type=Path, help="folder of the compiled model of 11B's size"
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="a folder with 22 GB of free space"
    )
    parser.add_argument(
        "--seconds", type=int, default=SECONDS, help="time limit of a part"
    )
    parser.add_argument("--inside", choices=PARTS, help=argparse.SUPPRESS)
    add_options(parser)
    arguments = parser.parse_args()
    if arguments.find_images_fault:
        find_images_fault(arguments)
        return
    if arguments.inside:
        print(json.dumps(PARTS[arguments.inside](arguments)))
        return
    folder = arguments.checkpoint or Path(tempfile.mkdtemp())
    failed = []
    try:
        for part in arguments.parts.split(","):
            if not _run(part, arguments, folder):
                failed.append(part)
    finally:
        if arguments.checkpoint is None:
            shutil.rmtree(folder)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _run(part: str, arguments: argparse.Namespace, folder: Path) -> bool:
    print(f"== {part}", flush=True)
    command = [sys.executable, "-m", "benchmarks.gpu", "--inside", part]
    command += ["--checkpoint", str(folder)]
    for name in ("demo", "full"):
        if getattr(arguments, name) is not None:
            command += [f"--{name}", str(getattr(arguments, name))]
    started = time.perf_counter()
    try:
        code = subprocess.run(command, timeout=arguments.seconds).returncode
    except subprocess.TimeoutExpired:
        code = "out of time"
    print(f"== {part}: {code}, {time.perf_counter() - started:.0f} s", flush=True)
    return code == 0


if __name__ == "__main__":
    main()
