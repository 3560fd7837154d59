"""Every example runs as it is, and prints what its docstring promises."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mllama.demo_model import MODEL_PATH, PICTURES
from tests.ports import free_port
from tests.reference.adapters import write_adapter

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# The second has the server of a Llama Guard.
TESTS = (
    Path(__file__),
    Path(__file__).parents[1] / "server" / "test_chat_templates.py",
)

DESCRIPTIONS = {
    "digit.png": "A yellow 7 left of a white cross.",
    "row.png": "A green square, a purple triangle and a green square.",
    "shapes.png": "A red star left of a blue circle.",
}

START_SECONDS = 1500
"""The first run compiles, and a test machine may be busy."""


def run(example: str, *arguments: str | Path) -> str:
    """Runs an example; returns what it prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / example, *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class QuantizedServer(NamedTuple):
    """The server that ``quantize_and_serve.sh`` starts."""

    url: str
    file: Path


@pytest.fixture(scope="module")
def quantized_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[QuantizedServer]:
    """Runs ``quantize_and_serve.sh`` until the tests are done."""
    folder = tmp_path_factory.mktemp("quantized")
    file = folder / "demo.gguf"
    port = free_port()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                *(EXAMPLES / "quantize_and_serve.sh", MODEL_PATH, file),
                *("--devices", "cpu", "--port", str(port)),
            ],
            stdout=log,
            stderr=log,
            env=os.environ | {"PATH": path},
        )
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/health", folder / "log")
        yield QuantizedServer(f"http://127.0.0.1:{port}/v1", file)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url)
        except urllib.error.URLError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(log.read_text())


def test_every_example_is_in_the_list_and_has_a_test() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")}
    listed = set(re.findall(r"\]\((\w.*?)\)", (EXAMPLES / "README.md").read_text()))
    texts = "".join(path.read_text() for path in TESTS)
    tested = set(re.findall(r'"(\w+\.(?:py|sh))"', texts)) - {TESTS[1].name}
    assert names == listed == tested


def test_ask_about_a_picture() -> None:
    answer, counts = run("ask_about_a_picture.py").splitlines()
    assert answer == DESCRIPTIONS["shapes.png"]
    assert re.match(r"\d+ prompt tokens, 68 of them the", counts)


def test_chat_with_pictures() -> None:
    lines = run("chat_with_pictures.py").splitlines()
    answers = [line.strip() for line in lines if line.startswith("  ")]
    assert answers == [DESCRIPTIONS["shapes.png"], "Red.", "7."]
    assert "2 images encoded" in lines[-1]


def test_stream_an_answer() -> None:
    answer, end = run("stream_an_answer.py").splitlines()
    assert answer == DESCRIPTIONS["row.png"]
    assert end.startswith("(stop, ")


def test_batch_of_pictures() -> None:
    lines = run("batch_of_pictures.py").splitlines()
    asked = [
        f"{picture.path.name}: {question.text} "
        for picture in PICTURES
        for question in picture.questions
    ]
    assert len(lines) == len(asked)
    for line, question in zip(lines, asked, strict=True):
        assert line.startswith(question)
        assert line.endswith(".")


def test_caption_folder() -> None:
    lines = [json.loads(line) for line in run("caption_folder.py").splitlines()]
    assert {line["file"]: line["caption"] for line in lines} == DESCRIPTIONS


def test_extract_from_a_picture() -> None:
    *shapes, digit = run("extract_from_a_picture.py").splitlines()
    assert 1 <= len(shapes) <= 3
    for shape in shapes:
        assert re.fullmatch(r"\w+ (circle|cross|square|star|triangle)", shape)
    assert re.fullmatch("with(out)? a digit", digit)


def test_tool_loop() -> None:
    call, *answer = run("tool_loop.py").splitlines()
    found = re.fullmatch(r"look_up_price\((.*)\) -> (\d+) coins", call)
    assert found is not None
    arguments = json.loads(found[1])
    prices = {"circle": 3, "square": 4, "star": 5}
    assert prices[arguments["kind"]] * arguments["pieces"] == int(found[2])
    assert answer


def test_lora_adapter(tmp_path: Path) -> None:
    write_adapter(tmp_path, MODEL_PATH, r=8, target_modules=["q_proj", "down_proj"])
    without, with_adapter = run("lora_adapter.py", tmp_path).splitlines()
    assert without == f"without the adapter: {DESCRIPTIONS['shapes.png']}"
    prefix, _, answer = with_adapter.partition("with the adapter: ")
    assert not prefix
    assert answer != DESCRIPTIONS["shapes.png"]


def test_openai_client_against_quantize_and_serve(
    quantized_server: QuantizedServer,
) -> None:
    answer = run("openai_client.py", quantized_server.url)
    assert answer == f"{DESCRIPTIONS['shapes.png']}\n"


def test_compare_checkpoints(quantized_server: QuantizedServer) -> None:
    printed = run("compare_checkpoints.py", MODEL_PATH, quantized_server.file)
    result = re.search(r"^(\d) of 9 answers are the same$", printed, re.MULTILINE)
    assert result is not None
    assert int(result[1]) >= 7
    assert printed.count("  first:  ") == 9 - int(result[1])
