"""Large files of the hub: resumed where an earlier start was cut off, and verified.

The hub's client resumes within one call but throws away what has arrived when it ends,
which for weights is gigabytes.  So what the hub stores by its SHA-256, as it does with
every large file, is received here, under the name that the client's cache knows for
incomplete files, and becomes the cache's own when the digest is right.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any, Final

from mllama.errors import HubError

_CHUNK_BYTES: Final = 1 << 20

PAUSES: Final = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each new attempt; any progress begins anew."""

_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Answers of a server that may do better in a moment."""


class Stopped(Exception):
    """Another transfer has failed, so that this one was given up."""


@dataclass(frozen=True)
class Blob:
    """A large file in the hub's cache, complete or not.

    Attributes:
        name: The file's name in its repository, for messages.
        url: Where it is.
        path: Where it belongs in the cache.
        lock: The client's lock on it.
        size: Its bytes.
        digest: Its SHA-256 in hexadecimal.
        anew: Whether to download it although it is there.
    """

    name: str
    url: str
    path: Path
    lock: Path
    size: int
    digest: str
    anew: bool = False

    @property
    def part(self) -> Path:
        """What has arrived of it."""
        return self.path.with_name(f"{self.digest}.incomplete")

    @property
    def missing(self) -> int:
        """Bytes that still have to come."""
        try:
            return max(0, self.size - self.part.stat().st_size)
        except FileNotFoundError:
            return self.size


def check_room(blobs: list[Blob], directory: Path) -> None:
    """Checks that what is missing has room on the disk.

    Raises:
        HubError: If not.
    """
    needed = sum(blob.missing for blob in blobs)
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise HubError(
            f"{needed / 2**30:.1f} GiB are still to be downloaded to {directory}, but "
            f"only {free / 2**30:.1f} GiB are free there; make room, or move the cache "
            "with HF_HOME"
        )


def receive(blob: Blob, arrived: Callable[[int], None], stop: Event) -> None:
    """Downloads a file, or the rest of it, and puts it in its place.

    Args:
        blob: The file.
        arrived: Told how many bytes have come, less than none if they are discarded.
        stop: Set to give up.

    Raises:
        HubError: If what has arrived is not the file.
        Stopped: If it was given up.
        httpx.TransportError, HfHubHTTPError: If the hub can't be reached any more.
        OSError: If the disk is full or can't be written.
    """
    from huggingface_hub.utils import WeakFileLock

    blob.path.parent.mkdir(parents=True, exist_ok=True)
    blob.lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(blob.lock):
        if blob.path.exists() and not blob.anew:
            return arrived(blob.size)  # Another process was faster.
        with _Part(blob.part) as part:
            if part.size:
                arrived(part.size)
            _complete(part, blob, arrived, stop)
            damaged = part.digest != blob.digest
        if damaged:
            blob.part.unlink()
            raise HubError(
                f"what has arrived of {blob.name} is damaged and was deleted; start "
                "again to download it anew"
            )
        os.replace(blob.part, blob.path)


class _Part:
    """A file that grows, and the digest of what it holds."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _Part:
        self._file = self._path.open("a+b", buffering=0)
        self._file.seek(0)
        self._hash = hashlib.sha256()
        self.size = 0
        while held := self._file.read(_CHUNK_BYTES):
            self._hash.update(held)
            self.size += len(held)
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
        left = memoryview(chunk)
        while left:
            written = self._file.write(left) or 0
            self._hash.update(left[:written])
            self.size += written
            left = left[written:]

    def clear(self) -> None:
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self.size = 0


def _complete(
    part: _Part, blob: Blob, arrived: Callable[[int], None], stop: Event
) -> None:
    """Asks for the rest until it is there."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    failures = 0
    while part.size != blob.size:
        before = part.size
        try:
            _ask(part, blob, arrived, stop)
            failure: Exception = httpx.RemoteProtocolError("the connection broke off")
        except HfHubHTTPError as error:
            if error.response.status_code not in _BUSY:
                raise
            failure = error
        except httpx.TransportError as error:
            failure = error
        if part.size == blob.size:
            return
        failures = 1 if part.size > before else failures + 1
        if failures > len(PAUSES):
            raise failure
        if stop.wait(PAUSES[failures - 1]):
            raise Stopped


def _ask(part: _Part, blob: Blob, arrived: Callable[[int], None], stop: Event) -> None:
    """One request for the rest of a file."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if part.size > blob.size:
        _discard(part, arrived)
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
    # The client leaves the token out where it is sent on to another host.
    with get_session().stream(
        "GET", blob.url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        if response.status_code == 416:
            return _discard(part, arrived)
        hf_raise_for_status(response)
        start = f"bytes {part.size}-"
        if response.status_code != 206 or not response.headers.get(
            "Content-Range", ""
        ).startswith(start):
            # The whole file, although the rest was asked for.
            _discard(part, arrived)
        for chunk in response.iter_bytes():
            if stop.is_set():
                raise Stopped
            if part.size + len(chunk) > blob.size:
                raise HubError(
                    f"the hub sends more of {blob.name} than the {blob.size} bytes "
                    "that it has; start again, or check HF_ENDPOINT"
                )
            part.append(chunk)
            arrived(len(chunk))


def _discard(part: _Part, arrived: Callable[[int], None]) -> None:
    if part.size:
        arrived(-part.size)
    part.clear()


def read_start(url: str, count: int) -> bytes:
    """The first bytes of a file of the hub, fewer if it is shorter.

    Raises:
        httpx.TransportError, HfHubHTTPError: If the hub can't be asked.
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
