"""The questions that workloads ask of engines, with engines that answer at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import workloads
from benchmarks.compare.ceilings import CompilerFailure
from benchmarks.compare.isa import ISAS
from benchmarks.compare.model import ModelFiles
from benchmarks.compare.process import EngineFailure
from benchmarks.compare.report import METRICS, summary
from benchmarks.compare.results import Results
from benchmarks.compare.session import Session
from benchmarks.compare.variants import VARIANTS, thread_variants
from benchmarks.compare.workloads import (
    IMAGE_TOKENS,
    SLOW_ROUNDS,
    TEXT_TOKENS,
    WORKLOADS,
    engines_of,
    mistralrs_decode,
    play,
)

ALL = "".join(WORKLOADS)


class Prompts:
    """Questions and pictures that only have a name."""

    def question(self, tokens: int, images: int = 0) -> str:
        return f"{tokens} {images}"

    def rendered(self, text: str, images: int) -> str:
        return f"<{text}>"

    def picture(self, tiles: int) -> str:
        return f"{tiles}.png"


class Engine:
    """Answers with fixed times; ``broken`` engines fail at what they are asked."""

    is_alive = True

    def __init__(self, name: str, asked: list[tuple[str, str, dict[str, Any]]]) -> None:
        self.name, self.asked = name, asked

    def ask(self, do: str, **arguments: Any) -> Any:
        self.asked.append((self.name, do, arguments))
        if do == "streams":
            return 10.0 * len(arguments["images"])
        if do in ("forced", "lookup"):
            return 1.0 + (arguments.get("rate") or 0.0)
        if self.name == "mistralrs" and arguments.get("images"):
            raise EngineFailure("it panicked")
        tokens = IMAGE_TOKENS if arguments.get("images") else TEXT_TOKENS
        later = arguments["new_tokens"] > 1
        return {
            "first": 2.0,
            "per_token": 0.5 if later else None,
            "prompt_tokens": tokens,
            "vision": 1.0 if arguments.get("images") else None,
            "decode_graph": 0.25 if later else None,
            "readable": 0.7,
            "bandwidth": 35.0,
            "decode_graphs": 0.25 * (arguments["new_tokens"] - 1),
            "sampling": 0.1,
        }


Asked = list[tuple[str, str, dict[str, Any]]]


@pytest.fixture
def asked() -> Asked:
    return []


@pytest.fixture
def session(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> Session:
    files = ModelFiles(*map(Path, "abc"))
    results = Results(date="2026-11-25T00:00:00", command="x", machine={})
    prompts: Any = Prompts()
    variants = VARIANTS | thread_variants(2)
    made = Session(
        files, prompts, results, 2, variants, lambda: {"read_bandwidth": 3.0}
    )
    engines: dict[str, Engine] = {}

    def engine(_: Session, name: str) -> Engine:
        return engines.setdefault(name, Engine(name, asked))

    monkeypatch.setattr(Session, "engine", engine)
    monkeypatch.setattr(workloads, "compiled", lambda *_, **__: Path("reads.so"))
    return made


def test_a_whole_run_measures_every_metric(session: Session, asked: Asked) -> None:
    for number in range(5):
        play(session, ALL, number)
    samples = session.results.samples
    of_engines = {
        m for m, metric in METRICS.items() if metric.letter not in ("", *"hj")
    }
    assert of_engines == set(samples)
    assert samples["bandwidth_between_steps"] == {"mllama": [35.0] * 5}
    assert set(samples["bandwidth_between_text_steps"]) == {"mllama", "1 thread"}
    assert len(samples["vision_4_tiles"]["transformers"]) == 5
    assert samples["around_the_model"]["demo"] == [0.25] * 5
    assert samples["streams_8"]["mllama"] == [80.0] * 5
    assert set(samples["decode_text"]) == {
        "mllama",
        "1 thread",
        "transformers",
        "llama_cpp",
        "ik_llama_cpp",
        "mistralrs",
    }
    for metric, seconds in (("first_token_text", 2.0), ("decode_text", 0.5)):
        turns = samples[f"{metric}_in_turn"]
        assert turns == {"mllama": [seconds] * 20, "ik_llama_cpp": [seconds] * 20}
    assert "panicked" in session.results.failures["first_token_image"]["mistralrs"]
    assert "failed: it panicked" in summary([session.results], ALL)


@pytest.mark.parametrize(
    ("letters", "engines"),
    [
        ("a", {"mllama", "8bit", "transformers"}),
        ("b", {"mllama", "8bit", "transformers", "mistralrs"}),
        ("c", {"mllama", "transformers", "llama_cpp", "mistralrs"}),
        (
            "d",
            {
                "mllama",
                "1 thread",
                "transformers",
                "llama_cpp",
                "ik_llama_cpp",
                "mistralrs",
            },
        ),
        ("e", {"mllama", "8bit", "transformers"}),
        ("f", {"mllama"}),
        ("g", {"demo"}),
        ("i", {"speculation"}),
    ],
)
def test_a_workload_asks_only_the_engines_that_it_needs(
    session: Session, asked: Asked, letters: str, engines: set[str]
) -> None:
    play(session, letters, 0)
    if letters == "c":
        mistralrs_decode(session)
    assert {name for name, _, _ in asked} == engines
    assert set(engines_of(session, letters)) == engines


def test_an_engine_that_chooses_instructions_itself_is_left_out_of_limited_runs(
    session: Session, asked: Asked
) -> None:
    session.isa = ISAS["avx2"]
    play(session, "bd", 0)
    mistralrs_decode(session)
    names = {name for name, _, _ in asked}
    assert "mistralrs" not in names
    assert set(engines_of(session, "bd")) == names


def test_without_a_compiler_no_bandwidth_is_measured(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(*_: str, **__: str) -> Path:
        raise CompilerFailure("there is no gcc")

    monkeypatch.setattr(workloads, "compiled", compiled)
    play(session, "c", 0)
    assert "decode_image" in session.results.samples
    assert "readable_in_a_step" not in session.results.samples


def test_a_failed_engine_is_not_asked_again(session: Session, asked: Asked) -> None:
    for number in range(SLOW_ROUNDS):
        play(session, "b", number)
    assert Counter(name for name, _, _ in asked)["mistralrs"] == 1


def test_the_follow_up_question_is_about_the_same_picture(
    session: Session, asked: Asked
) -> None:
    play(session, "e", 0)
    ours = [arguments for name, _, arguments in asked if name == "mllama"]
    assert [each["images"] for each in ours] == [["4.png"], ["4.png"]]
    assert session.results.samples["follow_up"] == {"mllama": [2.0], "8bit": [2.0]}


def test_fewer_threads_are_powers_of_two() -> None:
    assert thread_variants(1) == {}
    assert list(thread_variants(2)) == ["1 thread"]
    assert list(thread_variants(8)) == ["1 thread", "2 threads", "4 threads"]
    assert [each.threads for each in thread_variants(6).values()] == [1, 2, 4]


def test_answers_to_prompts_of_another_length_are_not_counted(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.compare.workloads.TEXT_TOKENS", 511)
    play(session, "d", 0)
    assert "mllama" not in session.results.samples["first_token_text"]
    reason = session.results.failures["first_token_text"]["mllama"]
    assert reason == "prompt_tokens is 512, not 511"


def test_acceptance_rates_are_forced(session: Session) -> None:
    play(session, "i", 0)
    samples = session.results.samples
    assert samples["forced_none"] == samples["forced_0"] == {"speculation": [1.0]}
    assert samples["forced_80"] == {"speculation": [1.8]}
    assert samples["forced_picture_80"] == {"speculation": [1.8]}
    assert len([metric for metric in samples if metric.startswith("lookup_")]) == 8


def test_mistralrs_gets_rendered_prompts(session: Session, asked: Asked) -> None:
    play(session, "d", 0)
    mistralrs_decode(session)
    prompts = [a["prompt"] for name, _, a in asked if name == "mistralrs"]
    assert prompts == [f"<{TEXT_TOKENS} 0>", f"<{IMAGE_TOKENS} 1>"]
