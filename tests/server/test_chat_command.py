"""``mllama chat --url`` with a running server, through pipes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mllama.demo_model import PICTURES

from .conftest import Server

pytestmark = pytest.mark.compiles


def test_without_a_terminal_a_chat_is_one_turn(server: Server) -> None:
    picture = PICTURES[0]
    question = picture.questions[0]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mllama", "chat", "--url", server.url),
            *("--image", str(picture.path), "--verbose"),
        ],
        input=question.text,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, f"{question.answer}\n"), done.stderr
    assert "of images" in done.stderr


def test_a_model_that_the_server_has_not(server: Server) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mllama", "chat", "Hi"),
            *("--url", server.url, "--model", "unknown"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "404" in done.stderr
    assert "unknown" in done.stderr
