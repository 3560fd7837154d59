"""Measures how costs scale with images, tiles, context, batch size and layers."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.compare.environments import FOLDER
from benchmarks.compare.process import EngineFailure
from benchmarks.compare.prompts import Prompts
from benchmarks.compare.session import Session
from benchmarks.compare.variants import OURS
from benchmarks.random_model import Depth, write_random_gguf, write_small_files

TOKENS, ANSWER = 176, 17
CONTEXTS = (128, 512, 1024, 2048, 4096)
BATCHES = (1, 2, 4, 8)
DEPTHS = (1, 2, 3)
"""Multiples of 4 text layers (one with cross-attention) and 4 + 1 vision layers."""

_FIELDS = {
    "first token": "first",
    "vision graph": "vision",
    "prefill graph": "prefill_graph",
    "a later token": "per_token",
}


class _Curves:
    """The curves over one axis; each point is a median of several questions."""

    def __init__(self, session: Session, axis: str, rounds: int) -> None:
        self._points = session.results.growth.setdefault(axis, {})
        self._results, self._axis, self._rounds = session.results, axis, rounds

    def add(self, value: float, ask: Callable[[], dict[str, float]]) -> None:
        """Adds a point, or records why its questions failed."""
        print(f"growth: {self._axis} {value:g}", file=sys.stderr, flush=True)
        try:
            answers = [ask() for _ in range(self._rounds)]
        except EngineFailure as error:
            self._results.fail(f"growth of {self._axis}", OURS, str(error))
            return
        for title, name in (*_FIELDS.items(), ("a step of all", "step")):
            values = [answer[name] for answer in answers if answer.get(name)]
            if values:
                point = [float(value), statistics.median(values)]
                self._points.setdefault(title, []).append(point)


def measure_growth(session: Session, rounds: int) -> None:
    """Measures all axes; each point of the last axis has a model of its own."""
    prompts = session.prompts
    engine = session.engine(OURS)

    def ask(tokens: int, pictures: list[str]) -> dict[str, float]:
        question = prompts.question(tokens, len(pictures))
        return engine.ask("ask", prompt=question, images=pictures, new_tokens=ANSWER)

    curves = _Curves(session, "images of one tile", rounds)
    for count in (1, 2, 3, 4):
        curves.add(
            count, lambda n=count: ask(TOKENS, [prompts.picture(1) for _ in range(n)])
        )
    curves = _Curves(session, "tiles of one image", rounds)
    for count in (1, 2, 3, 4):
        curves.add(count, lambda n=count: ask(TOKENS, [prompts.picture(n)]))
    curves = _Curves(session, "tokens of text", rounds)
    for count in CONTEXTS:
        curves.add(count, lambda n=count: ask(n, []))
    curves = _Curves(session, "requests of a batch", rounds)
    for count in BATCHES:
        curves.add(
            count,
            lambda n=count: engine.ask(
                "batch",
                prompts=[prompts.question(TOKENS) for _ in range(n)],
                images=[],
                new_tokens=4 * ANSWER,
            ),
        )
    _grow_layers(session, rounds)


def _grow_layers(session: Session, rounds: int) -> None:
    curves = _Curves(session, "layers, times 4 of text and 5 of vision", rounds)
    for times in DEPTHS:
        depth = Depth(
            vision_layers=4 * times,
            global_layers=times,
            text_layers=4 * times,
            cross=tuple(range(1, 4 * times, 4)),
            intermediate_layers=(0, 1, 2, 3),
        )
        folder = FOLDER / "model" / f"{times}-times"
        gguf = folder / "model.gguf"
        if not gguf.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_small_files(folder, depth)
            write_random_gguf(gguf, depth)
        prompts = Prompts(folder, Path(session.prompts.folder))
        try:
            engine = session.start_mllama(f"mllama-{times}-times", gguf)
        except EngineFailure as error:
            session.results.fail("growth of layers", OURS, str(error))
            return
        try:
            curves.add(
                times,
                lambda e=engine, p=prompts: e.ask(
                    "ask",
                    prompt=p.question(TOKENS, 1),
                    images=[p.picture(1)],
                    new_tokens=ANSWER,
                ),
            )
        finally:
            engine.close()
