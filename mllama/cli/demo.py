"""Serve the demo model and ask it about a picture: ``python -m mllama.cli.demo``.

What ``make demo`` runs.  The picture is drawn on the spot and kept, its path is
printed; the answers are streamed over HTTP as any client would get them.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from demo.evaluate import example

START_SECONDS = 1800
"""A first start compiles for minutes, on a busy machine for many."""

STOP_SECONDS = 30
QUESTIONS = (
    "What is in this picture?",
    "How many shapes are there?",
    "Which colors can you see?",
)


@contextmanager
def serving() -> Iterator[str]:
    """Runs ``mllama serve`` with the demo model; yields its base URL.

    Raises:
        RuntimeError: If the server ends or is not up in :data:`START_SECONDS`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mllama", "serve", "--port", str(port)),
            # Images come out wrong on a GPU.
            *("--devices", "cpu"),
        ],
        stdout=sys.stderr,
        # Lines of the log would stand in the middle of the answers.
        env={"MAX_SERVE_LOGS_CONSOLE_LEVEL": "WARNING", **os.environ},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(server, url)
        yield url
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGINT)
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait(server: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with status {server.returncode}")
        try:
            if httpx.get(f"{url}/health").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise RuntimeError(f"the server did not start in {START_SECONDS} seconds")


def ask(url: str, messages: list[dict[str, Any]]) -> str:
    """Prints an answer while it streams, and returns it.

    Raises:
        httpx.HTTPError: If the server refuses the request or goes away.
    """
    body = {"model": "mllama-demo", "stream": True, "messages": messages}
    pieces = []
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=body, timeout=120
    ) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            data = line.removeprefix("data: ")
            if not line.startswith("data: ") or data == "[DONE]":
                continue
            for choice in json.loads(data)["choices"]:
                piece = choice["delta"].get("content") or ""
                print(piece, end="", flush=True)
                pieces.append(piece)
    print(flush=True)
    return "".join(pieces)


def main() -> int:
    """Shows the demo; returns the exit status."""
    image, _, _ = example()
    path = Path(tempfile.mkdtemp(prefix="mllama-demo-")) / "picture.png"
    image.save(path)
    data = base64.b64encode(path.read_bytes()).decode()
    picture = {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{data}"},
    }
    messages: list[dict[str, Any]] = []
    try:
        with serving() as url:
            print(f"Picture:  {path}", flush=True)
            for number, question in enumerate(QUESTIONS):
                text = {"type": "text", "text": question}
                content = [text] if number else [picture, text]
                messages.append({"role": "user", "content": content})
                print(f"Question: {question}\nAnswer:   ", end="", flush=True)
                answer = ask(url, messages)
                messages.append({"role": "assistant", "content": answer})
    except KeyboardInterrupt:
        return 130
    except (RuntimeError, httpx.HTTPError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
