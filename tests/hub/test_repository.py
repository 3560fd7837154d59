"""Files of one repository are downloaded together, by this package or the client."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest

from mllama.errors import HubError
from mllama.hub.repository import Repository
from mllama.hub.transfer import Blob, DownloadCancelled
from mllama.utils.byte_progress import ByteProgress
from tests.hub.stand_in import StandInHub

CONTENT = random.Random(1).randbytes(5_000_000)


@pytest.fixture
def repository(
    hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Repository:
    """A repository of two large files and a small one, opened in this process."""
    from huggingface_hub import constants

    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    files = {"a.gguf": CONTENT, "b.gguf": CONTENT[::-1], "c.txt": CONTENT[:1000]}
    hub.add("org/two", files)
    return Repository("org/two", "main")


def test_the_client_downloads_files_without_a_digest(repository: Repository) -> None:
    (a, c) = repository.download(["a.gguf", "c.txt"])
    assert a.read_bytes() == CONTENT
    assert c.read_bytes() == CONTENT[:1000]


def test_the_clients_downloads_count_in_the_display(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []

    class RecordingProgress(ByteProgress):
        def _end(self, *, finished: bool) -> None:
            counted.append((self._bar.n, self._bar.total))
            super()._end(finished=finished)

    monkeypatch.setattr("mllama.hub.repository.ByteProgress", RecordingProgress)
    repository._quiet = False
    repository.download(["a.gguf", "c.txt"])
    assert counted == [(len(CONTENT) + 1000,) * 2]


def test_an_implausibly_large_configuration_is_refused(
    hub: StandInHub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllama.hub.repository._MAX_SMALL_BYTES", 999)
    with pytest.raises(HubError, match="has 1000 bytes"):
        repository.download(["c.txt"], small=True)
    assert not hub.requests_for("c.txt")


def test_a_failure_cancels_the_other_downloads(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the error would appear only after gigabytes of the others."""
    fail = threading.Event()

    def download(blob: Blob, progress: Any, cancel: threading.Event) -> None:
        if blob.name == "a.gguf":
            assert fail.wait(10)
            raise HubError("a.gguf is bad")
        fail.set()
        assert cancel.wait(10)
        raise DownloadCancelled

    monkeypatch.setattr("mllama.hub.repository.download_blob", download)
    with pytest.raises(HubError, match=r"a\.gguf is bad"):
        repository.download(["a.gguf", "b.gguf"])
