"""``mllama chat --url`` with a running server, typed into a terminal and piped."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mllama.demo_model import PICTURES
from tests.cli.chat_terminal import ALT_ENTER, CTRL_C, PROMPT, chatting

from .conftest import Server

pytestmark = pytest.mark.compiles


def test_a_chat_with_a_server(server: Server, tmp_path: Path) -> None:
    """Turns, pictures, Ctrl-C in mid-answer and at the prompt, several lines, files."""
    picture, other = PICTURES[0], PICTURES[1]
    shutil.copy(picture.path, tmp_path / "shapes.png")
    with chatting(tmp_path, "--url", server.url, "--no-history") as chat:
        first, second, third = picture.questions
        assert first.answer in chat.say(f"shapes.png {first.text}")
        assert second.answer in chat.say(f'"""{second.text}\r"""')
        assert "saved 4 messages" in chat.say("/save talk.json")
        chat.say("/set min-tokens 2000")
        chat.child.send(f"{first.text}\r")
        assert "(stopped)" in chat.interrupt(after="blue")
        chat.child.send(CTRL_C)
        chat.wait("Ctrl-D or /bye leaves")
        chat.wait(PROMPT)
        chat.say("/set min-tokens default")
        assert "saved 6 messages" in chat.say("/save stopped.json")
        chat.say("/clear")
        question = other.questions[0]
        answer = chat.say(f"file://{other.path} {question.text}")
        assert question.answer in answer
        assert "loaded 4 messages" in chat.say("/load talk.json")
        assert third.answer in chat.say(f"{ALT_ENTER}{third.text}")
        assert "error: there is no image file" in chat.say("/tmp/none.png What?")
        assert chat.leave() == 0
    assert not (tmp_path / "state").exists()
    saved = json.loads((tmp_path / "stopped.json").read_text())
    assert [message["role"] for message in saved] == ["user", "assistant"] * 3
    assert "blue" in saved[-1]["content"]


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
