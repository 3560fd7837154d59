"""Measures the latency of a question about an image, and the throughput of streams.

    python -m benchmarks.serving                      # the demo model
    python -m benchmarks.serving --published-widths   # random weights, few layers
    python -m benchmarks.serving --model-path DIR
    python -m benchmarks.serving --devices gpu --streams 1,4,16,64 --greedy-on-gpu

Prints one JSON object with medians over ``--rounds``, each with a new picture: seconds
to the first token, and tokens per second, prompts included, of 1, 4 and 8 (or
``--streams``) concurrent users with sequential questions, also as a ratio to the first
number of users in the same round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from demo.evaluate import GPU_OPTIONS
from mllama import LLM

STREAMS = "1,4,8"
ANSWER_TOKENS = 64
QUESTIONS = ("What is in the picture?", "Which colors are there?")


def picture(
    generator: np.random.Generator, width: int, height: int | None = None
) -> Image.Image:
    """Returns a picture of coarse noise, square unless a height is given."""
    grains = generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    size = (width, height or width)
    return Image.fromarray(grains).resize(size, Image.Resampling.NEAREST)


def seconds_to_first_token(llm: LLM, question: str, image: Image.Image) -> float:
    """Returns the seconds to the first token of a request that runs alone."""
    answer = llm.generate(question, [image], max_new_tokens=1)
    return answer.time_to_first_token_seconds


def tokens_per_second(
    llm: LLM,
    images: Sequence[Image.Image],
    asked: int,
    new_tokens: int = ANSWER_TOKENS,
    **sampling: Any,
) -> float:
    """Returns the throughput of users who ask in sequence about cached images.

    Args:
        llm: The model.
        images: Each user's image.
        asked: Questions of each user.
        new_tokens: Most tokens of an answer.
        sampling: More settings of the answers.
    """

    def user(number: int) -> int:
        return sum(
            llm.generate(
                f"Tell me {number} and {question} things.",
                [images[number]],
                max_new_tokens=new_tokens,
                **sampling,
            ).completion_tokens
            for question in range(asked)
        )

    started = time.perf_counter()
    with ThreadPoolExecutor(len(images)) as pool:
        tokens = sum(pool.map(user, range(len(images))))
    return tokens / (time.perf_counter() - started)


def measure(
    llm: LLM, streams: Sequence[int], rounds: int, asked: int, side: int
) -> dict[str, Any]:
    """Returns all figures of one model."""
    generator = np.random.default_rng(0)
    waits: list[list[float]] = []
    rates: dict[int, list[float]] = {users: [] for users in streams}
    seconds_to_first_token(llm, QUESTIONS[0], picture(generator, side))  # warms up
    for _ in range(rounds):
        image = picture(generator, side)
        waits.append([seconds_to_first_token(llm, q, image) for q in QUESTIONS])
        for users, measured in rates.items():
            measured.append(tokens_per_second(llm, [image] * users, asked))
    first, second = (statistics.median(wait) for wait in zip(*waits, strict=True))
    return {
        "first_question_seconds": first,
        "second_question_seconds": second,
        "second_to_first": statistics.median(b / a for a, b in waits),
        "tokens_per_second": {n: statistics.median(r) for n, r in rates.items()},
        "to_first": {
            n: statistics.median(
                b / a for a, b in zip(rates[streams[0]], r, strict=True)
            )
            for n, r in rates.items()
        },
    }


def main() -> None:
    """Measures one model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model-path")
    which.add_argument("--published-widths", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--asked", type=int, default=12, help="questions per stream")
    parser.add_argument(
        "--side", type=int, default=1100, help="side of the pictures in pixels"
    )
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--quantization-encoding")
    parser.add_argument("--devices")
    parser.add_argument("--streams", default=STREAMS, help="numbers of users")
    parser.add_argument("--max-images-per-request", type=int)
    for name in GPU_OPTIONS:
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true")
    options = parser.parse_args()
    streams = [int(number) for number in options.streams.split(",")]
    model_path = options.model_path
    if options.published_widths:
        from tests.reference.checkpoints import checkpoint

        model_path = checkpoint("published_widths")
    with LLM(
        model_path,
        devices=options.devices,
        max_batch_size=max(streams),
        max_length=options.max_length,
        max_images_per_request=options.max_images_per_request,
        quantization_encoding=options.quantization_encoding,
        **{name: getattr(options, name) for name in GPU_OPTIONS},
    ) as llm:
        report = measure(llm, streams, options.rounds, options.asked, options.side)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
