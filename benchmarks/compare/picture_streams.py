"""Workload j: streams about as many pictures, with the image cache in int8 and without.

The vision side is in int8 in both, so that pictures are encoded sooner.  MAX's
operations are timed meanwhile, which takes next to no time of a step of 8 requests, and
as much in both.  The same questions answered with one token tell what reading questions
takes of it, which rounds nothing and takes as long in both.
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
    rates: dict[int, float] = {}
    seconds: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for new_tokens in (1, ANSWER_TOKENS):
            path = Path(folder) / f"{new_tokens}"
            rates[new_tokens] = process.ask(
                "profiled_streams",
                path=str(path),
                images=pictures,
                asked=QUESTIONS_A_STREAM,
                new_tokens=new_tokens,
            )
            spans = read_spans(path.read_text())
            seconds[new_tokens] = seconds_attending_to_images(spans)
    decoded = STREAMS * QUESTIONS_A_STREAM * (ANSWER_TOKENS - 1)
    throughput, attention = METRICS
    session.results.add(throughput, engine, rates[ANSWER_TOKENS])
    session.results.add(
        attention, engine, (seconds[ANSWER_TOKENS] - seconds[1]) / decoded
    )
