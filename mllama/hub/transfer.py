"""Downloads of large files that resume after a restart and are verified.

The hub's client resumes within one call only: when its process ends, it deletes or
abandons what has arrived, which for weights is gigabytes.  The hub identifies every
large file by its SHA-256.  Such a file is downloaded here, next to the place where the
client's cache keeps it, and moves there once the digest is right.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any, Final

from mllama.errors import HubError
from mllama.utils.byte_progress import FileProgress

_CHUNK_BYTES: Final = 1 << 20

RETRY_SECONDS: Final = (1.0, 2.0, 4.0, 8.0)
"""Pauses before each new attempt; any progress starts over with the first."""

_RETRIED_STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses of a server that may recover in a moment."""


class DownloadCancelled(Exception):
    """Another download has failed, so this one was cancelled."""


@dataclass(frozen=True)
class Blob:
    """A large file in the hub's cache, complete or not.

    Attributes:
        name: The file's name in its repository, for messages.
        url: Its address.
        path: Its place in the cache.
        lock: The client's lock file for it.
        size: Its size in bytes.
        digest: Its SHA-256 in hexadecimal.
        force: Whether to download it even if the cache has it.
    """

    name: str
    url: str
    path: Path
    lock: Path
    size: int
    digest: str
    force: bool = False

    @property
    def partial_path(self) -> Path:
        """Returns the path of the file for the bytes that have arrived."""
        return self.path.with_name(f"{self.digest}.incomplete")

    @property
    def missing_bytes(self) -> int:
        """Returns the number of bytes that are still to be downloaded."""
        try:
            return max(0, self.size - self.partial_path.stat().st_size)
        except FileNotFoundError:
            return self.size


def check_disk_space(blobs: list[Blob], directory: Path) -> None:
    """Checks that the missing bytes fit on the disk.

    Raises:
        HubError: If they don't.
    """
    needed = sum(blob.missing_bytes for blob in blobs)
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise HubError(
            f"{needed / 2**30:.1f} GiB are still to be downloaded to {directory}, but "
            f"only {free / 2**30:.1f} GiB are free there; free some space, or move the "
            "cache with HF_HOME"
        )


def download_blob(blob: Blob, progress: FileProgress, cancel: Event) -> None:
    """Downloads a file, or the rest of it, and moves it to its place in the cache.

    Args:
        blob: The file.
        progress: Counts the bytes that arrive.
        cancel: Cancels the download once it is set.

    Raises:
        HubError: If the downloaded bytes are not the file's.
        DownloadCancelled: If the download was cancelled.
        httpx.TransportError, HfHubHTTPError: If the hub can't be reached any more.
        OSError: If the disk is full or can't be written.
    """
    from huggingface_hub.utils import WeakFileLock

    blob.path.parent.mkdir(parents=True, exist_ok=True)
    blob.lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(blob.lock):
        if blob.path.exists() and not blob.force:
            # Another process downloaded it while this one waited for the lock.
            progress.resume(blob.size)
            return
        with _PartialFile(blob.partial_path) as partial:
            if partial.size:
                progress.resume(partial.size)
            _download_rest(partial, blob, progress, cancel)
            is_damaged = partial.digest != blob.digest
        if is_damaged:
            blob.partial_path.unlink()
            raise HubError(
                f"the download of {blob.name} is damaged and was deleted; start again "
                "to repeat it"
            )
        os.replace(blob.partial_path, blob.path)


class _PartialFile:
    """A file that grows, and the digest of its content.

    Entering the context opens the file and hashes the bytes of an earlier run.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _PartialFile:
        self._file = self._path.open("a+b", buffering=0)
        self._file.seek(0)
        self._hash = hashlib.sha256()
        self.size = 0
        while chunk := self._file.read(_CHUNK_BYTES):
            self._hash.update(chunk)
            self.size += len(chunk)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def append(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            written = self._file.write(rest) or 0
            self._hash.update(rest[:written])
            self.size += written
            rest = rest[written:]

    def clear(self) -> None:
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self.size = 0


def _download_rest(
    partial: _PartialFile, blob: Blob, progress: FileProgress, cancel: Event
) -> None:
    """Requests the rest of a file until it is complete."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    failures = 0
    while partial.size != blob.size:
        before = partial.size
        try:
            _request_rest(partial, blob, progress, cancel)
            failure: Exception = httpx.RemoteProtocolError("the connection broke off")
        except HfHubHTTPError as error:
            if error.response.status_code not in _RETRIED_STATUSES:
                raise
            failure = error
        except httpx.TransportError as error:
            failure = error
        if partial.size == blob.size:
            return
        failures = 1 if partial.size > before else failures + 1
        if failures > len(RETRY_SECONDS):
            raise failure
        if cancel.wait(RETRY_SECONDS[failures - 1]):
            raise DownloadCancelled


def _request_rest(
    partial: _PartialFile, blob: Blob, progress: FileProgress, cancel: Event
) -> None:
    """Sends one request for the rest of a file."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if partial.size > blob.size:
        _discard(partial, progress)
    if partial.size:
        headers["Range"] = f"bytes={partial.size}-"
    # The client's session drops the token when it is redirected to another host.
    with get_session().stream(
        "GET", blob.url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        if response.status_code == 416:
            return _discard(partial, progress)
        hf_raise_for_status(response)
        start = f"bytes {partial.size}-"
        if response.status_code != 206 or not response.headers.get(
            "Content-Range", ""
        ).startswith(start):
            # The server ignored the range and sends the whole file.
            _discard(partial, progress)
        for chunk in response.iter_bytes():
            if cancel.is_set():
                raise DownloadCancelled
            if partial.size + len(chunk) > blob.size:
                raise HubError(
                    f"the hub sends more bytes of {blob.name} than its size of "
                    f"{blob.size}; start again, or check HF_ENDPOINT"
                )
            partial.append(chunk)
            progress.advance(len(chunk))


def _discard(partial: _PartialFile, progress: FileProgress) -> None:
    if partial.size:
        progress.advance(-partial.size)
    partial.clear()


def read_start(url: str, count: int) -> bytes:
    """Returns the first bytes of a file of the hub, or all of a shorter file.

    The connection is closed after these bytes, even if the server ignores the range.

    Raises:
        httpx.TransportError, HfHubHTTPError: If the hub can't be reached.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    headers: dict[str, Any] = {
        **build_hf_headers(),
        "Accept-Encoding": "identity",
        "Range": f"bytes=0-{count - 1}",
    }
    start = bytearray()
    with get_session().stream(
        "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        hf_raise_for_status(response)
        for chunk in response.iter_bytes():
            start += chunk
            if len(start) >= count:
                break
    return bytes(start[:count])
