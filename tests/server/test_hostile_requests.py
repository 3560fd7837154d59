"""Hostile requests of every kind cost a real server nothing that it keeps."""

from __future__ import annotations

import base64
import json
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from .conftest import Server

CHAT = "/v1/chat/completions"

pytestmark = pytest.mark.timeout(600)


def chat(content: Any = "Hi", **fields: Any) -> bytes:
    message = {"role": "user", "content": content}
    body = {"model": "mllama-demo", "max_tokens": 3, "messages": [message], **fields}
    return json.dumps(body).encode()


def with_field(field: str) -> bytes:
    return chat().replace(b'"max_tokens"', field.encode() + b', "max_tokens"')


def picture(width: int, height: int) -> bytes:
    """A chat about a black picture of one bit a pixel, a few kilobytes of PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress((bytes(width // 8 + 1)) * height, 9)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    png += chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    return chat([{"type": "image_url", "image_url": {"url": url}}])


def nested(depth: int) -> Any:
    schema: Any = {"type": "string", "pattern": "(a|b)*c{1,30}"}
    for number in range(depth):
        schema = {"type": "object", "properties": {f"k{number}": schema}}
    return {
        "type": "json_schema",
        "json_schema": {"name": "nested", "schema": schema},
    }


KINDS: dict[str, tuple[list[bytes], set[int]]] = {
    "numbers": (
        [
            with_field(field)
            for field in (
                '"top_k": "1000000000"',
                '"top_k": 1e9',
                '"seed": "99999999999999999999999"',
                '"stop_token_ids": [1180591620717411303424]',
                '"temperature": NaN',
                '"user": "\\ud800"',
                '"metadata": ' + "[" * 2000 + "]" * 2000,
                '"chat_template": "{{ 1 }}"',
                '"chat_template_kwargs": {"chat_template": "{{ 1 }}"}',
            )
        ],
        {400},
    ),
    "long prompts": ([chat("shape " * 170_000)] * 6 + [chat(" " * 10**7)] * 2, {400}),
    "many messages": (
        [chat(messages=[{"role": "user", "content": "a"}] * 4096)] * 2,
        {400},
    ),
    "nested schemas": (
        [chat(response_format=nested(depth)) for depth in range(20, 24)],
        {200, 400},
    ),
    "large bodies": ([b'{"a": "' + b"x" * (60 << 20) + b'"}'] * 3, {413}),
    "dense bodies": (
        [
            b'{"a": [' + b"[]," * 24_000 + b"0]}",
            b'{"a": [' + b"1.2345678901234567e-103," * 490_000 + b"0]}",
            b'{"a": [' + (b"9" * 400 + b",") * 39_000 + b"0]}",
            b'{"a": {' + b",".join(b'"%d": 1' % n for n in range(140_000)) + b"}}",
            b'{"a": "' + b"\\u00e9" * 990_000 + b'"}',
        ],
        {400},
    ),
    "long answers": (
        [chat(logprobs=True, top_logprobs=20, max_tokens=500, ignore_eos=True)] * 4,
        {200},
    ),
    "large pictures": ([picture(8000, 8000)] * 3, {200}),
    "larger pictures": ([picture(20_000, 20_000), picture(60_000, 60_000)], {400}),
}


def private_bytes(server: Server) -> int:
    """The private memory of all of the server's processes."""
    root = psutil.Process(server.process.pid)
    total = 0
    for process in (root, *root.children(recursive=True)):
        try:
            with open(f"/proc/{process.pid}/smaps_rollup") as file:
                lines = [line.split() for line in file if line.startswith("Private")]
        except OSError:
            continue  # It has ended.
        total += sum(int(line[1]) << 10 for line in lines)
    return total


def loop_seconds(server: Server) -> float:
    """The CPU time of the thread that runs the server's event loop."""
    pid = server.process.pid
    with open(f"/proc/{pid}/task/{pid}/schedstat") as file:
        return int(file.read().split()[0]) / 1e9


def statuses(server: Server, bodies: list[bytes]) -> set[int]:
    def post(body: bytes) -> int:
        return httpx.post(server.url + CHAT, content=body, timeout=120).status_code

    with ThreadPoolExecutor(8) as pool:
        return set(pool.map(post, bodies))


def test_hostile_requests_leave_no_memory_and_hold_nothing(server: Server) -> None:
    # Everything has been used once.
    for bodies, _ in KINDS.values():
        statuses(server, bodies[:1])
    time.sleep(6)
    before = private_bytes(server)
    computed: list[float] = []
    stop = threading.Event()

    def poll() -> None:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            while not stop.is_set():
                started = loop_seconds(server)
                assert client.get("/health").status_code == 200
                computed.append(loop_seconds(server) - started)
                time.sleep(0.02)

    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(poll)
        try:
            for name, (bodies, expected) in KINDS.items():
                assert statuses(server, bodies) <= expected, name
        finally:
            stop.set()
        polling.result()
    most = before + max(before // 20, 50 << 20)
    end = time.monotonic() + 30
    while (now := private_bytes(server)) > most and time.monotonic() < end:
        time.sleep(1)
    assert now <= most, f"{before >> 20} MiB have become {now >> 20}"
    # What the loop did before it answered.  Waits would depend on other processes.
    assert max(computed) < 0.2
    assert "Traceback" not in server.log.read_text()
