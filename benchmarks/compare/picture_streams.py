"""Workload j: streams about as many pictures, with the image cache in int8 and without.

The vision side is in int8 in both, so that pictures are encoded sooner.  MAX's
operations are timed meanwhile, which takes next to no time of a step of 8 requests, and
as much in both.  What attention takes of reading the questions is measured by answers
of one token, and taken off: prefill computes in float32 whatever the cache holds.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.cache_encodings import pictures_held
from benchmarks.compare.ceilings import CompilerFailure
from benchmarks.compare.environments import EnvironmentFailure
from benchmarks.compare.process import EngineFailure, EngineProcess
from benchmarks.compare.session import Session
from benchmarks.compare.spans import (
    profiling_variables,
    read_spans,
    seconds_attending_to_images,
)
from benchmarks.compare.variants import EIGHT_BIT, INT8_IMAGES
from benchmarks.serving import ANSWER_TOKENS

ENGINES = {EIGHT_BIT: "bfloat16", INT8_IMAGES: "int8"}
"""The engines, and the encodings of their image caches."""

STREAMS, QUESTIONS_A_STREAM = 8, 2
METRICS = ("streams_8_pictures", "attention_8_pictures")


def measure_picture_streams(session: Session, rounds: int) -> None:
    """Asks each engine by 8 users, each about another picture of 4 tiles.

    How many such pictures 4 GiB hold is counted for 11B's shape.
    """
    for engine, encoding in ENGINES.items():
        session.results.add("pictures_in_4_gib", engine, pictures_held(encoding))
    pictures = [session.prompts.picture(4) for _ in range(STREAMS)]
    running: dict[str, EngineProcess] = {}
    try:
        for engine in ENGINES:
            print(f"starting {engine} for pictures", file=sys.stderr, flush=True)
            try:
                running[engine] = session.start(engine, profiling_variables())
                for picture in pictures:  # They are encoded before the measurement.
                    running[engine].ask(
                        "ask", prompt="Hello", images=[picture], new_tokens=1
                    )
            except (CompilerFailure, EngineFailure, EnvironmentFailure) as error:
                _fail(session, engine, error)
                return
        for number in range(rounds):
            for engine in ENGINES if number % 2 == 0 else reversed(ENGINES):
                try:
                    _measure(session, engine, running[engine], pictures)
                except (EngineFailure, OSError) as error:
                    _fail(session, engine, error)
                    return
    finally:
        for process in running.values():
            process.close()


def _fail(session: Session, engine: str, error: Exception) -> None:
    for metric in METRICS:
        session.results.fail(metric, engine, str(error))


def _measure(
    session: Session, engine: str, process: EngineProcess, pictures: list[str]
) -> None:
    _, reading = _ask(process, pictures, 1)
    rate, all_seconds = _ask(process, pictures, ANSWER_TOKENS)
    decoded = STREAMS * QUESTIONS_A_STREAM * (ANSWER_TOKENS - 1)
    throughput, attention = METRICS
    session.results.add(throughput, engine, rate)
    session.results.add(attention, engine, (all_seconds - reading) / decoded)


def _ask(
    process: EngineProcess, pictures: list[str], new_tokens: int
) -> tuple[float, float]:
    """Returns the tokens per second of answers of a length, and the seconds of their
    cross-attention ops."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spans"
        rate: float = process.ask(
            "profiled_streams",
            path=str(path),
            images=pictures,
            asked=QUESTIONS_A_STREAM,
            new_tokens=new_tokens,
        )
        return rate, seconds_attending_to_images(read_spans(path.read_text()))
