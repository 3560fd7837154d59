"""Streams about as many pictures, with engines that answer at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import picture_streams, spans
from benchmarks.compare.picture_streams import measure_picture_streams
from benchmarks.compare.process import EngineFailure
from benchmarks.compare.results import Results

SPANS = """\
{seconds}\t0.1\t48\tcustom__mllama_image_attention
9.0\t0.1\t48\tcustom__mllama_causal_attention
"""
SECONDS = {1: 0.5, 64: 0.5 + 16 * 63 * 0.005}
"""What attention takes by the tokens of an answer; the first comes from the prompt."""


class Engine:
    """Answers with fixed figures, and notes what it is asked."""

    def __init__(self, name: str, asked: list[tuple[str, str, int]]) -> None:
        self._name, self._asked = name, asked
        self.is_closed = False

    def ask(self, do: str, **arguments: Any) -> Any:
        new_tokens = arguments["new_tokens"]
        self._asked.append((self._name, do, new_tokens))
        if do != "profiled_streams":
            return {}
        assert len(set(arguments["images"])) == 8
        Path(arguments["path"]).write_text(SPANS.format(seconds=SECONDS[new_tokens]))
        return 20.0 if new_tokens > 1 else 2.0

    def close(self) -> None:
        self.is_closed = True


class Session:
    """Starts such engines; pictures are numbers."""

    def __init__(self) -> None:
        self.results = Results(date="", command="", machine={})
        self.asked: list[tuple[str, str, int]] = []
        self.engines: list[Engine] = []
        self.prompts = self
        self.pictures = 0
        self.missing = ""

    def picture(self, tiles: int) -> str:
        assert tiles == 4
        self.pictures += 1
        return f"{self.pictures}.png"

    def start(self, name: str, variables: dict[str, str]) -> Engine:
        assert variables["MODULAR_PROFILER_SHIM"] == "spans.so"
        if name == self.missing:
            raise EngineFailure("no such option")
        self.engines.append(Engine(name, self.asked))
        return self.engines[-1]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(spans, "compiled", lambda *_, **__: Path("spans.so"))
    held = {"bfloat16": 20, "int8": 39}
    monkeypatch.setattr(picture_streams, "pictures_held", held.__getitem__)
    return Session()


def test_engines_take_turns_after_their_pictures_are_encoded(session: Any) -> None:
    measure_picture_streams(session, 2)
    assert session.asked == [
        *[("8bit", "ask", 1)] * 8,
        *[("8bit images", "ask", 1)] * 8,
        *[
            (engine, "profiled_streams", new_tokens)
            for engine in ("8bit", "8bit images", "8bit images", "8bit")
            for new_tokens in (1, 64)
        ],
    ]
    assert session.pictures == 8
    assert all(engine.is_closed for engine in session.engines)


def test_throughput_cross_attention_and_room_are_measured(session: Any) -> None:
    measure_picture_streams(session, 2)
    assert session.results.samples == {
        "streams_8_pictures": {"8bit": [20.0] * 2, "8bit images": [20.0] * 2},
        "attention_8_pictures": {
            "8bit": [pytest.approx(0.005)] * 2,
            "8bit images": [pytest.approx(0.005)] * 2,
        },
        "pictures_in_4_gib": {"8bit": [20.0], "8bit images": [39.0]},
    }


def test_an_engine_that_does_not_start_is_reported(session: Any) -> None:
    session.missing = "8bit images"
    measure_picture_streams(session, 2)
    assert "streams_8_pictures" not in session.results.samples
    reason = {"8bit images": "no such option"}
    assert session.results.failures["streams_8_pictures"] == reason
    assert session.results.failures["attention_8_pictures"] == reason
    assert all(engine.is_closed for engine in session.engines)
