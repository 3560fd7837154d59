"""``mllama demo``, as a user runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import psutil

from mllama.demo_model import PICTURES

DEMO = [sys.executable, "-m", "mllama", "demo"]


def test_the_demo_shows_pictures_and_right_answers() -> None:
    done = subprocess.run(DEMO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = []
    for picture in PICTURES:
        expected.append(f"Picture:  {picture.path}")
        for question in picture.questions:
            expected += [f"Question: {question.text}", f"Answer:   {question.answer}"]
        expected.append("")
    *conversations, times = done.stdout.splitlines()
    assert conversations == expected
    assert re.fullmatch(
        r"Started in [\d.]+ s; first token after \d+ ms \(median of 9 answers\)", times
    )


def test_an_interrupt_stops_the_server() -> None:
    process = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # The server is up.
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in stderr
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_a_server_that_does_not_start_is_one_line() -> None:
    done = subprocess.run(
        DEMO,
        capture_output=True,
        text=True,
        env=os.environ | {"MAX_SERVE_API_TYPES": "bad"},
    )
    assert done.returncode == 1
    assert not done.stdout
    assert done.stderr.splitlines()[-1] == (
        "error: the server ended with exit code 2; its messages are above"
    )
