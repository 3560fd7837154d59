"""The whole application in this process, with the demo model's tokenizer.

Everything is as in ``mllama serve``, except that a worker which answers every request
with the same text stands in for MAX's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from max.pipelines.context import GenerationStatus, LogProbabilities
from max.pipelines.context import TextGenerationOutput as Output
from max.pipelines.lib import PIPELINE_REGISTRY, PipelineConfig
from max.serve.scheduler_result import SchedulerResult

from mllama.launch.options import EngineOptions
from mllama.max_compat.server import ServingTokenGeneratorSettings, Settings
from mllama.max_model.sampling_context import log_probability_counts
from mllama.requests.engine_settings import EngineSettings
from mllama.server.app import server_capabilities
from mllama.server.arrival.shared_memory import SharedMemory
from mllama.server.batches.options import BatchOptions
from mllama.server.batches.owners import EVERYBODY
from mllama.server.batches.records import KEPT_SECONDS, BatchRecord, FileRecord, now
from mllama.server.batches.service import BatchService
from mllama.server.batches.stores import BatchStores
from mllama.server.image_fetcher import ImageFetcher
from mllama.server.max_engine_client import MaxEngineClient
from mllama.server.model_description import describe_model
from mllama.server.options import ServerOptions
from mllama.server.routes import add_routes, new_application
from mllama.server.scheduling.options import OverloadOptions
from mllama.server.scheduling.queued_engine_client import QueuedEngineClient
from mllama.server.scheduling.request_queue import new_queue
from tests.server.stand_in_worker import StandInWorker

from .batch_requests import BATCH_ID, FILE_ID
from .exchange import Answer, Exchange

NAME = "mllama-demo"
TEXT = "A red circle, and näher ✨ {"
HOST = "127.0.0.1:8000"


class _AnsweringWorker(StandInWorker):
    """A worker that answers every request with the same text."""

    def __init__(self, tokens: list[int], end: int) -> None:
        super().__init__()
        self._tokens = tokens
        self._end = end
        self._tasks: set[asyncio.Task[None]] = set()
        put = self.requests.put

        async def put_and_answer(context: Any) -> None:
            await put(context)
            task = asyncio.ensure_future(self._answer(context))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self.requests.put = put_and_answer  # type: ignore[method-assign]

    async def _answer(self, context: Any) -> None:
        counts = log_probability_counts(context)
        room = context.max_length - len(context.tokens.prompt)
        for place, token in enumerate([*self._tokens, self._end][:room]):
            await asyncio.sleep(0)
            entries = [_log_probabilities([token])] if counts.answer is not None else []
            if place == 0 and counts.prompt is not None:
                # Images have none, nor does the first token.
                prompt = context.tokens.prompt[1 : -len(context.images) or None]
                entries.insert(0, _log_probabilities(prompt.tolist()))
            status = (
                GenerationStatus.END_OF_SEQUENCE
                if token == self._end
                else GenerationStatus.MAXIMUM_LENGTH
                if place == room - 1
                else GenerationStatus.ACTIVE
            )
            output = Output(
                request_id=context.request_id,
                tokens=[token],
                final_status=status,
                log_probabilities=entries or None,
                num_cached_tokens=0,
            )
            self._deliver(context.request_id, SchedulerResult.create(output))


def _log_probabilities(tokens: list[int]) -> LogProbabilities:
    count = len(tokens)
    return LogProbabilities(
        [-0.5] * count, [{token: -0.5, 5: -1.5} for token in tokens], tokens
    )


class _Problems(logging.Handler):
    """Keeps what is logged as an error, or with a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.lines.append(self.format(record))


def _batch_stores(folder: Path) -> BatchStores:
    """Returns stores with a file and a batch, which keeps it from being deleted."""
    stores = BatchStores(BatchOptions(directory=folder, max_file_bytes=4096))
    content = b'{"custom_id": "a"}\n'
    stores.files.content_path(FILE_ID).write_bytes(content)
    stores.files.add(
        FileRecord(
            id=FILE_ID,
            owner=EVERYBODY,
            bytes=len(content),
            filename="a.jsonl",
            purpose="batch",
            expires_at=now() + KEPT_SECONDS,
        )
    )
    stores.batches.add(
        BatchRecord(
            id=BATCH_ID,
            owner=EVERYBODY,
            endpoint="/v1/chat/completions",
            input_file_id=FILE_ID,
        )
    )
    return stores


