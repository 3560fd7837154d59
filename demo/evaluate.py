"""Measure the demo model: ``python -m demo.evaluate --seed 7 --count 300``.

Draws fresh scenes and questions from the seed and asks them through the project's own
pipeline.  Asks them again with every picture blanked to gray, which tells how much can
be answered without looking.  The last line of the output is one JSON object; a readable
table goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from demo.data.conversations import KINDS, messages, random_conversation
from demo.data.drawing import render
from demo.data.questions import ask
from demo.data.scenes import random_scene

GRAY = (128, 128, 128)
"""About the middle of the range of pixels."""

MAX_NEW_TOKENS = 40

GPU_OPTIONS = ("enable_overlap_scheduler", "device_graph_capture", "greedy_on_gpu")
"""Arguments of ``LLM`` that no GPU has verified."""

Messages = list[dict[str, Any]]


def questions(seed: int, count: int) -> Iterator[tuple[str, Messages, Messages, str]]:
    """Yields kind, conversation, the same with blank pictures, and the right answer."""
    rng = np.random.default_rng((seed, 4))
    for index in range(count):
        kind = KINDS[index % len(KINDS)]
        conversation, scenes = random_conversation(rng, kind)
        pictures = [render(scene) for scene in scenes]
        blank = [Image.new("RGB", picture.size, GRAY) for picture in pictures]
        yield (
            kind,
            messages(conversation, pictures),
            messages(conversation, blank),
            conversation.answer,
        )


def example(seed: int = 5) -> tuple[Image.Image, str, str]:
    """Returns a picture of two shapes, a question about it and the right answer."""
    rng = np.random.default_rng(seed)
    while True:
        scene = random_scene(rng, layout=(2, 2))
        asked = ask(rng, scene, "describe")
        if asked is not None and len(scene.shapes) == 2 == len(scene.items):
            return render(scene), "What is in this picture?", asked.answer


def report(
    kinds: Sequence[str], right: Sequence[bool], blind: Sequence[bool]
) -> dict[str, Any]:
    """Returns the accuracy overall, by kind, and with blank pictures."""
    marks: dict[str, list[bool]] = {}
    for kind, ok in zip(kinds, right, strict=True):
        marks.setdefault(kind, []).append(ok)
    by_kind = {kind: float(np.mean(of_kind)) for kind, of_kind in marks.items()}
    return {
        "accuracy": float(np.mean(right)),
        "by_kind": by_kind,
        "blind_accuracy": float(np.mean(blind)),
    }


def run(seed: int, count: int, **model: Any) -> dict[str, Any]:
    """Asks all questions and compares the answers; prints mistakes to stderr.

    Args:
        seed: Of the scenes and questions.
        count: Number of questions.
        model: Arguments of ``LLM``.

    Returns:
        The report, with ``seed`` and ``count``.
    """
    from mllama import LLM

    drawn = list(questions(seed, count))
    kinds = [kind for kind, *_ in drawn]
    wanted = [answer for *_, answer in drawn]
    with LLM(**model) as llm:
        seen, unseen = (
            [
                output.text.strip() == answer
                for output, answer in zip(
                    _chat(llm, asked, wanted), wanted, strict=True
                )
            ]
            for asked in ([m for _, m, _, _ in drawn], [b for _, _, b, _ in drawn])
        )
    return {**report(kinds, seen, unseen), "count": count, "seed": seed}


def _chat(llm: Any, conversations: list[Messages], wanted: list[str]) -> list[Any]:
    outputs = llm.chat(conversations, max_new_tokens=MAX_NEW_TOKENS)
    for conversation, output, answer in zip(
        conversations, outputs, wanted, strict=True
    ):
        if output.text.strip() != answer:
            said = conversation[-1]["content"]
            text = said if isinstance(said, str) else _text(said)
            print(f"{text!r}: {output.text!r}, not {answer!r}", file=sys.stderr)
    return list(outputs)


def _text(parts: list[dict[str, Any]]) -> str:
    return " ".join(part["text"] for part in parts if part["type"] == "text")


def table(result: dict[str, Any]) -> str:
    """Returns the result as a table for people."""
    rows = [*result["by_kind"].items(), ("overall", result["accuracy"])]
    rows.append(("blind", result["blind_accuracy"]))
    lines = [f"{name:12} {100 * share:6.1f} %" for name, share in rows]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--model-path", type=Path, default=None)
    parser.add_argument("--quantization-encoding")
    parser.add_argument("--vision-encoding")
    parser.add_argument("--image-cache-encoding", default="auto")
    parser.add_argument("--kv-cache-encoding", default="auto")
    parser.add_argument("--max-batch-size", type=int, default=8)
    parser.add_argument("--devices")
    for name in GPU_OPTIONS:
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true")
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error("--count must be at least 1")
    result = run(
        options.seed,
        options.count,
        model_path=options.model_path,
        quantization_encoding=options.quantization_encoding,
        vision_encoding=options.vision_encoding,
        image_cache_encoding=options.image_cache_encoding,
        kv_cache_encoding=options.kv_cache_encoding,
        max_batch_size=options.max_batch_size,
        devices=options.devices,
        **{name: getattr(options, name) for name in GPU_OPTIONS},
    )
    if options.format == "text":
        print(table(result), file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
