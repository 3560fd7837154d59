"""What a GPU computes and how long it takes, where there is one.

    python -m benchmarks.gpu                      # compiles first, for many minutes
    python -m benchmarks.gpu --demo DIR --full DIR    # compiled models, ready
    python -m benchmarks.gpu --parts demo,logits

Each part is a process of its own, so that one that fails costs no other:

* ``device``: what MAX finds.
* ``demo``: questions to the demo model, how many of them are answered right.
* ``logits``: the requests of ``tests/parity`` in bfloat16 beside transformers in
  float32 on the CPU, on the demo model.
* ``server``: ``mllama serve``, one request and then many at once.
* ``transformers``: writes a random checkpoint of 11B's full shape (21 GB), and asks
  transformers, in float32 for the logits and in bfloat16 for these and the times.
* ``full``: asks this package the same.

The last line of each part is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PARTS = ("device", "demo", "logits", "server", "transformers", "full")
SECONDS = 600
"""A part that takes longer has failed."""

QUESTION = "What is in this picture?"
NEW_TOKENS = 64
ROUNDS = 5
STREAMS = (1, 4, 16)
PROMPT_TOKENS = 512


def start(compiled: Path | None, **options: Any) -> dict[str, Any]:
    """Options of a start on the GPU, from a compiled model if there is one."""
    return {"devices": "gpu", "serialized_model_path": compiled, **options}


def device(arguments: argparse.Namespace) -> dict[str, Any]:
    """What MAX finds."""
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
    """Answers of the demo model."""
    from mllama.demo.evaluate import run

    started = time.perf_counter()
    result = run(11, 600, **start(arguments.demo))
    return {**result, "seconds": time.perf_counter() - started}


def logits(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every request of the tests, alone and as a batch."""
    from max.driver import DeviceSpec

    from mllama.engine.options import EngineOptions
    from tests.parity.pipeline import STEPS, Pipeline
    from tests.reference.cases import cases
    from tests.reference.compare import spread_error
    from tests.reference.configs import DEMO_MODEL
    from tests.reference.oracle import Reference

    files = EngineOptions(**start(arguments.demo)).check()
    pipeline = Pipeline(
        DEMO_MODEL,
        device_specs=[DeviceSpec.accelerator(0)],
        quantization_encoding="bfloat16",
        vision_config_overrides=files.settings,
        max_batch_size=16,
    )
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
        # What follows another token answers another question.
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
    """The server, asked with OpenAI's client."""
    import openai

    from benchmarks.full_shape import wait_until_ready
    from mllama.demo.evaluate import example
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


def pictures(side: int, count: int) -> list[Image.Image]:
    """Pictures of noise, one like no other."""
    from benchmarks.serving import picture

    generator = np.random.default_rng(side)
    return [picture(generator, side) for _ in range(count)]


def conversation(image: Image.Image) -> list[dict[str, Any]]:
    """A question about an image."""
    return [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": image},
                {"type": "text", "text": QUESTION},
            ],
        }
    ]


def median_of(measure: Callable[[], float]) -> float:
    """Median seconds of several calls, after one that warms up."""
    measure()
    return statistics.median(measure() for _ in range(ROUNDS))


