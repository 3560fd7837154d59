"""``mllama chat`` with its own engine, typed into a terminal and through pipes."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mllama.demo_model import PICTURES
from tests.cli.chat_terminal import CTRL_C, LINE_READ, PROMPT, chatting
from tests.server.conftest import START_SECONDS

pytestmark = pytest.mark.compiles


def test_a_chat_with_its_own_engine(tmp_path: Path) -> None:
    """Turns, a picture by its path, Ctrl-C in mid-answer, and a saved conversation."""
    picture = PICTURES[0]
    shutil.copy(picture.path, tmp_path / "my picture.png")
    path = str(tmp_path / "my picture.png").replace(" ", "\\ ")
    with chatting(*(tmp_path, "--devices", "cpu"), start_seconds=START_SECONDS) as chat:
        first, second, _ = picture.questions
        assert first.answer in chat.say(f"{path} {first.text}")
        assert second.answer in chat.say(second.text)
        chat.say("/set min_tokens 2000")
        chat.child.send(f"{first.text}\r")
        assert "(stopped)" in chat.interrupt(after="blue")
        # Wherever Ctrl-C comes, the engine goes on.
        for seconds in (0.0, 0.01, 0.03, 0.1, 0.3):
            chat.child.send("/retry\r")
            chat.wait(LINE_READ)
            time.sleep(seconds)
            chat.child.send(CTRL_C)
            assert "(stopped)" in chat.wait(PROMPT)
        chat.say("/set min_tokens default")
        chat.say("/set verbose on")
        answer = chat.say("/retry")
        assert first.answer in answer
        assert "image cache hits 1]" in answer
        assert "saved 6 messages" in chat.say("/save talk.json")
        assert chat.leave() == 0
    history = tmp_path / "state" / "mllama" / "chat_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600

    done = subprocess.run(
        [
            *(sys.executable, "-m", "mllama", "generate", "--devices", "cpu"),
            *("--messages", str(tmp_path / "talk.json"), "--add-generation-prompt"),
        ],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "a question is needed"),
        (["x", "--api-key", "k"], "--api-key is for a server"),
        (["x", "--url", "http://h", "--devices", "cpu"], "--devices is an option of"),
        (["x", "--url", "nowhere"], "--url must be a URL"),
        (["x", "--temperature", "9"], "temperature must be from 0 to 2"),
        (["x", "--url", "http://127.0.0.1:1"], "is the server running?"),
    ],
)
def test_what_is_wrong_is_one_line(args: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mllama", "chat", *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
