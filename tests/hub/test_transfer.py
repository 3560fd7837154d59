"""Large files are received whole or not at all, whatever the store does."""

from __future__ import annotations

import errno
import hashlib
import random
import shutil
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub.errors import HfHubHTTPError

from mllama.errors import HubError
from mllama.hub import transfer
from mllama.hub.errors import hub_error
from mllama.hub.remote_headers import gguf_architecture
from mllama.hub.repository import Repository
from mllama.hub.transfer import Blob, Stopped, check_room, receive
from tests.hub.stand_in import StandInHub

CONTENT = random.Random(1).randbytes(5_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def blob(hub: StandInHub, tmp_path: Path) -> Blob:
    hub.add("org/large", {"large.gguf": CONTENT})
    url = f"{hub.endpoint}/org/large/resolve/main/large.gguf"
    return Blob(
        "large.gguf",
        url,
        tmp_path / "blobs" / DIGEST,
        tmp_path / "locks" / "lock",
        len(CONTENT),
        DIGEST,
    )


class Count:
    total = 0

    def __call__(self, count: int) -> None:
        self.total += count


def received(blob: Blob) -> int:
    """Receives it; what the bar would show in the end."""
    count = Count()
    receive(blob, count, threading.Event())
    assert blob.path.read_bytes() == CONTENT
    assert not blob.part.exists()
    return count.total


@pytest.mark.parametrize("cuts", [[], [2_000_000], [0, 1_000_000, 0, 0, 900_000]])
def test_cuts_are_survived_and_counted_once(
    hub: StandInHub, blob: Blob, cuts: list[int]
) -> None:
    hub.cut_after = list(cuts)
    assert received(blob) == len(CONTENT)


def test_a_store_that_ignores_ranges(hub: StandInHub, blob: Blob) -> None:
    hub.ignore_ranges = True
    hub.cut_after = [2_000_000]
    assert received(blob) == len(CONTENT)


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_what_is_there_already_is_complete_or_too_much(
    blob: Blob, extra: bytes
) -> None:
    blob.path.parent.mkdir()
    blob.part.write_bytes(CONTENT + extra)
    assert received(blob) == len(CONTENT)


def test_without_progress_it_gives_up_and_keeps_what_came(
    hub: StandInHub, blob: Blob
) -> None:
    hub.cut_after = [1_500_000, 0, 0, 0, 0]
    with pytest.raises(httpx.TransportError):
        receive(blob, Count(), threading.Event())
    assert blob.part.stat().st_size > 0
    assert blob.missing == len(CONTENT) - blob.part.stat().st_size
    assert received(blob) == len(CONTENT)


@pytest.mark.parametrize("kept", [0, 1_000_000])
def test_damage_is_noticed_and_thrown_away(
    hub: StandInHub, blob: Blob, kept: int
) -> None:
    blob.path.parent.mkdir()
    blob.part.write_bytes(b"x" * kept)
    hub.damage = kept == 0
    with pytest.raises(HubError, match=r"large\.gguf is damaged"):
        receive(blob, Count(), threading.Event())
    assert not blob.path.exists()
    assert not blob.part.exists()
    hub.damage = False
    received(blob)


def test_more_than_was_said_is_not_written(blob: Blob) -> None:
    less = Blob(blob.name, blob.url, blob.path, blob.lock, 1000, blob.digest)
    with pytest.raises(HubError, match="sends more of large"):
        receive(less, Count(), threading.Event())
    assert not blob.path.exists()
    assert blob.part.stat().st_size <= 1000


def test_a_busy_hub_is_asked_again(hub: StandInHub, blob: Blob) -> None:
    hub.answer = 503
    with pytest.raises(HfHubHTTPError):
        receive(blob, Count(), threading.Event())
    assert len(hub.requests) == 1 + len(transfer.PAUSES)


def test_a_refusal_is_final(hub: StandInHub, blob: Blob) -> None:
    hub.answer = 403
    with pytest.raises(HfHubHTTPError):
        receive(blob, Count(), threading.Event())
    assert len(hub.requests) == 1


def test_it_can_be_stopped(blob: Blob) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        receive(blob, Count(), stop)
    assert not blob.path.exists()


def test_a_full_disk_keeps_what_came(
    blob: Blob, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = transfer._Part.append

    def append(part: Any, chunk: bytes) -> None:
        if part.size > 2_000_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(part, chunk)

    monkeypatch.setattr(transfer._Part, "append", append)
    with pytest.raises(OSError, match="No space") as failure:
        receive(blob, Count(), threading.Event())
    complaint = str(hub_error(failure.value, "org/large", "main"))
    assert "is full" in complaint
    assert "HF_HOME" in complaint
    monkeypatch.setattr(transfer._Part, "append", real)
    received(blob)


def test_too_little_room_is_noticed_at_once(
    blob: Blob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total, used, _ = shutil.disk_usage(tmp_path)
    free = len(CONTENT) - 1_000_000
    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda path: type("Usage", (), {"total": total, "used": used, "free": free}),
    )
    with pytest.raises(HubError, match="still to be downloaded"):
        check_room([blob], tmp_path)
    blob.path.parent.mkdir()
    blob.part.write_bytes(CONTENT[:2_000_000])
    check_room([blob], tmp_path)


@pytest.fixture
def two(hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository of two large files and one that Git holds, in this process."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    files = {"a.gguf": CONTENT, "b.gguf": CONTENT[::-1], "c.txt": CONTENT[:1000]}
    hub.add("org/two", files)
    return Repository("org/two", "main")


def test_a_file_without_a_digest_is_left_to_the_client(two: Repository) -> None:
    (a, c) = two.fetch(["a.gguf", "c.txt"])
    assert a.read_bytes() == CONTENT
    assert c.read_bytes() == CONTENT[:1000]


def test_what_can_not_be_a_small_file_is_not_fetched_as_one(
    hub: StandInHub, two: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllama.hub.repository._MOST_SMALL_BYTES", 999)
    with pytest.raises(HubError, match="has 1000 bytes"):
        two.fetch(["c.txt"], small=True)
    assert not hub.asked("c.txt")


def test_a_failure_ends_the_other_downloads(
    two: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the user would wait for gigabytes to be told."""
    fail = threading.Event()

    def download(blob: Blob, arrived: Any, stop: threading.Event) -> None:
        if blob.name == "a.gguf":
            assert fail.wait(10)
            raise HubError("a.gguf is bad")
        fail.set()
        assert stop.wait(10)
        raise Stopped

    monkeypatch.setattr("mllama.hub.repository.receive", download)
    with pytest.raises(HubError, match=r"a\.gguf is bad"):
        two.fetch(["a.gguf", "b.gguf"])


def _text(value: bytes) -> bytes:
    return len(value).to_bytes(8, "little") + value


KEY = _text(b"general.architecture") + (8).to_bytes(4, "little") + _text(b"mllama")
ALIGNMENT = _text(b"general.alignment") + (4).to_bytes(4, "little") + bytes(4)
NAME = _text(b"general.name") + (8).to_bytes(4, "little") + _text(b"x")
LIST = _text(b"a.list") + (9).to_bytes(4, "little") + bytes(12)


@pytest.mark.parametrize(
    ("keys", "architecture"),
    [
        (KEY, "mllama"),
        (ALIGNMENT + NAME + KEY, "mllama"),
        (LIST + KEY, None),
        (KEY[:-1], None),
        (b"", None),
        (b"\xff" * 99, None),
        (_text(b"\xff\xfe") + KEY, None),
    ],
)
def test_the_architecture_in_the_first_bytes(
    keys: bytes, architecture: str | None
) -> None:
    assert gguf_architecture(b"GGUF" + bytes(20) + keys) == architecture
