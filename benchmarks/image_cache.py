"""Compares encodings of the image cache with streams about one picture each.

    python -m benchmarks.image_cache                       # the model of `make bench`
    python -m benchmarks.image_cache --model-path DIR --encodings bfloat16 int8
    python -m benchmarks.image_cache --streams 8 --new-tokens 96 --rounds 5

    python -m benchmarks.image_cache --encodings float32 bfloat16 int8 --distance

Prints one JSON object.  For each encoding: the pictures of the largest size that 4 GiB
hold at 11B's shape, and the median tokens per second of the streams together, prompts
included, whose pictures are in the cache.  The ratios of a round to the first encoding
come from the same round, in which the encodings take turns.
With ``--distance``, it has the distance of log probabilities instead: the root mean
square and the largest of their differences from the first encoding's, over all tokens
of the vocabulary and of prompts about the pictures, relative to the standard deviation
of the first encoding's.
``benchmarks.kernels.image_attention --batch "8 pictures"`` times the attention alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.serving import picture
from mllama import LLM

MEMORY = 4 << 30


def pictures_held(encoding: str) -> int:
    """Returns the pictures of four tiles that 4 GiB hold at 11B's shape."""
    from max.graph import DeviceRef

    from graphs.forms import MODELS
    from mllama.max_model.memory_planner import pages_per_image
    from mllama.max_model.model_config import MllamaArchConfig

    config = MllamaArchConfig.for_graphs(
        MODELS["11b"], "q4_k", [DeviceRef.CPU()], image_cache_encoding=encoding
    )
    pages = MEMORY // config.image_cache_params.bytes_per_block
    return (pages - 1) // pages_per_image(config)


def conversation(image: Image.Image, question: str) -> list[dict[str, Any]]:
    """Returns a question about a picture."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def tokens_per_second(
    llm: LLM, pictures: Sequence[Image.Image], question: str, new_tokens: int
) -> float:
    """Returns the tokens per second of answers that are decoded together."""
    conversations = [conversation(image, question) for image in pictures]
    started = time.perf_counter()
    outputs = llm.chat(
        conversations,
        max_new_tokens=new_tokens,
        ignore_eos=True,
        temperature=0,
    )
    tokens = sum(output.completion_tokens for output in outputs)
    assert tokens == len(pictures) * new_tokens
    return tokens / (time.perf_counter() - started)


def measure(
    models: dict[str, LLM],
    pictures: Sequence[Image.Image],
    rounds: int,
    new_tokens: int,
) -> dict[str, Any]:
    """Returns the figures of all encodings."""
    for llm in models.values():  # encodes the pictures
        tokens_per_second(llm, pictures, "What is it?", 2)
    rates: dict[str, list[float]] = {encoding: [] for encoding in models}
    for number in range(rounds):
        for encoding, llm in models.items():
            question = f"Tell me {number} things."
            rates[encoding].append(
                tokens_per_second(llm, pictures, question, new_tokens)
            )
    first = rates[next(iter(models))]
    return {
        encoding: {
            "pictures_in_4_gib": pictures_held(encoding),
            "tokens_per_second": statistics.median(measured),
            "to_first": statistics.median(
                rate / base for rate, base in zip(measured, first, strict=True)
            ),
        }
        for encoding, measured in rates.items()
    }


def log_probabilities(
    llm: LLM, pictures: Sequence[Image.Image]
) -> npt.NDArray[np.float64]:
    """Returns the log probabilities of the whole vocabulary, ``[tokens, vocabulary]``,
    for each token of a prompt that sees its picture."""
    rows = []
    for image in pictures:
        output = llm.chat(
            conversation(image, "Tell me at length what you see in it."),
            max_new_tokens=1,
            prompt_logprobs=-1,
        )
        entries = output.prompt_logprobs or []
        # The placeholder of the image has none, and what follows it sees the image.
        placeholder = max(i for i, entry in enumerate(entries) if entry is None)
        for entry in entries[placeholder + 1 :]:
            assert entry is not None
            rows.append([entry.top[token_id] for token_id in sorted(entry.top)])
    return np.array(rows)


def distances(
    models: dict[str, LLM], pictures: Sequence[Image.Image]
) -> dict[str, dict[str, float]]:
    """Returns the relative distances of all encodings from the first one."""
    found = {name: log_probabilities(llm, pictures) for name, llm in models.items()}
    reference = next(iter(found.values()))
    return {
        name: {
            "root_mean_square": float(
                np.sqrt(np.square(values - reference).mean()) / reference.std()
            ),
            "largest": float(np.abs(values - reference).max() / reference.std()),
            "same_likeliest": float(
                (values.argmax(axis=1) == reference.argmax(axis=1)).mean()
            ),
        }
        for name, values in found.items()
    }


def main() -> None:
    """Measures one model with each encoding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-path")
    parser.add_argument("--encodings", nargs="+", default=["bfloat16", "int8"])
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--side", type=int, default=1120, help="side of the pictures in pixels"
    )
    parser.add_argument("--distance", action="store_true")
    options = parser.parse_args()
    model_path = options.model_path
    if model_path is None:
        from benchmarks.compare.model import model_files

        files = model_files()
        model_path = files.gguf
    generator = np.random.default_rng(0)
    pictures = [picture(generator, options.side) for _ in range(options.streams)]
    with ExitStack() as stack:
        models = {
            encoding: stack.enter_context(
                LLM(
                    model_path,
                    devices="cpu",
                    max_batch_size=options.streams,
                    max_length=512,
                    image_cache_encoding=encoding,
                )
            )
            for encoding in options.encodings
        }
        report: dict[str, Any]
        if options.distance:
            report = distances(models, pictures)
        else:
            report = measure(models, pictures, options.rounds, options.new_tokens)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