def transformers(arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes the checkpoint and asks the reference about it."""
    import torch

    from benchmarks.random_model import write_small_files
    from mllama.demo.meta_semantics import use_meta_semantics
    from tests.reference.oracle import load_processor

    folder = arguments.checkpoint
    folder.mkdir(parents=True, exist_ok=True)
    write_small_files(folder)
    started = time.perf_counter()
    model = _random_model(folder)
    written = time.perf_counter() - started
    print(f"written in {written:.0f} s", flush=True)
    use_meta_semantics(model)
    processor = load_processor(folder)

    def inputs(image: Image.Image) -> Any:
        text = processor.apply_chat_template(
            conversation(image), tokenize=False, add_generation_prompt=True
        )
        return processor(
            images=[[image]], text=text, add_special_tokens=False, return_tensors="pt"
        ).to("cuda")

    @torch.inference_mode()
    def seconds(prepared: Any, tokens: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        model.generate(
            **prepared,
            do_sample=False,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
        )
        torch.cuda.synchronize()
        return time.perf_counter() - began

    shown = iter(pictures(1120, ROUNDS + 1))
    small = iter(pictures(560, ROUNDS + 1))
    one = inputs(pictures(1120, 1)[0])
    times = {
        "first token, 4 tiles": median_of(lambda: seconds(inputs(next(shown)), 1)),
        "first token, 1 tile": median_of(lambda: seconds(inputs(next(small)), 1)),
    }
    whole = statistics.median(seconds(one, NEW_TOKENS + 1) for _ in range(3))
    times["token"] = (whole - times["first token, 4 tiles"]) / NEW_TOKENS
    with torch.inference_mode():
        seen = {"bfloat16": model(**one).logits[0, -1].float().cpu().numpy()}
        model.float()
        seen["float32"] = model(**one).logits[0, -1].cpu().numpy()
    np.savez(folder / "logits.npz", **seen)
    return {"written_seconds": written, "seconds": times, "torch": torch.__version__}


def _random_model(folder: Path) -> Any:
    """A model on the GPU with random bfloat16 weights, which are written as well."""
    import torch
    from safetensors.torch import save_file
    from transformers import MllamaConfig, MllamaForConditionalGeneration

    from tests.reference.weights import is_gate, is_norm, published_name, spread

    config = MllamaConfig.from_pretrained(folder)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = MllamaForConditionalGeneration._from_config(
            config, dtype=torch.bfloat16
        )
    shards: list[dict[str, Any]] = [{}]
    index, size = {}, 0
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach()
        if is_gate(name):
            tensor.fill_(0.7)
        elif is_norm(name):
            tensor.normal_(0, 0.1 if name.endswith("bias") else 0.2)
            if not name.endswith("bias"):
                tensor.add_(1)
        else:
            tensor.normal_(0, spread(name, tuple(tensor.shape)))
        if size > 4 << 30:
            shards.append({})
            size = 0
        shards[-1][published_name(name)] = tensor
        size += tensor.numel() * tensor.element_size()
        index[published_name(name)] = f"model-{len(shards)}.safetensors"
    with ThreadPoolExecutor(len(shards)) as pool:
        for number, shard in enumerate(shards, 1):
            file = folder / f"model-{number}.safetensors"
            pool.submit(
                lambda shard=shard, file=file: save_file(
                    {name: tensor.cpu() for name, tensor in shard.items()},
                    file,
                    metadata={"format": "pt"},
                )
            )
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    return model.eval()


def full(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same questions to this package."""
    from mllama import LLM
    from mllama.serving.model import MllamaModel
    from tests.reference.compare import spread_error

    folder = arguments.checkpoint
    options = start(
        arguments.full, model_path=folder, max_batch_size=16, max_length=8192
    )
    execute, steps = MllamaModel.execute, []

    def recording(self: Any, model_inputs: Any) -> Any:
        outputs = execute(self, model_inputs)
        if len(steps) < 1:
            steps.append(outputs.logits.to_numpy().copy())
        return outputs

    MllamaModel.execute = recording
    started = time.perf_counter()
    with LLM(**options) as llm:
        report: dict[str, Any] = {"load_seconds": time.perf_counter() - started}

        def first_token(messages: Any) -> float:
            return llm.chat(messages, max_new_tokens=1).time_to_first_token_seconds

        one = conversation(pictures(1120, 1)[0])
        report["first of all"] = first_token(one)
        known = np.load(folder / "logits.npz")
        report["errors"] = {
            "ours": float(spread_error(steps[0][-1], known["float32"])),
            "transformers": float(spread_error(known["bfloat16"], known["float32"])),
        }
        print(json.dumps(report), flush=True)
        shown = iter(pictures(1121, ROUNDS + 1))
        small = iter(pictures(559, ROUNDS + 1))
        story = [{"role": "user", "content": "ab " * (PROMPT_TOKENS // 3)}]
        report["seconds"] = {
            "first token, 4 tiles": median_of(
                lambda: first_token(conversation(next(shown)))
            ),
            "first token, 1 tile": median_of(
                lambda: first_token(conversation(next(small)))
            ),
            "same image again": median_of(lambda: first_token(one)),
            "text": median_of(lambda: first_token(story)),
            "token": _seconds_a_token(llm, one),
        }
        print(json.dumps(report), flush=True)
        report["tokens per second"] = {
            f"{streams} about {what}": _rate(llm, [asked] * streams)
            for what, asked in (("text", story), ("the image", one))
            for streams in STREAMS
        }
    return report


def _seconds_a_token(llm: Any, messages: Any) -> float:
    stamps = [
        time.perf_counter()
        for _ in llm.chat(messages, stream=True, max_new_tokens=NEW_TOKENS)
    ]
    return float(np.median(np.diff(stamps)))


def _rate(llm: Any, conversations: Sequence[Any]) -> float:
    started = time.perf_counter()
    answers = llm.chat(conversations, max_new_tokens=NEW_TOKENS)
    tokens = sum(answer.completion_tokens for answer in answers)
    return float(tokens / (time.perf_counter() - started))


def main() -> None:
    """Runs the parts; exit code 1 if one failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--demo", type=Path, help="the demo model, compiled")
    parser.add_argument("--full", type=Path, help="11B's shape, compiled")
    parser.add_argument("--checkpoint", type=Path, help="a folder with 22 GB of room")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for one part")
    parser.add_argument("--inside", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(globals()[arguments.inside](arguments)))
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