class Application:
    """The application, and what sends it requests."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._log = _Problems()
        options = EngineOptions(devices="cpu", max_length=256)
        files = options.resolve()
        arguments = options.pipeline_args(files, served_model_name=NAME)
        config = PipelineConfig.from_args(arguments)
        tokenizer = PIPELINE_REGISTRY.retrieve_factory(config).tokenizer
        settings = EngineSettings.of(config, tokenizer)
        unused: Any = None
        serving = Settings(
            MAX_SERVE_MAX_REQUEST_BYTES=2**20,
        )
        memory = SharedMemory()
        self.app: FastAPI = new_application(
            serving,
            ServingTokenGeneratorSettings(
                model_factory=unused, pipeline_config=config, tokenizer=tokenizer
            ),
            ServerOptions(host="127.0.0.1", port=8000),
            memory=memory,
        )
        tokens = tokenizer.delegate.encode(TEXT, add_special_tokens=False)
        self.worker = _AnsweringWorker(tokens, min(settings.end_tokens))
        queue = new_queue(4, OverloadOptions())
        engine = QueuedEngineClient(
            MaxEngineClient(self.worker, tokenizer, settings), queue
        )
        capabilities = server_capabilities(
            settings, serving, config, tokenizer, describe_model(files, options.model)
        )
        fetcher = ImageFetcher(serving)
        self._folder = tempfile.TemporaryDirectory()
        self._batches = _batch_stores(Path(self._folder.name))
        # Nothing runs batches, which would need the worker between two requests.
        service = BatchService(
            self._batches, engine, queue, capabilities, fetcher, memory
        )
        add_routes(self.app, engine, capabilities, fetcher, batches=service)

    def close(self) -> None:
        """Ends what is still running."""
        self._batches.close()
        self._folder.cleanup()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    @contextlib.contextmanager
    def watched_log(self) -> Iterator[list[str]]:
        """Yields the errors that are logged meanwhile."""
        self._log.lines.clear()
        loggers = [logging.getLogger(name) for name in ("", "mllama", "max", "uvicorn")]
        for logger in loggers:
            logger.addHandler(self._log)
        try:
            yield self._log.lines
        finally:
            for logger in loggers:
                logger.removeHandler(self._log)

    def send(self, exchange: Exchange) -> Answer:
        """Returns the answer to a request.

        Raises:
            TimeoutError: If there is none in time.
        """

        async def send() -> Answer:
            return await asyncio.wait_for(_send(self.app, exchange), 30)

        return self._loop.run_until_complete(send())

    def leftovers(self) -> list[str]:
        """Returns the requests that the worker still has, though nobody waits."""
        return [str(each) for each in self.worker.pending_out_queues]


async def _send(app: FastAPI, exchange: Exchange) -> Answer:
    """Calls the application as an HTTP server does."""
    path, _, query = exchange.path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": exchange.method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in exchange.headers
        ],
        "client": ("127.0.0.1", 1234),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    started: dict[str, Any] = {}
    parts: list[bytes] = []
    left = asyncio.Event()
    if exchange.leaves_after in (-1, 0):
        left.set()
    is_sent = False

    async def receive() -> dict[str, Any]:
        nonlocal is_sent
        if not is_sent:
            is_sent = True
            part = exchange.body[: exchange.sent_bytes]
            is_cut = exchange.leaves_after == -1
            return {"type": "http.request", "body": part, "more_body": is_cut}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if left.is_set() and exchange.leaves_after is not None:
            return
        if message["type"] == "http.response.start":
            started.update(message)
            return
        parts.append(message.get("body", b""))
        if exchange.leaves_after is not None and len(parts) >= exchange.leaves_after:
            left.set()
        if not message.get("more_body"):
            left.set()

    await app(scope, receive, send)
    headers = {
        name.decode("latin-1").lower(): value.decode("latin-1")
        for name, value in started.get("headers", ())
    }
    return Answer(
        started.get("status", 0),
        headers,
        b"".join(parts),
        exchange.leaves_after is None,
    )
