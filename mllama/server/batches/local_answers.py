"""Answers the lines of batches with an engine of this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mllama.batch.lines import BatchLine
from mllama.batch.results import LineAnswer
from mllama.errors import ImageError
from mllama.requests.engine_settings import EngineSettings
from mllama.server.arrival.shared_memory import SharedMemory
from mllama.server.batches.line_answers import LineAnswers
from mllama.server.batches.local_images import LocalImages
from mllama.server.capabilities import ServerCapabilities
from mllama.server.engine_client import EngineClient
from mllama.server.model_description import ModelDescription


class LocalAnswers:
    """Answers lines whose pictures are files, URLs, or come with them.

    Args:
        client: The engine, for the event loop that runs.
        capabilities: Features and limits of the engine.
        folder: Where relative ``file:`` URLs begin.
        check_alive: Raises a RuntimeError if the engine has failed as a whole.
    """

    def __init__(
        self,
        client: EngineClient,
        capabilities: ServerCapabilities,
        folder: Path,
        check_alive: Callable[[], None],
    ) -> None:
        self._images = LocalImages(folder)
        # There is one client, which needs to leave nothing to others, and for which an
        # error is no better than a wait.
        memory = SharedMemory(max_wait=None, most_each=1.0, log_probabilities=None)
        self._answers = LineAnswers(client, capabilities, self._images, memory)
        self._check_alive = check_alive

    async def __call__(self, line: BatchLine) -> LineAnswer:
        """Returns the answer to a line, or the error in its place.

        Raises:
            RuntimeError: If the engine has failed as a whole, so that no line is at
                fault.
        """
        pictures: dict[str, bytes | ImageError] = dict(line.attachments)
        for url, why in line.unreadable.items():
            pictures[url] = ImageError(why)
        self._images.attach(pictures)
        try:
            answer = await self._answers(line)
        finally:
            self._images.detach(pictures)
        if answer.status >= 500:
            self._check_alive()
        return answer


def engine_capabilities(
    settings: EngineSettings, tokenizer: Any, model_name: str
) -> ServerCapabilities:
    """Returns the capabilities of an engine that answers batches.

    Args:
        settings: The engine's settings.
        tokenizer: Its tokenizer.
        model_name: The name of the model in its answers.
    """
    return ServerCapabilities.of(
        settings,
        tokenizer,
        model_name=model_name,
        max_images=None,
        max_image_bytes=None,
        description=ModelDescription(),
    )
