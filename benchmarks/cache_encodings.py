"""Compares encodings of the image cache, or of the KV cache of text.

    python -m benchmarks.cache_encodings                    # the model of `make bench`
    python -m benchmarks.cache_encodings --model-path DIR --encodings bfloat16 int8
    python -m benchmarks.cache_encodings --cache kv --words 4000
    python -m benchmarks.cache_encodings --encodings float32 bfloat16 int8 --distance

Each stream asks about a picture of its own, or about a text of its own.  Prints one
JSON object.  For each encoding: the pictures of four tiles or the tokens of text that
4 GiB hold at 11B's shape, and the median tokens per second of the streams together,
prompts included, whose pictures and texts are in the cache.  The ratios of a round to
the first encoding come from the same round, in which the encodings take turns.
With ``--distance``, it has the distance of log probabilities instead: the root mean
square and the largest of their differences from the first encoding's, over the tokens
of prompts, relative to the standard deviation of the first encoding's: of the likeliest
tokens that both encodings have among their 20.
``benchmarks.kernels.image_attention --batch "8 pictures"`` and
``benchmarks.kernels.causal_attention`` time the attention alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from benchmarks.serving import picture
from mllama import LLM

MEMORY = 4 << 30
LIKELIEST = 20

Subjects: TypeAlias = Sequence[Image.Image | str]
"""What the questions of the streams are about."""


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


def tokens_held(encoding: str) -> int:
    """Returns the tokens of text that 4 GiB hold at 11B's shape."""
    from max.graph import DeviceRef

    from graphs.forms import MODELS
    from mllama.max_model.model_config import MllamaArchConfig

    params = MllamaArchConfig.for_graphs(
        MODELS["11b"], "q4_k", [DeviceRef.CPU()], kv_cache_encoding=encoding
    ).kv_params
    return MEMORY // params.bytes_per_block * params.page_size


def conversation(about: Image.Image | str, question: str) -> list[dict[str, Any]]:
    """Returns a question about a picture or a text."""
    subject = (
        {"type": "text", "text": about}
        if isinstance(about, str)
        else {"type": "image", "image": about}
    )
    content = [subject, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def tokens_per_second(
    llm: LLM, subjects: Subjects, question: str, new_tokens: int
) -> float:
    """Returns the tokens per second of answers that are decoded together."""
    conversations = [conversation(about, question) for about in subjects]
    started = time.perf_counter()
    outputs = llm.chat(
        conversations,
        max_new_tokens=new_tokens,
        ignore_eos=True,
        temperature=0,
    )
    tokens = sum(output.completion_tokens for output in outputs)
    assert tokens == len(subjects) * new_tokens
    return tokens / (time.perf_counter() - started)


def measure(
    models: dict[str, LLM],
    subjects: Subjects,
    rounds: int,
    new_tokens: int,
    held: Callable[[str], int],
) -> dict[str, Any]:
    """Returns the figures of all encodings; `held` says what 4 GiB hold."""
    for llm in models.values():  # fills the caches
        tokens_per_second(llm, subjects, "What is it?", 2)
    rates: dict[str, list[float]] = {encoding: [] for encoding in models}
    for number in range(rounds):
        for encoding, llm in models.items():
            question = f"Tell me {number} things."
            rates[encoding].append(
                tokens_per_second(llm, subjects, question, new_tokens)
            )
    first = rates[next(iter(models))]
    return {
        encoding: {
            "held_in_4_gib": held(encoding),
            "tokens_per_second": statistics.median(measured),
            "to_first": statistics.median(
                rate / base for rate, base in zip(measured, first, strict=True)
            ),
        }
        for encoding, measured in rates.items()
    }


def log_probabilities(llm: LLM, subjects: Subjects) -> list[dict[int, float]]:
    """Returns log probabilities by token id, for each token of a prompt that sees its
    picture, or its predecessors."""
    rows = []
    for about in subjects:
        output = llm.chat(
            conversation(about, "Tell me at length what is in it."),
            max_new_tokens=1,
            prompt_logprobs=LIKELIEST,
        )
        entries = output.prompt_logprobs or []
        # The first token has none, nor has the placeholder of an image, and what
        # follows sees the image.
        first = max(i for i, entry in enumerate(entries) if entry is None) + 1
        for entry in entries[first:]:
            assert entry is not None
            rows.append(dict(entry.top))
    return rows


def distances(
    models: dict[str, LLM], subjects: Subjects
) -> dict[str, dict[str, float]]:
    """Returns the relative distances of all encodings from the first one."""
    found = {name: log_probabilities(llm, subjects) for name, llm in models.items()}
    reference = next(iter(found.values()))
    spread = np.std([value for row in reference for value in row.values()])
    report = {}
    for name, rows in found.items():
        differences = np.array(
            [
                row[token_id] - expected[token_id]
                for row, expected in zip(rows, reference, strict=True)
                for token_id in row.keys() & expected.keys()
            ]
        )
        report[name] = {
            "root_mean_square": float(np.sqrt(np.square(differences).mean()) / spread),
            "largest": float(np.abs(differences).max() / spread),
            "same_likeliest": statistics.mean(
                max(row, key=row.__getitem__) == max(expected, key=expected.__getitem__)
                for row, expected in zip(rows, reference, strict=True)
            ),
        }
    return report


def main() -> None:
    """Measures one model with each encoding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-path")
    parser.add_argument("--cache", choices=("image", "kv"), default="image")
    parser.add_argument(
        "--encodings",
        nargs="+",
        help="default: bfloat16 and int8, of the KV cache also float32",
    )
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--side", type=int, default=1120, help="side of the pictures in pixels"
    )
    parser.add_argument("--words", type=int, default=500, help="length of the texts")
    parser.add_argument("--distance", action="store_true")
    options = parser.parse_args()
    is_image = options.cache == "image"
    encodings = options.encodings or (
        ["bfloat16", "int8"] if is_image else ["float32", "bfloat16", "int8"]
    )
    model_path = options.model_path
    if model_path is None:
        from benchmarks.compare.model import model_files

        files = model_files()
        model_path = files.gguf
    generator = np.random.default_rng(0)
    subjects: Subjects = [
        picture(generator, options.side)
        if is_image
        else " ".join(map(str, generator.integers(0, 1000, options.words)))
        for _ in range(options.streams)
    ]
    with ExitStack() as stack:
        models = {
            encoding: stack.enter_context(
                LLM(
                    model_path,
                    devices="cpu",
                    max_batch_size=options.streams,
                    max_length=512 if is_image else 8 * options.words + 512,
                    **{f"{options.cache}_cache_encoding": encoding},
                )
            )
            for encoding in encodings
        }
        report: dict[str, Any]
        if options.distance:
            report = distances(models, subjects)
        else:
            held = pictures_held if is_image else tokens_held
            report = measure(models, subjects, options.rounds, options.new_tokens, held)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
