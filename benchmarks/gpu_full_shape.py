"""Compares a model of 11B's full size with transformers, for ``benchmarks.gpu``."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

QUESTION = "What is in this picture?"
NEW_TOKENS = 64
ROUNDS = 5
STREAMS = (1, 4, 16)
PROMPT_TOKENS = 512


def pictures(side: int, count: int) -> list[Image.Image]:
    """Returns different pictures of noise."""
    from benchmarks.serving import picture

    generator = np.random.default_rng(side)
    return [picture(generator, side) for _ in range(count)]


def conversation(image: Image.Image) -> list[dict[str, Any]]:
    """Returns a conversation with a question about an image."""
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
    """Returns the median seconds of several calls after a warm-up call."""
    measure()
    return statistics.median(measure() for _ in range(ROUNDS))


def transformers(arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes the checkpoint and runs transformers on it."""
    import torch

    from benchmarks.random_model import write_small_files
    from demo.training.meta_semantics import use_meta_semantics
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
    """Returns a model on the GPU with random bfloat16 weights, and writes them."""
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

    def write(number: int) -> None:
        save_file(
            {name: tensor.cpu() for name, tensor in shards[number - 1].items()},
            folder / f"model-{number}.safetensors",
            metadata={"format": "pt"},
        )

    with ThreadPoolExecutor(len(shards)) as pool:
        list(pool.map(write, range(1, len(shards) + 1)))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    return model.eval()


def full(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs this package on the same questions."""
    from mllama import LLM
    from mllama.max_model.model import MllamaModel
    from tests.reference.compare import spread_error

    folder = arguments.checkpoint
    options = {
        "model_path": folder,
        "devices": "gpu",
        "serialized_model_path": arguments.full,
        "max_batch_size": 16,
        "max_length": 8192,
    }
    execute, steps = MllamaModel.execute, []

    def recording(self: Any, model_inputs: Any) -> Any:
        outputs = execute(self, model_inputs)
        if not steps:
            steps.append(outputs.logits.to_numpy().copy())
        return outputs

    MllamaModel.execute = recording
    started = time.perf_counter()
    with LLM(**options) as llm:
        report: dict[str, Any] = {"load_seconds": time.perf_counter() - started}
        steps.clear()  # Those of the self-check.

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
