"""Compares ``mllama batch`` with ``LLM.chat``: ``python -m benchmarks.batch``.

Both have the same engine, which they use in turns.  Each round has other pictures, so
that no run finds those of another one in the image cache.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mllama.batch.inputs.question import Question
from mllama.batch.inputs.reader import InputReader
from mllama.batch.output import JsonLines
from mllama.batch.run import BatchCounts, BatchRun, unanswered
from mllama.batch.seen_ids import SeenIds
from mllama.engine.async_client import AsyncEngineClient
from mllama.llm import LLM
from mllama.server.arrival.shared_memory import SharedMemory
from mllama.server.batches.line_answers import LineAnswers
from mllama.server.batches.local_images import LocalImages
from mllama.server.capabilities import ServerCapabilities
from mllama.server.model_description import ModelDescription

QUESTIONS = (
    "What is in the picture?",
    "Which colors does the picture have?",
    "How many shapes are there?",
    "What is on the left?",
)


def write_pictures(folder: Path, count: int, seed: int) -> list[Path]:
    """Writes pictures of noise, and returns their paths."""
    generator = np.random.default_rng(seed)
    paths = [folder / f"{seed}-{number}.png" for number in range(count)]
    for path in paths:
        pixels = generator.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).resize((256, 256)).save(path)
    return paths


@dataclass(frozen=True)
class Measurement:
    """What a list took.

    Attributes:
        rate: Tokens per second.
        cpu: Milliseconds of all cores per token, which other programs disturb less.
        encoded: Images that were encoded.
    """

    rate: float
    cpu: float
    encoded: int


class Stopwatch:
    """Measures from when it is made."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._misses = llm.image_cache.misses
        self._started = time.perf_counter()
        self._cpu = time.process_time()

    def stop(self, tokens: int) -> Measurement:
        """Returns what has been measured."""
        return Measurement(
            tokens / (time.perf_counter() - self._started),
            1000 * (time.process_time() - self._cpu) / tokens,
            self._llm.image_cache.misses - self._misses,
        )


def measure_chat(llm: LLM, pictures: list[Path], new_tokens: int) -> Measurement:
    """Has ``LLM.chat`` answer the questions about pictures."""
    conversations = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": str(path)},
                    {"type": "text", "text": question},
                ],
            }
        ]
        for path in pictures
        for question in QUESTIONS
    ]
    stopwatch = Stopwatch(llm)
    outputs = llm.chat(conversations, max_new_tokens=new_tokens, ignore_eos=True)
    return stopwatch.stop(sum(output.completion_tokens for output in outputs))


def measure_batch(
    llm: LLM, pictures: list[Path], new_tokens: int, folder: Path
) -> Measurement:
    """Has a batch in OpenAI's format answer them."""
    question = Question(None, fields={"max_tokens": new_tokens, "ignore_eos": True})
    requests = folder / "requests.jsonl"
    with requests.open("w") as file:
        for path in pictures:
            for place, text in enumerate(QUESTIONS):
                line = {
                    "custom_id": f"{path.name}-{place}",
                    "method": "POST",
                    "url": "/v1/chat/completions",
                    "body": question.body([path.as_uri()], text),
                }
                file.write(json.dumps(line) + "\n")
    output = folder / "answers.jsonl"
    output.unlink(missing_ok=True)
    stopwatch = Stopwatch(llm)
    counts = asyncio.run(_batch(llm, requests, output))
    assert counts.answered == len(pictures) * len(QUESTIONS), counts
    return stopwatch.stop(counts.tokens)


async def _batch(llm: LLM, requests: Path, output: Path) -> BatchCounts:
    engine: Any = llm._engine
    images = LocalImages(requests.parent)
    answers = LineAnswers(
        AsyncEngineClient(engine),
        ServerCapabilities.of(
            engine.settings,
            engine.tokenizer,
            model_name="model",
            max_images=None,
            max_image_bytes=None,
            description=ModelDescription(),
        ),
        images,
        SharedMemory(),
    )
    counts, writer = BatchCounts(), JsonLines(output)
    reader = InputReader(str(requests), Question(None))
    run = BatchRun(
        unanswered(reader, SeenIds(), counts),
        answers,
        writer,
        counts,
        concurrency=2 * engine.max_batch_size,
    )
    await run.run()
    writer.close()
    return counts


def main() -> None:
    """Measures, and prints a line a round and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-path")
    parser.add_argument("--pictures", type=int, default=25)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    results: dict[str, list[Measurement]] = {"LLM.chat": [], "batch": []}
    with tempfile.TemporaryDirectory() as name, LLM(options.model_path) as llm:
        folder = Path(name)

        def measure(way: str, seed: int) -> Measurement:
            pictures = write_pictures(folder, options.pictures, seed)
            if way == "batch":
                return measure_batch(llm, pictures, options.new_tokens, folder)
            return measure_chat(llm, pictures, options.new_tokens)

        for place, way in enumerate(results):
            measure(way, 10_000 + place)
        for number in range(options.rounds):
            # Whoever comes second may find a warmer machine.
            ways = list(results) if number % 2 else list(reversed(results))
            for place, way in enumerate(ways):
                result = measure(way, 2 * number + place)
                results[way].append(result)
                print(
                    f"{way}: {result.rate:.0f} tokens/s, {result.cpu:.2f} ms of CPU "
                    f"per token, {result.encoded} images encoded",
                    flush=True,
                )
    for unit, value in (("tokens/s", "rate"), ("ms of CPU per token", "cpu")):
        chat, batch = (
            statistics.median(getattr(each, value) for each in results[way])
            for way in results
        )
        print(
            f"LLM.chat {chat:.2f}, batch {batch:.2f} {unit}: ratio {batch / chat:.2f}"
        )


if __name__ == "__main__":
    main()
