"""A repository of the hub at one commit, and its copy in the cache."""

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
from mllama.hub.errors import cache_path, explain, hub_error
from mllama.hub.progress import DownloadBar
from mllama.hub.transfer import Blob, Stopped, check_room, read_start, receive
from mllama.utils.atomic_file import write_small_file

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_MOST_SMALL_BYTES: Final = 100_000_000
"""What configuration, tokenizer and index are at most; real ones have 20 megabytes."""

_CONNECTIONS: Final = 4


class Repository:
    """A repository at the commit that a revision names now.

    If the hub can't say which that is, the copy in the cache is used as it is, which is
    said on stderr.

    Args:
        name: ``owner/name``.
        revision: A branch, a tag or a commit.
        force: Whether to download what is in the cache already.
        quiet: Whether to show no progress and say nothing.

    Raises:
        HubError: If the hub refuses it or can't be reached and there is no copy.
    """

    def __init__(
        self, name: str, revision: str, *, force: bool = False, quiet: bool = True
    ) -> None:
        self.name = name
        self.revision = revision
        self._force = force
        self._quiet = quiet
        self._sizes: dict[str, int | None] = {}
        self._refused: MllamaError | None = None
        """Why the copy in the cache must do."""
        try:
            from huggingface_hub import HfApi, constants
            from huggingface_hub.file_download import repo_folder_name

            folder = repo_folder_name(repo_id=name, repo_type="model")
            self._storage = cache_path() / folder
            self._locks = cache_path() / ".locks" / folder
            info = HfApi().model_info(
                name,
                revision=revision,
                files_metadata=True,
                timeout=constants.HF_HUB_ETAG_TIMEOUT,
            )
            commit = str(info.sha)
            if not _COMMIT.fullmatch(commit):
                raise ValueError(f"{commit!r} is no commit")
            self._sizes = {
                file.rfilename: file.size
                for file in info.siblings or ()
                if _is_inside(file.rfilename)
            }
            self.directory = self._snapshot(commit)
            self._keep_reference(commit)
        except Exception as error:
            self._use_copy(error)

    def _snapshot(self, commit: str) -> Path:
        return self._storage / "snapshots" / commit

    def _keep_reference(self, commit: str) -> None:
        """Notes which commit a branch or tag is, for a start without the hub."""
        if self.revision == commit:
            return
        reference = self._storage / "refs" / self.revision
        # A cache that can't be written may still hold all that is needed.
        with contextlib.suppress(OSError):
            reference.parent.mkdir(parents=True, exist_ok=True)
            write_small_file(reference, commit.encode())

    def _use_copy(self, error: Exception) -> None:
        """Falls back on the cache if there is a copy and the hub has not decided."""
        from huggingface_hub.errors import (
            HFValidationError,
            OfflineModeIsEnabled,
            RevisionNotFoundError,
        )

        refused = hub_error(error, self.name, self.revision)
        if self._force or isinstance(error, (HFValidationError, RevisionNotFoundError)):
            raise refused from error
        commit = self.revision
        # A commit has no reference, but is its own name.
        with contextlib.suppress(OSError, ValueError):
            commit = (self._storage / "refs" / self.revision).read_text().strip()
        self.directory = self._snapshot(commit)
        if not _COMMIT.fullmatch(commit) or not self.directory.is_dir():
            raise refused from error
        self._refused = refused
        self._sizes = {
            file.relative_to(self.directory).as_posix(): file.stat().st_size
            for file in self.directory.rglob("*")
            if file.is_file()
        }
        if not isinstance(error, OfflineModeIsEnabled):
            reason, _ = explain(error, self.name, self.revision)
            self._say(f"{reason}; using the copy in the cache")

    def _say(self, line: str) -> None:
        if not self._quiet:
            print(f"mllama: {line}", file=sys.stderr, flush=True)

    @property
    def names(self) -> Sequence[str]:
        """The files that there are, in folders too; without the hub, in the cache."""
        return list(self._sizes)

    def incomplete(self, error: Exception) -> Exception:
        """The error to raise where a choice among the files fails.

        Without the hub that is that the cache lacks them.
        """
        if self._refused is None:
            return error
        return HubError(
            f"the copy of {self.name} in the cache is incomplete ({error}), and "
            f"{self._refused}"
        )

    def has(self, name: str) -> bool:
        """Whether a file is in the cache already and is to stay as it is."""
        return (self.directory / name).is_file() and not self._force

    def read_start(self, name: str, count: int) -> bytes:
        """The first bytes of a file that isn't in the cache.

        Raises:
            HubError: If the hub can't be asked.
        """
        return self._asking(lambda: read_start(self._url(name), count))

    def size(self, name: str) -> int | None:
        """A file's bytes, if the hub says them."""
        return self._sizes[name]

    def fetch(self, names: Iterable[str], *, small: bool = False) -> list[Path]:
        """Brings files into the cache.

        Args:
            names: Among :attr:`names`.
            small: Whether they are such that a large one can't be meant.

        Returns:
            Where they are, in the order asked for.

        Raises:
            HubError: If one can't be had.
        """
        names = list(names)
        missing = [name for name in names if not self.has(name)]
        for name in missing if small else ():
            if (self._sizes[name] or 0) > _MOST_SMALL_BYTES:
                raise HubError(
                    f"{name} of {self.name} has {self._sizes[name]} bytes, which no "
                    "such file has; use another repository"
                )
        if missing:
            self._asking(lambda: self._download(missing, small))
        return [self.directory / name for name in names]

    def _asking(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except Exception as error:
            raise hub_error(error, self.name, self.revision) from error

    def _download(self, names: list[str], small: bool) -> None:
        blobs = [] if small else [self._blob(name) for name in names]
        (self._storage / "blobs").mkdir(parents=True, exist_ok=True)
        check_room([blob for blob in blobs if blob is not None], self._storage)
        if not small:
            total = sum(self._sizes[name] or 0 for name in names)
            self._say(f"downloading {self.name}, {total / 1e9:.2f} GB")
        stop = Event()
        with (
            DownloadBar(f"mllama: {self.name}", self._quiet or small) as bar,
            ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="mllama-hub") as pool,
        ):
            bar.expect(sum(blob.size for blob in blobs if blob is not None))
            try:
                running = [
                    pool.submit(self._download_one, name, blob, bar, stop)
                    for name, blob in zip(
                        names, blobs or [None] * len(names), strict=True
                    )
                ]
                done, _ = wait(running, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
            for each in done:
                failure = each.exception()
                if failure is not None and not isinstance(failure, Stopped):
                    raise failure

    def _download_one(
        self, name: str, blob: Blob | None, bar: DownloadBar, stop: Event
    ) -> None:
        from huggingface_hub import hf_hub_download

        if blob is not None:
            receive(blob, bar.advance, stop)
        # Of what has been received, this only notes in the cache what it is.
        hf_hub_download(
            self.name,
            name,
            revision=self.directory.name,
            cache_dir=cache_path(),
            force_download=self._force and blob is None,
            tqdm_class=bar.client_class(),
        )

    def _blob(self, name: str) -> Blob | None:
        """A large file, unless only the client knows how to get it."""
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
            anew=self._force,
        )

    def _url(self, name: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.name, name, revision=self.directory.name)


def _is_inside(name: str) -> bool:
    """Whether a file's name stays in its repository's directory."""
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or "\\" in name)
