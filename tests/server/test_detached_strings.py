"""Long strings of base64 are cut out of a body, and nothing else is."""

from __future__ import annotations

import base64
import json
import os
import textwrap
import time
from typing import Any

import pytest

from mllama.server import detached_strings
from mllama.server.detached_strings import DetachedBody, detach
from mllama.server.request_images import detached_content

CONTENT = os.urandom(100_000)
LONG = base64.b64encode(CONTENT).decode()


def restored(detached: DetachedBody) -> Any:
    """The body with its strings back in their places."""
    text = detached.text.decode()
    for name, string in detached.strings.items():
        assert text.count(name) == 1
        text = text.replace(name, bytes(string).decode())
    return json.loads(text)


@pytest.mark.parametrize("string", [LONG, f"data:image/png;base64,{LONG}"])
def test_strings_of_base64_are_cut_out(string: str) -> None:
    body = {"a": [string, "short", string], "b": {"c": string}, "d": "text " * 40_000}
    for separators in ((",", ":"), (", ", ": "), (" ,\n  ", " : ")):
        detached = detach(json.dumps(body, separators=separators).encode())
        assert len(detached.strings) == 3
        assert len(detached.text) < 210_000
        assert restored(detached) == body
        for found in detached.strings.values():
            assert detached_content(found) == CONTENT


@pytest.mark.parametrize(
    "body",
    [
        {"a": "text without a quote, " * 10_000},
        {"a": 'quoted "' + LONG + '" within a text'},
        {"a": "before " + LONG},
        {"a": LONG[:300] + "\\" + LONG},
        {"a": LONG[:300] + "\n" + LONG},
        {"a": LONG[:60_000]},
        {"a": list(range(100_000))},
        {"a": "x" * 200, "b": "ü" * 100_000},
        {},
    ],
)
def test_other_bodies_stay_as_they_are(body: Any) -> None:
    text = json.dumps(body, ensure_ascii=False).encode()
    detached = detach(text)
    assert detached.text == text
    assert not detached.strings


def test_slashes_may_be_escaped() -> None:
    body = json.dumps({"a": f"data:image/png;base64,{LONG}"}).replace("/", "\\/")
    detached = detach(body.encode())
    (string,) = detached.strings.values()
    assert detached_content(string) == CONTENT


def test_lines_are_joined_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads get Python's lock after each piece."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    lines = "\n".join(textwrap.wrap(LONG, 76))
    for end in ("\n", "\r\n"):
        body = json.dumps({"a": lines.replace("\n", end)}).replace("/", "\\/").encode()
        # Each of them has some piece begin amid the two bytes of a line's end.
        for piece in (256 * 1024, *range(5000, 5080)):
            monkeypatch.setattr(detached_strings, "_PIECE", piece)
            pauses.clear()
            (string,) = detach(body).strings.values()
            assert detached_content(string) == CONTENT
            assert len(pauses) >= 2 * (len(string) // piece)
            wrong = body.replace(b"\\n", b"\\t", 1)
            assert not detach(wrong).strings


def test_percent_encoded_content_is_decoded() -> None:
    string = b"data:image/png," + b"A" * 100_000
    (detached,) = detach(b'{"a": "' + string + b'"}').strings.values()
    assert detached_content(detached) == b"A" * 100_000


@pytest.mark.parametrize(
    "text",
    [b'"' * 300_000, b'{"a": "' + LONG.encode(), b"\\" * 300_000, LONG.encode()],
)
def test_what_is_not_json_is_left_to_the_parser(text: bytes) -> None:
    assert detach(text).text == text


def test_names_are_different_for_each_body() -> None:
    body = json.dumps({"a": LONG}).encode()
    assert detach(body).strings.keys().isdisjoint(detach(body).strings.keys())


def test_one_long_text_is_searched_once() -> None:
    """A text of 20 MB takes milliseconds, not seconds."""
    body = b'{"a": "' + b"word " * 4_000_000 + b'"}'
    started = time.process_time()
    detach(body)
    assert time.process_time() - started < 0.2
