"""``mllama batch`` answers each line once, however often it is interrupted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from mllama.batch.inputs.reader import InputReader
from mllama.batch.lines import BatchLine, encode_body
from mllama.batch.run import BatchCounts
from mllama.cli.batch import batch
from mllama.cli.batch_run import TerminalBatch
from mllama.demo_model import MODEL_PATH
from mllama.errors import EngineError, MllamaError
from mllama.server.batches.local_answers import LocalAnswers
from tests.batch.output_lines import lines_of, wait_for_lines
from tests.server.dialects.in_process import InProcessServer

START_SECONDS = 600
"""A first run compiles graphs, and the machine may be busy."""

PICTURES = sorted((MODEL_PATH.parent / "pictures").glob("*.png"))


def request(number: int, **body: Any) -> str:
    picture = PICTURES[number % len(PICTURES)].as_uri()
    content = [
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "text", "text": "What is in the picture?"},
    ]
    return json.dumps(
        {
            "custom_id": f"request-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": content}], **body},
        }
    )


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mllama",
            "batch",
            "--devices",
            "cpu",
            *map(str, arguments),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


@pytest.mark.compiles
def test_each_line_is_answered_once_by_runs_that_are_killed(tmp_path: Path) -> None:
    count = 120
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [request(each, max_tokens=40, ignore_eos=True) for each in range(1, count)]
    source.write_text("\n".join([*lines[:9], "{broken", *lines[9:]]))
    first = start(source, output)
    wait_for_lines(first, output, 6, START_SECONDS)
    first.kill()
    first.communicate()
    assert lines_of(output) < count
    with output.open("ab") as file:
        file.write(b'{"id":"torn')
    second = start(source, output)
    try:
        wait_for_lines(second, output, lines_of(output) + 6, START_SECONDS)
        other = start(source, output)
        _, errors = other.communicate(timeout=START_SECONDS)
        assert other.returncode == 2
        assert "another run writes" in errors
    finally:
        second.send_signal(signal.SIGINT)
        _, errors = second.communicate(timeout=START_SECONDS)
    assert second.returncode == 130
    assert "run the same command again to go on" in errors
    assert lines_of(output) < count
    third = start(source, output)
    _, errors = third.communicate(timeout=START_SECONDS)
    assert third.returncode == 0, errors
    results = [json.loads(line) for line in output.open()]
    ids = [result["custom_id"] for result in results]
    assert sorted(ids, key=str) == sorted(
        [None, *(f"request-{each}" for each in range(1, count))], key=str
    )
    for result in results:
        if result["custom_id"] is None:
            assert result["error"]["code"] == "invalid_json_line"
            assert result["error"]["line"] == 10
        else:
            usage = result["response"]["body"]["usage"]
            assert usage["completion_tokens"] == 40
            assert usage["prompt_tokens_details"]["image_tokens"] > 0


@pytest.mark.compiles
def test_parquet_is_read_while_the_model_runs(tmp_path: Path) -> None:
    """In files of which the first is read before."""
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table
    pictures = [picture.read_bytes() for picture in PICTURES]
    for name in "ab":
        parquet.write_table(
            table({"image": pictures * 10}), tmp_path / f"{name}.parquet"
        )
    output = tmp_path / "out.jsonl"
    run = start(
        tmp_path / "*.parquet",
        output,
        *("--prompt", "What is in the picture?", "--max-new-tokens", "2"),
    )
    _, errors = run.communicate(timeout=START_SECONDS)
    assert run.returncode == 0, errors
    assert lines_of(output) == 2 * 10 * len(pictures)


def refused(*arguments: str | Path) -> str:
    with pytest.raises(MllamaError) as caught:
        CliRunner().invoke(batch, [*map(str, arguments)], catch_exceptions=False)
    return str(caught.value)


@pytest.fixture(autouse=True)
def _keep_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests of this process need it afterwards.
    monkeypatch.setattr("mllama.cli.batch.block_torch", lambda: None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "x"], "--prompt can't be combined with it"),
        (["--image-column", "x"], "--image-column can't be combined with it"),
        (["--temperature", "1"], "--temperature can't be combined with it"),
        (["--max-errors", "-2"], "--max-errors must be -1 or more"),
        (["--output-format", "parquet"], "--output-format parquet needs a folder"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, options: list[str], message: str
) -> None:
    (tmp_path / "in.jsonl").write_text(request(1))
    assert message in refused(tmp_path / "in.jsonl", tmp_path / "out.jsonl", *options)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--prompt"),
        (["--prompt", "x", "--temperature", "3"], "`temperature` must be at most 2"),
        (["--prompt", "x", "--guided-json", "{"], "not JSON"),
        (["--prompt", "x", "--prompt-column", "y"], "can't be combined"),
        (
            [
                "--prompt",
                "x",
                "--guided-regex",
                "a",
                "--response-format",
                "json_object",
            ],
            "can't be combined",
        ),
    ],
)
def test_questions_that_can_not_be_asked_are_refused(
    options: list[str], message: str
) -> None:
    folder = PICTURES[0].parent
    if "not JSON" in message:
        result = CliRunner().invoke(batch, [str(folder), "out.jsonl", *options])
        assert message in result.output
    else:
        assert message in refused(folder, "out.jsonl", *options)
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.jpg", "b.jpg", "c.jpg"], "got 3 arguments (a.jpg b.jpg c.jpg): quote"),
        ([f"{each}.tar" for each in range(99)], "99 arguments (0.tar 1.tar 2.tar ...)"),
        (["photos", "out", "--prompt", "What", "is it?"], "and texts with spaces"),
    ],
)
def test_patterns_that_the_shell_has_replaced_are_refused(
    arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(batch, [*arguments, "--max-errors", "5"])
    assert result.exit_code == 2
    assert message in result.output
    assert 'quote patterns, as in "photos/*.jpg"' in result.output


@pytest.mark.parametrize("option", ["--prompt-column", "--image-column", "--id-column"])
def test_columns_are_looked_for(tmp_path: Path, option: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    source = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"image": [b"1"]}), source)
    question = [] if option == "--prompt-column" else ["--prompt", "What?"]
    message = refused(source, tmp_path / "out.jsonl", *question, option, "q")
    assert "has no column 'q'" in message


def test_nothing_is_loaded_if_everything_is_answered(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("{broken\n")
    (tmp_path / "out.jsonl").write_text(
        '{"id":"x","custom_id":null,"response":null,"error":{"code":"x","line":1}}\n'
    )
    result = CliRunner().invoke(
        batch, [str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]
    )
    assert result.exit_code == 0
    assert "has all 1 answers" in result.output


def test_options_arrive_where_they_act(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    class Recorded(Exception):
        pass

    class Recorder:
        def __init__(self, options: Any, *, quiet: bool) -> None:
            seen.update(options=options, quiet=quiet)
            raise Recorded

    class Reader(InputReader):
        def __init__(self, source: str, question: Any, **options: Any) -> None:
            seen.update(options, question=question)
            super().__init__(source, question, **options)

    monkeypatch.setattr("mllama.engine.engine.Engine", Recorder)
    monkeypatch.setattr("mllama.batch.inputs.reader.InputReader", Reader)
    arguments = [str(PICTURES[0].parent), str(tmp_path / "out")]
    arguments += ["--prompt", "What?", "--system", "Be brief.", "--quiet"]
    arguments += ["--max-batch-size", "3", "--devices", "cpu", "--shard-lines", "5"]
    arguments += ["--max-new-tokens", "9", "--temperature", "0.5", "--stop", "a"]
    arguments += ["--logit-bias", "4=-1.5", "--logprobs", "2", "--n", "2"]
    arguments += ["--response-format", "json_object", "--stop-token-id", "7"]
    with pytest.raises(Recorded):
        CliRunner().invoke(batch, arguments, catch_exceptions=False)
    assert seen["options"].max_batch_size == 3
    assert seen["quiet"] is True
    assert seen["output"] == tmp_path / "out"
    question = seen["question"]
    assert (question.prompt, question.system) == ("What?", "Be brief.")
    assert question.fields == {
        "max_tokens": 9,
        "n": 2,
        "temperature": 0.5,
        "logit_bias": {"4": -1.5},
        "stop": ["a"],
        "stop_token_ids": [7],
        "logprobs": True,
        "top_logprobs": 2,
        "response_format": {"type": "json_object"},
    }


def test_a_model_that_fails_as_a_whole_is_no_error_of_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def check_alive() -> None:
        raise RuntimeError("the engine has failed") from MemoryError("no memory")

    server = InProcessServer()
    server.engine.error = EngineError("the engine stopped")
    written: list[bytes] = []
    writer: Any = SimpleNamespace(write=lambda line, is_error: written.append(line))
    reader: Any = SimpleNamespace(fraction=None)
    body = encode_body({"messages": [{"role": "user", "content": "Hi"}]})
    run = TerminalBatch(
        [BatchLine(1, "one", "/v1/chat/completions", body)],
        reader,
        writer,
        BatchCounts(),
        "out.jsonl",
        max_errors=5,
        quiet=True,
    )
    answers = LocalAnswers(server.engine, server.capabilities, tmp_path, check_alive)
    assert asyncio.run(asyncio.wait_for(run.run(answers, slots=1), 30)) == 1
    assert written == []
    errors = capsys.readouterr().err
    assert "the model failed: no memory; run the same command again" in errors
