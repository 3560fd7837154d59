"""Large files are downloaded whole or not at all, whatever the store does."""

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
from mllama.hub.transfer import (
    Blob,
    DownloadCancelled,
    check_disk_space,
    download_blob,
)
from mllama.utils.byte_progress import FileProgress
from tests.hub.stand_in import StandInHub

CONTENT = random.Random(1).randbytes(5_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "RETRY_SECONDS", (0.0, 0.0, 0.0))
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


def download(blob: Blob, cancel: threading.Event | None = None) -> FileProgress:
    """Downloads a blob and returns the progress that a display would show."""
    progress = FileProgress(blob.name, blob.size, (), threading.RLock())
    download_blob(blob, progress, cancel or threading.Event())
    return progress


def assert_downloads(blob: Blob) -> None:
    """Checks that a blob arrives whole, each byte of it counted once."""
    assert download(blob).done == len(CONTENT)
    assert blob.path.read_bytes() == CONTENT
    assert not blob.partial_path.exists()


@pytest.mark.parametrize("cuts", [[], [2_000_000], [0, 1_000_000, 0, 0, 900_000]])
def test_broken_connections_are_resumed(
    hub: StandInHub, blob: Blob, cuts: list[int]
) -> None:
    hub.cut_after = list(cuts)
    assert_downloads(blob)


def test_a_store_that_ignores_ranges_sends_the_file_again(
    hub: StandInHub, blob: Blob
) -> None:
    hub.ignore_ranges = True
    hub.cut_after = [2_000_000]
    assert_downloads(blob)


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_a_partial_file_may_be_complete_or_too_long(blob: Blob, extra: bytes) -> None:
    blob.path.parent.mkdir()
    blob.partial_path.write_bytes(CONTENT + extra)
    assert_downloads(blob)


def test_a_download_without_progress_fails_and_keeps_its_bytes(
    hub: StandInHub, blob: Blob
) -> None:
    hub.cut_after = [1_500_000, 0, 0, 0, 0]
    with pytest.raises(httpx.TransportError):
        download(blob)
    assert blob.partial_path.stat().st_size > 0
    assert blob.missing_bytes == len(CONTENT) - blob.partial_path.stat().st_size
    assert_downloads(blob)


@pytest.mark.parametrize("kept", [0, 1_000_000])
def test_damaged_bytes_are_detected_and_deleted(
    hub: StandInHub, blob: Blob, kept: int
) -> None:
    blob.path.parent.mkdir()
    blob.partial_path.write_bytes(b"x" * kept)
    hub.damage = kept == 0
    with pytest.raises(HubError, match=r"large\.gguf is damaged"):
        download(blob)
    assert not blob.path.exists()
    assert not blob.partial_path.exists()
    hub.damage = False
    assert_downloads(blob)


def test_bytes_beyond_the_announced_size_are_not_written(blob: Blob) -> None:
    shorter = Blob(blob.name, blob.url, blob.path, blob.lock, 1000, blob.digest)
    with pytest.raises(HubError, match="sends more bytes of large"):
        download(shorter)
    assert not blob.path.exists()
    assert blob.partial_path.stat().st_size <= 1000


def test_a_busy_hub_is_asked_again(hub: StandInHub, blob: Blob) -> None:
    hub.answer = 503
    with pytest.raises(HfHubHTTPError):
        download(blob)
    assert len(hub.requests) == 1 + len(transfer.RETRY_SECONDS)


def test_a_refusal_is_final(hub: StandInHub, blob: Blob) -> None:
    hub.answer = 403
    with pytest.raises(HfHubHTTPError):
        download(blob)
    assert len(hub.requests) == 1


def test_a_download_can_be_cancelled(blob: Blob) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(DownloadCancelled):
        download(blob, cancel)
    assert not blob.path.exists()


def test_a_full_disk_keeps_the_bytes_that_fit(
    blob: Blob, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = transfer._PartialFile.append

    def append_until_full(partial: Any, chunk: bytes) -> None:
        if partial.size > 2_000_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(partial, chunk)

    monkeypatch.setattr(transfer._PartialFile, "append", append_until_full)
    with pytest.raises(OSError, match="No space") as failure:
        download(blob)
    message = str(hub_error(failure.value, "org/large", "main"))
    assert "is full" in message
    assert "HF_HOME" in message
    monkeypatch.setattr(transfer._PartialFile, "append", append)
    assert_downloads(blob)


def test_too_little_disk_space_is_refused_before_the_download(
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
        check_disk_space([blob], tmp_path)
    blob.path.parent.mkdir()
    blob.partial_path.write_bytes(CONTENT[:2_000_000])
    check_disk_space([blob], tmp_path)
