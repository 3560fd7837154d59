"""A repository of the hub at one commit, and its files in the hub's cache."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath
from threading import Event
from typing import Any, Final

from mllama.errors import HubError, MllamaError
from mllama.hub.client_progress import client_bar_class
from mllama.hub.connection import check_connection
from mllama.hub.errors import cache_path, explain, hub_error
from mllama.hub.transfer import (
    Blob,
    DownloadCancelled,
    check_disk_space,
    download_blob,
    read_start,
)
from mllama.utils.atomic_file import write_small_file
from mllama.utils.byte_progress import ByteProgress

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_MAX_SMALL_BYTES: Final = 100_000_000
"""The limit for configuration, tokenizer and index; real ones have 20 megabytes."""

_CONNECTIONS: Final = 4


class Repository:
    """A repository at the commit that a revision names now.

    If the hub can't say which commit that is, the copy in the cache is used, and a line
    on stderr says so.

    Args:
        name: ``owner/name``.
        revision: A branch, a tag or a commit.
        force: Whether to download files that are in the cache already.
        quiet: Whether to hide progress and messages.

    Raises:
        HubError: If the hub refuses access or can't be reached, and the cache has no
            copy.
    """

    def __init__(
        self, name: str, revision: str, *, force: bool = False, quiet: bool = True
    ) -> None:
        self.name = name
        self.revision = revision
        self._force = force
        self._quiet = quiet
        self._sizes: dict[str, int | None] = {}
        self._hub_failure: MllamaError | None = None
        """The failure that made the copy in the cache necessary."""
        try:
            from huggingface_hub import HfApi, constants
            from huggingface_hub.file_download import repo_folder_name

            folder = repo_folder_name(repo_id=name, repo_type="model")
            self._storage = cache_path() / folder
            self._locks = cache_path() / ".locks" / folder
            check_connection(constants.ENDPOINT)
            info = HfApi().model_info(
                name,
                revision=revision,
                files_metadata=True,
                timeout=constants.HF_HUB_ETAG_TIMEOUT,
            )
            commit = str(info.sha)
            if not _COMMIT.fullmatch(commit):
                raise ValueError(f"{commit!r} is not a commit")
            self._sizes = {
                file.rfilename: file.size
                for file in info.siblings or ()
                if _is_inside(file.rfilename)
            }
            self.directory = self._snapshot(commit)
            self._save_reference(commit)
        except Exception as error:
            self._use_cached_copy(error)

    def _snapshot(self, commit: str) -> Path:
        return self._storage / "snapshots" / commit

    def _save_reference(self, commit: str) -> None:
        """Saves the commit of a branch or tag, for runs that can't reach the hub."""
        if self.revision == commit:
            return
        reference = self._storage / "refs" / self.revision
        # A read-only cache may still contain everything that is needed.
        with contextlib.suppress(OSError):
            reference.parent.mkdir(parents=True, exist_ok=True)
            write_small_file(reference, commit.encode())

    def _use_cached_copy(self, error: Exception) -> None:
        """Falls back on the cache, unless it has no copy or the error is final."""
        from huggingface_hub.errors import (
            HFValidationError,
            OfflineModeIsEnabled,
            RevisionNotFoundError,
        )

        failure = hub_error(error, self.name, self.revision)
        if self._force or isinstance(error, (HFValidationError, RevisionNotFoundError)):
            raise failure from error
        commit = self.revision
        # A revision without a reference may be a commit itself.
        with contextlib.suppress(OSError, ValueError):
            commit = (self._storage / "refs" / self.revision).read_text().strip()
        self.directory = self._snapshot(commit)
        if not _COMMIT.fullmatch(commit) or not self.directory.is_dir():
            raise failure from error
        self._hub_failure = failure
        self._sizes = {
            file.relative_to(self.directory).as_posix(): file.stat().st_size
            for file in self.directory.rglob("*")
            if file.is_file()
        }
        if not isinstance(error, OfflineModeIsEnabled):
            reason, _ = explain(error, self.name, self.revision)
            self._print(f"{reason}; using the copy in the cache")

    def _print(self, line: str) -> None:
        if not self._quiet:
            print(f"mllama: {line}", file=sys.stderr, flush=True)

    @property
    def names(self) -> Sequence[str]:
        """Returns the names of all files, or of cached ones without the hub."""
        return list(self._sizes)

    def selection_error(self, error: Exception) -> Exception:
        """Returns the error to raise if a choice among the files fails.

        If the hub is unavailable, the reason is that the copy in the cache is
        incomplete.
        """
        if self._hub_failure is None:
            return error
        return HubError(
            f"the copy of {self.name} in the cache is incomplete ({error}), and "
            f"{self._hub_failure}"
        )

    def has(self, name: str) -> bool:
        """Returns True if a file is in the cache and need not be downloaded again."""
        return (self.directory / name).is_file() and not self._force

    def read_start(self, name: str, count: int) -> bytes:
        """Returns the first bytes of a file on the hub.

        Raises:
            HubError: If the hub doesn't send them.
        """
        return self._translate_errors(lambda: read_start(self._url(name), count))

    def size(self, name: str) -> int | None:
        """Returns a file's size in bytes, or None if the hub doesn't say it."""
        return self._sizes[name]

    def download(self, names: Iterable[str], *, small: bool = False) -> list[Path]:
        """Downloads the files that the cache lacks.

        Args:
            names: Some of :attr:`names`.
            small: Whether these files must be small; no progress is shown for them.

        Returns:
            The files' paths, in the order of the names.

        Raises:
            HubError: If a file can't be downloaded.
        """
        names = list(names)
        missing = [name for name in names if not self.has(name)]
        for name in missing if small else ():
            if (self._sizes[name] or 0) > _MAX_SMALL_BYTES:
                raise HubError(
                    f"{name} of {self.name} has {self._sizes[name]} bytes, too many "
                    "for such a file; use another repository"
                )
        if missing:
            self._translate_errors(lambda: self._download(missing, small))
        return [self.directory / name for name in names]

    def _translate_errors(self, request: Callable[[], Any]) -> Any:
        try:
            return request()
        except Exception as error:
            raise hub_error(error, self.name, self.revision) from error

    def _download(self, names: list[str], small: bool) -> None:
        blobs = [None if small else self._blob(name) for name in names]
        known = [blob for blob in blobs if blob is not None]
        (self._storage / "blobs").mkdir(parents=True, exist_ok=True)
        check_disk_space(known, self._storage)
        total = sum(self._sizes[name] or 0 for name in names)
        if not small:
            self._print(f"downloading {self.name}, {total / 1e9:.2f} GB")
        cancel = Event()
        with (
            ByteProgress(self.name, total, quiet=self._quiet or small) as progress,
            ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="mllama-hub") as pool,
        ):
            try:
                running = [
                    pool.submit(self._download_one, name, blob, progress, cancel)
                    for name, blob in zip(names, blobs, strict=True)
                ]
                done, _ = wait(running, return_when=FIRST_EXCEPTION)
            finally:
                cancel.set()
                pool.shutdown(wait=False, cancel_futures=True)
            for each in done:
                failure = each.exception()
                if failure is not None and not isinstance(failure, DownloadCancelled):
                    raise failure

    def _download_one(
        self, name: str, blob: Blob | None, progress: ByteProgress, cancel: Event
    ) -> None:
        from huggingface_hub import hf_hub_download

        with progress.file(name, self._sizes[name]) as file:
            if blob is not None:
                download_blob(blob, file, cancel)
            # If the blob is in the cache by now, this only links the snapshot to it.
            hf_hub_download(
                self.name,
                name,
                revision=self.directory.name,
                cache_dir=cache_path(),
                force_download=self._force and blob is None,
                tqdm_class=client_bar_class(file),
            )

    def _blob(self, name: str) -> Blob | None:
        """Returns a large file, or None if only the client can download it."""
        from huggingface_hub import constants, get_hf_file_metadata

        url = self._url(name)
        metadata = get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        digest, size = metadata.etag or "", metadata.size
        if (
            not _SHA256.fullmatch(digest)
            or size is None
            or size > constants.MAX_HTTP_DOWNLOAD_SIZE
        ):
            return None
        return Blob(
            name,
            url,
            self._storage / "blobs" / digest,
            self._locks / f"{digest}.lock",
            size,
            digest,
            force=self._force,
        )

    def _url(self, name: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.name, name, revision=self.directory.name)


def _is_inside(name: str) -> bool:
    """Returns True if a file's name stays in its repository's directory."""
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or "\\" in name)
