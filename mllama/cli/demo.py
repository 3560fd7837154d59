"""``mllama demo``: serves the demo model and asks it about pictures that ship with it.

The answers are streamed over HTTP, as any client would get them.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from mllama.cli.terminal_image import show_picture
from mllama.demo_model import MODEL_NAME, MODEL_PATH, PICTURES, Picture

if TYPE_CHECKING:
    import httpx

START_SECONDS = 1800
"""Time limit of startup: without the graphs that ship, it compiles for minutes."""

ANSWER_SECONDS = 120
STOP_SECONDS = 30


class DemoError(Exception):
    """The demo's server does not start or does not answer."""


@click.command
def demo() -> None:
    """Serve the small demo model and ask it about three pictures.

    Its compiled graphs ship for x86-64 CPUs with AVX2; on others the first run compiles
    the model, which takes minutes.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _exit_on_signal)
    try:
        _show_pictures()
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _show_pictures() -> None:
    import httpx

    started = time.perf_counter()
    # A proxy that the environment names can't reach this machine's loopback address.
    with (
        httpx.Client(trust_env=False, timeout=ANSWER_SECONDS) as client,
        serving(client),
    ):
        start_seconds = time.perf_counter() - started
        delays: list[float] = []
        try:
            for picture in PICTURES:
                delays += _ask_about(client, picture)
        except httpx.HTTPError as error:
            raise DemoError(f"the server did not answer: {error}") from error
    milliseconds = 1000 * statistics.median(delays)
    print(
        f"Started in {start_seconds:.1f} s; first token after {milliseconds:.0f} ms "
        f"(median of {len(delays)} answers)",
        flush=True,
    )


@contextmanager
def serving(client: httpx.Client) -> Iterator[None]:
    """Runs ``mllama serve`` with the demo model on a free port, and stops it.

    Args:
        client: Its ``base_url`` is set to the server's address.

    Raises:
        DemoError: If the server exits, or isn't ready within :data:`START_SECONDS`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client.base_url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mllama", "serve"),
            *("--model-path", str(MODEL_PATH), "--served-model-name", MODEL_NAME),
            *("--host", "127.0.0.1", "--port", str(port)),
            # A GPU may refuse images.
            *("--devices", "cpu"),
            # Its graph ships.
            "--attention",
        ],
        stdout=sys.stderr,
        # Log lines would interrupt the answers.
        env={"MAX_SERVE_LOGS_CONSOLE_LEVEL": "WARNING", **os.environ},
    )
    try:
        _wait_until_ready(server, client)
        yield
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGINT)
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait_until_ready(server: subprocess.Popen[bytes], client: httpx.Client) -> None:
    import httpx

    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise DemoError(
                f"the server ended with exit code {server.returncode}; its messages "
                "are above"
            )
        try:
            if client.get("/health").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise DemoError(f"the server did not start in {START_SECONDS} seconds")


def _ask_about(client: httpx.Client, picture: Picture) -> list[float]:
    """Shows a picture and asks its questions in one conversation.

    Returns:
        Seconds to the first token of each answer.
    """
    print(f"Picture:  {picture.path}", flush=True)
    show_picture(picture.path, sys.stdout)
    image = {"type": "image_url", "image_url": {"url": _data_url(picture.path)}}
    messages: list[dict[str, Any]] = []
    delays = []
    for number, question in enumerate(picture.questions):
        text = {"type": "text", "text": question.text}
        content = [text] if number else [image, text]
        messages.append({"role": "user", "content": content})
        print(f"Question: {question.text}\nAnswer:   ", end="", flush=True)
        sent = time.perf_counter()
        pieces: list[str] = []
        for piece in _streamed_answer(client, messages):
            if not pieces:
                delays.append(time.perf_counter() - sent)
            print(piece, end="", flush=True)
            pieces.append(piece)
        print(flush=True)
        messages.append({"role": "assistant", "content": "".join(pieces)})
    print(flush=True)
    return delays


def _streamed_answer(
    client: httpx.Client, messages: list[dict[str, Any]]
) -> Iterator[str]:
    """Yields the pieces of an answer as the server sends them.

    Raises:
        httpx.HTTPError: If the server refuses the request or goes away.
    """
    body = {"model": MODEL_NAME, "stream": True, "messages": messages}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            event, _, data = line.partition(": ")
            if event != "data" or data == "[DONE]":
                continue
            for choice in json.loads(data)["choices"]:
                if piece := choice["delta"].get("content"):
                    yield piece


def _data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _exit_on_signal(signum: int, frame: FrameType | None) -> None:
    # An exception lets `serving` stop the server.
    raise SystemExit(128 + signum)
