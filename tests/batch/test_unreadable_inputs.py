"""A file that can't be read is one line with an error, and the others go on."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mllama.batch.inputs.question import Question
from mllama.batch.inputs.reader import InputReader
from mllama.batch.lines import BatchLine
from mllama.errors import MllamaError

_CODE = "unreadable_file"


def content(name: str, lines: int) -> bytes:
    texts = [
        {"custom_id": f"{name}{each}", "url": "/v1/completions", "body": {"prompt": x}}
        for each, x in enumerate(random.Random(1).choices("abc" * 9, k=lines))
    ]
    return "".join(json.dumps(text) + "\n" for text in texts).encode()


def read(source: Path | str, prompt: str | None = None) -> list[BatchLine]:
    return list(InputReader(str(source), Question(prompt)))


def check(lines: list[BatchLine], unreadable: str, good: set[str]) -> str:
    """Checks that a file is one error and others are read; returns its message."""
    # Damaged content may also be wrong lines.
    errors = [each for each in lines if each.error and each.error.code == _CODE]
    assert [line.custom_id for line in errors] == [unreadable]
    assert good <= {str(line.custom_id) for line in lines}
    numbers = [line.number for line in lines]
    assert numbers == list(range(1, len(lines) + 1))
    return errors[0].error.message if errors[0].error else ""


@pytest.mark.parametrize(
    ("end", "pack"),
    [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)],
)
@pytest.mark.parametrize("damage", ["middle", "end", "beginning"])
def test_damaged_compressed_lines(
    tmp_path: Path, end: str, pack: Callable[[bytes], bytes], damage: str
) -> None:
    whole = pack(content("a", 5000))
    half = len(whole) // 2
    damaged = {
        "middle": whole[:half] + b"\xff" * 400 + whole[half + 400 :],
        "end": whole[:half],
        "beginning": b"nonsense",
    }[damage]
    (tmp_path / f"a.jsonl.{end}").write_bytes(damaged)
    (tmp_path / "b.jsonl").write_bytes(content("b", 2))
    message = check(read(tmp_path), f"a.jsonl.{end}", {"b0", "b1"})
    assert message.startswith(f"a.jsonl.{end} can't be read: ")


class ClientPayloadError(Exception):
    """As the clients of object stores have them, no OSError."""


@pytest.fixture
def memory() -> Any:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe({"/bucket/a.jpg": b"a", "/bucket/b.jpg": b"b", "/bucket/c.jpg": b"c"})
    yield memory
    memory.rm("/bucket", recursive=True)


def test_errors_of_a_client_of_an_object_store(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = type(memory)._open

    def broken(self: Any, path: str, *arguments: Any, **options: Any) -> Any:
        if path.endswith("b.jpg"):
            raise ClientPayloadError("Response payload is not completed")
        return whole(self, path, *arguments, **options)

    monkeypatch.setattr(type(memory), "_open", broken)
    message = check(read("memory://bucket", "What?"), "b.jpg", {"a.jpg", "c.jpg"})
    assert message == "b.jpg can't be read: Response payload is not completed."


def test_errors_of_a_listing(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> Any:
        raise ClientPayloadError("Access denied")

    monkeypatch.setattr(type(memory), "walk", denied)
    with pytest.raises(MllamaError, match="memory://bucket can't be read: Access"):
        read("memory://bucket", "What?")
