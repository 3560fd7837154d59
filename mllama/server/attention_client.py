"""Asks a worker for the attention maps of answers."""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from max.pipelines.context.exceptions import InputError

from mllama.errors import EngineError, RequestError
from mllama.requests.answer_attention import answer_attention
from mllama.requests.attention import NO_MAPS, AttentionMaps
from mllama.requests.events import AnswerAttention
from mllama.requests.map_exchange import hold_images, read_maps, set_task
from mllama.requests.map_task import check_longest, map_task
from mllama.requests.preparation import PreparedRequest
from mllama.requests.request import GenerationRequest
from mllama.server.answer_streams import AnswerStreams
from mllama.server.disk_thread import DiskThread
from mllama.server.supervisor.worker_link import WorkerLink

if TYPE_CHECKING:
    from mllama.requests.attention import AttentionOptions

Prepare = Callable[[GenerationRequest, str], Awaitable[PreparedRequest]]
"""Prepares a request that has an id."""


@contextmanager
def map_directory(is_needed: bool) -> Iterator[Path | None]:
    """Yields a directory in which the worker writes maps, and removes it at the end.

    Args:
        is_needed: Whether the server offers attention maps; otherwise None is yielded.
    """
    if not is_needed:
        yield None
        return
    with tempfile.TemporaryDirectory(
        prefix="mllama-attention-", ignore_cleanup_errors=True
    ) as name:
        yield Path(name)


class AttentionClient:
    """Asks for the maps of answers, as requests of their own.

    Args:
        directory: Where the worker writes them.
        tokenizer: The model's tokenizer.
    """

    def __init__(self, directory: Path, tokenizer: Any) -> None:
        self._directory = directory
        self._disk = DiskThread()
        self._tokenizer = tokenizer

    def check(self, options: AttentionOptions) -> None:
        """Checks that the model has the layers and heads that a request names.

        Raises:
            RequestError: If it doesn't.
        """
        text = self._tokenizer.text_config
        options.chosen(text.cross_attention_layers, text.num_attention_heads)

    def begin(self, prepared: PreparedRequest) -> None:
        """Checks a request's size, and keeps its images for the maps.

        Raises:
            RequestError: If its maps could be too large.
        """
        check_longest(prepared, self._tokenizer.vision_config)
        if prepared.tiles:
            for context in prepared.contexts:
                hold_images(context)

    async def of_answer(
        self,
        current_worker: Callable[[], WorkerLink],
        prepare: Prepare,
        prepared: PreparedRequest,
        choice: int,
        answer: Sequence[int],
    ) -> AnswerAttention:
        """Returns where the words of an answer looked, or why that isn't known.

        Args:
            current_worker: Returns the way to the worker.
            prepare: Prepares a request.
            prepared: The answer's request.
            choice: The answer.
            answer: Its tokens.
        """
        try:
            maps = await self._maps(current_worker, prepare, prepared, choice, answer)
        except (EngineError, RequestError, InputError) as error:
            return AnswerAttention(choice, error=" ".join(str(error).split()))
        # Words are found with regular expressions, and maps may be large.
        return await asyncio.to_thread(
            answer_attention, prepared, choice, answer, maps, self._tokenizer.delegate
        )

    async def _maps(
        self,
        current_worker: Callable[[], WorkerLink],
        prepare: Prepare,
        prepared: PreparedRequest,
        choice: int,
        answer: Sequence[int],
    ) -> AttentionMaps:
        found = map_task(prepared, answer, self._tokenizer.vision_config)
        if found is None:
            return NO_MAPS
        task, whole = found
        # Not made of the request's own id, which its client may have chosen.
        name = secrets.token_hex(16)
        (context,) = (await prepare(whole, name)).contexts
        set_task(context, task, str(prepared.contexts[choice].request_id))
        path = self._directory / name
        try:
            await self._disk.run(lambda: self._make_file(path))
            streams = AnswerStreams(current_worker, [context])
            try:
                await streams.start()
                async for _, outputs in streams.reports():
                    if outputs[-1].final_status.value == "cancelled":
                        raise EngineError(
                            "the model failed on the attention maps; the log says why"
                        )
                streams.check_worker()
                return await asyncio.to_thread(read_maps, path)
            except InputError:
                # MAX reports a worker that has died this way too.
                streams.check_worker()
                raise
            finally:
                await streams.close()
        finally:
            await self._disk.run(lambda: _remove(path))

    def _make_file(self, path: Path) -> None:
        """Makes an empty file for the worker's maps.

        Services that remove old files from the temporary directory may have removed
        this one's directory, and somebody else may have made one of its name.

        Raises:
            EngineError: If it can't be made.
        """
        try:
            with suppress(FileExistsError):
                self._directory.mkdir(mode=0o700)
            found = self._directory.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise EngineError(
                    f"attention maps can't be written: {self._directory} is somebody "
                    "else's; restart the server"
                )
            path.touch(mode=0o600)
        except OSError as error:
            raise EngineError(
                f"attention maps can't be written: {error.strerror or error}"
            ) from error


def _remove(path: Path) -> None:
    # Its directory may be somebody else's.
    with suppress(OSError):
        path.unlink()
