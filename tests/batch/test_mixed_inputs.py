"""A folder may have files of several kinds, in whatever order they come."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mllama.batch.inputs.locations import find_files
from mllama.batch.inputs.question import Question
from mllama.batch.inputs.reader import InputReader
from mllama.cli.batch import batch
from mllama.errors import MllamaError

REQUEST = {"custom_id": "1", "url": "/v1/completions", "body": {"prompt": "x"}}


@pytest.fixture(params=["forward", "backward"])
def folder(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder whose files come in one order or the other."""

    def ordered(*source: Any) -> Any:
        files = sorted(find_files(*source), key=lambda file: file.name)
        return iter(files if request.param == "forward" else files[::-1])

    monkeypatch.setattr("mllama.batch.inputs.reader.find_files", ordered)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"1")
    (folder / "z.jpg").write_bytes(b"1")
    return folder


def metadata(folder: Path) -> None:
    lines = [{"file_name": f"{name}.jpg", "text": "A dog."} for name in "az"]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metadata.jsonl").write_text(text)


def requests(folder: Path, name: str) -> None:
    (folder / name).write_text(json.dumps(REQUEST))


def test_a_question_is_asked_about_the_pictures_only(folder: Path) -> None:
    requests(folder, "0.jsonl")
    reader = InputReader(str(folder), Question("What?"))
    assert not reader.has_only_requests
    lines = {line.custom_id: line for line in reader}
    assert lines.keys() == {"1", "a.jpg", "z.jpg"}
    assert json.loads(lines["1"].body) == {"prompt": "x"}
    assert b"What?" in lines["a.jpg"].body


def test_metadata_beside_pictures_is_errors(folder: Path) -> None:
    metadata(folder)
    lines = list(InputReader(str(folder), Question("What?")))
    assert {line.custom_id for line in lines if not line.error} == {"a.jpg", "z.jpg"}
    assert [line.custom_id for line in lines if line.error] == [None, None]
    lines = list(InputReader(str(folder / "*.jpg"), Question("What?")))
    assert {line.custom_id for line in lines} == {"a.jpg", "z.jpg"}


@pytest.mark.parametrize("prompt_column", [None, "txt"])
def test_a_missing_question_is_an_error_at_once(
    folder: Path, prompt_column: str | None
) -> None:
    requests(folder, "0.jsonl")
    with pytest.raises(MllamaError, match=r".\.jpg needs a question about it"):
        InputReader(str(folder), Question(None), prompt_column=prompt_column)


def test_columns_that_no_file_has_are_refused(folder: Path) -> None:
    requests(folder, "0.jsonl")
    with pytest.raises(MllamaError, match="--image-column needs Parquet or tar files"):
        InputReader(str(folder), Question("What?"), image_column="jpg")


Outcome = Callable[..., str]


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Outcome:
    """Returns the error of a command, or that it has begun to load a model."""

    def begin(*_: Any, **__: Any) -> None:
        raise MllamaError("begun")

    monkeypatch.setattr("mllama.cli.batch.block_torch", lambda: None)
    monkeypatch.setattr("mllama.cli.batch._run_here", begin)

    def run(*arguments: str) -> str:
        with pytest.raises(MllamaError) as caught:
            CliRunner().invoke(
                batch,
                [arguments[0], str(tmp_path / "out.jsonl"), *arguments[1:]],
                catch_exceptions=False,
            )
        return str(caught.value)

    return run


def test_options_for_questions_fit_a_folder_of_several_kinds(
    folder: Path, outcome: Outcome
) -> None:
    metadata(folder)
    requests(folder, "0.jsonl")
    assert outcome(str(folder), "--prompt", "x", "--temperature", "1") == "begun"


def test_options_for_questions_do_not_fit_requests_alone(
    folder: Path, outcome: Outcome
) -> None:
    requests(folder, "0.jsonl")
    requests(folder, "9.jsonl")
    for path in folder.glob("*.jpg"):
        path.unlink()
    for options in (["--prompt", "x"], ["--id-column", "x"], ["--temperature", "1"]):
        message = f"{options[0]} can't be combined with it"
        assert message in outcome(str(folder), *options)
