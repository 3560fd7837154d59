"""``mllama explain``: its options reach the model, and its file is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from mllama.cli.explain import explain
from mllama.errors import MllamaError
from mllama.requests.attention import AttentionOptions

Run = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def picture(tmp_path: Path) -> str:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, picture: str, tmp_path: Path) -> Run:
    """Runs the command on a model that answers at once, and returns what it got."""
    seen: dict[str, Any] = {}

    class Recorder:
        def __init__(self, model_path: str, **options: Any) -> None:
            seen.update(options, model_path=model_path)

        def __enter__(self) -> Recorder:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def chat(self, messages: Any, **settings: Any) -> Any:
            seen.update(settings, messages=messages)
            attention = SimpleNamespace(
                heads=[(3, 2)], save=lambda path: seen.update(saved=path)
            )
            return SimpleNamespace(text="A red square.", attention=attention)

    monkeypatch.setattr("mllama.llm.LLM", Recorder)
    monkeypatch.setattr("mllama.cli.explain.block_torch", lambda: None)

    def invoke(*args: str) -> tuple[dict[str, Any], str]:
        command = ["--image", picture, "--prompt", "What?", *args]
        if "--output" not in args:
            command += ["--output", str(tmp_path / "where.html")]
        result = CliRunner().invoke(explain, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return seen, result.stdout

    return invoke


def test_the_answer_is_printed_and_the_file_written(run: Run, tmp_path: Path) -> None:
    seen, stdout = run()
    assert "A red square.\n" in stdout
    assert seen["saved"] == str(tmp_path / "where.html")
    assert seen["attention"] == AttentionOptions()
    assert seen["max_new_tokens"] == -1
    (message,) = seen["messages"]
    assert [part["type"] for part in message["content"]] == ["image", "text"]


def test_options_reach_the_model(run: Run) -> None:
    seen, _ = run(
        *("--layers", "3,8", "--heads", "0,2", "--with-prompt"),
        *("--max-new-tokens", "5", "--system", "Be brief.", "--devices", "cpu"),
    )
    assert seen["attention"] == AttentionOptions(
        layers=[3, 8], heads=[0, 2], prompt=True
    )
    assert seen["max_new_tokens"] == 5
    assert seen["devices"] == "cpu"
    assert seen["messages"][0] == {"role": "system", "content": "Be brief."}


def test_heads_are_named_with_their_layers(run: Run) -> None:
    seen, _ = run("--heads", "3.1,8.0")
    assert seen["attention"] == AttentionOptions(heads=[(3, 1), (8, 0)])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--output", "where.gif"], "ends in .png, .html or .json"),
        (["--output", "/no/such/directory/where.png"], "there is no directory"),
        (["--layers", "first"], "--layers must be all, last or numbers"),
        (["--heads", "1,3.2"], "--heads must be localizing, all, numbers"),
        (["--heads", "best"], "--heads must be localizing, all, numbers"),
        (["--image", "missing.png"], "missing.png"),
        (["--max-new-tokens", "-2"], "max_new_tokens"),
    ],
)
def test_wrong_values_are_refused_before_the_model_is_loaded(
    run: Run, args: list[str], message: str
) -> None:
    with pytest.raises(MllamaError, match=message):
        run(*args)


@pytest.mark.parametrize("missing", ["--image", "--prompt"])
def test_an_image_and_a_question_are_needed(
    picture: str, tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllama.cli.explain.block_torch", lambda: None)
    given = {"--image": picture, "--prompt": "What?"}
    del given[missing]
    command = [part for pair in given.items() for part in pair]
    command += ["--output", str(tmp_path / "where.json")]
    with pytest.raises(click.UsageError, match=f"{missing} is needed"):
        CliRunner().invoke(
            explain, command, catch_exceptions=False, standalone_mode=False
        )
