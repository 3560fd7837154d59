"""Requests about files and batches reach those that the running server has."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from tests.server.batches.running import batch_server

from .batch_requests import BATCH_ID, FILE_ID
from .exchange import Exchange
from .running_server import RunningServer


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """Serves files and batches without a model, on a port that is yielded."""
    ended, is_up = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as bound:

        async def serve() -> None:
            async with batch_server(folder) as server:
                config = uvicorn.Config(server.app, log_config=None, lifespan="off")
                running = uvicorn.Server(config)
                task = asyncio.ensure_future(running.serve([bound]))
                while not running.started:
                    await asyncio.sleep(0.01)
                is_up.set()
                while not ended.is_set():
                    await asyncio.sleep(0.01)
                running.should_exit = True
                await task

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        try:
            assert is_up.wait(60)
            yield bound.getsockname()[1]
        finally:
            ended.set()
            thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    log = tmp_path / "log"
    log.touch()
    with served(tmp_path / "batches") as port:
        yield RunningServer(port, os.getpid(), log)


def test_known_names_are_those_of_the_server(server: RunningServer) -> None:
    hosts = (("host", server.host),)
    file = Exchange("GET", f"/v1/files/{FILE_ID}", hosts)
    batch = Exchange("GET", f"/v1/batches/{BATCH_ID}", hosts)
    first = server.send(file).json()["id"]
    assert first != FILE_ID
    assert server.send(batch).json()["input_file_id"] == first
    assert (
        b"custom_id"
        in server.send(Exchange("GET", f"/v1/files/{FILE_ID}/content", hosts)).body
    )
    while server.send(batch).json()["status"] != "completed":
        pass
    assert server.send(Exchange("DELETE", f"/v1/files/{FILE_ID}", hosts)).status == 200
    assert server.send(file).status == 404
    # There are others at the next look.
    assert server.lasting_problems() == []
    assert server.send(file).json()["id"] not in (first, FILE_ID)
    assert server.send(batch).status == 200
