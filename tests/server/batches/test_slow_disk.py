"""A slow disk holds up whoever needs it, and nobody else."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from mllama.batch.output import JsonLines
from mllama.server.batches import record_store, records, stores, upload
from mllama.server.disk_thread import DiskThread

from .running import BatchServer, batch_server, requests
from .test_batches import slow_engine


def run(test: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(test, 120))


class Gate:
    """Holds a function of the disk until it is let go.

    It could never be let go if the event loop were what is held.
    """

    def __init__(self) -> None:
        self.is_reached = threading.Event()
        self._is_open = threading.Event()

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def held(*args: Any, **more: Any) -> Any:
            self.is_reached.set()
            assert self._is_open.wait(60), "it holds the event loop"
            return function(*args, **more)

        return held

    async def reached(self) -> None:
        while not self.is_reached.is_set():
            await asyncio.sleep(0.01)

    def open(self) -> None:
        self._is_open.set()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (upload._TargetFile, "open"),
        (upload._TargetFile, "write"),
        (upload._TargetFile, "close"),
        (record_store, "write_small_file"),
    ],
)
def test_an_upload_to_a_slow_disk_holds_nobody_else(
    owner: Any,
    name: str,
    tmp_path: Path,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        async with batch_server(tmp_path) as server:
            first = await server.upload(b"x")
            monkeypatch.setattr(owner, name, gate.before(getattr(owner, name)))
            sending = asyncio.ensure_future(server.upload(b"y" * 600_000))
            await gate.reached()
            assert [each.id async for each in server.client.files.list()] == [first.id]
            assert (await server.client.files.content(first.id)).content == b"x"
            assert not sending.done()
            gate.open()
            second = await sending
            content = await server.client.files.content(second.id)
            assert content.content == b"y" * 600_000

    run(test())


@pytest.mark.parametrize(
    ("owner", "name"),
    [(JsonLines, "write"), (JsonLines, "close"), (record_store, "write_small_file")],
)
def test_a_batch_on_a_slow_disk_holds_nobody_else(
    owner: Any,
    name: str,
    tmp_path: Path,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test() -> None:
        async with batch_server(tmp_path) as server:
            file = await server.upload(requests(20))
            monkeypatch.setattr(owner, name, gate.before(getattr(owner, name)))
            making = asyncio.ensure_future(
                server.client.batches.create(
                    input_file_id=file.id,
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                )
            )
            await gate.reached()
            assert (await server.client.files.retrieve(file.id)) == file
            gate.open()
            batch = await server.ended(await making)
            assert batch.status == "completed"
            assert len(await server.lines(batch.output_file_id)) == 20

    run(test())


async def abandoned(server: BatchServer, gate: Gate) -> None:
    """A client sends half a file, and leaves while the disk is slow."""
    sent = asyncio.Event()

    async def pieces() -> Any:
        yield b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
        yield b"x" * 600_000
        sent.set()
        await asyncio.sleep(60)

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=server.app), base_url="http://server"
    ) as client:
        headers = {"content-type": "multipart/form-data; boundary=b"}
        sending = asyncio.ensure_future(
            client.post("/v1/files", content=pieces(), headers=headers)
        )
        await gate.reached()
        sending.cancel()
        gate.open()
        with suppress(asyncio.CancelledError):
            await sending


@pytest.mark.parametrize("name", ["open", "write"])
def test_a_client_that_leaves_while_the_disk_is_slow_frees_everything(
    name: str, tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = upload._TargetFile
    monkeypatch.setattr(target, name, gate.before(getattr(target, name)))

    async def test() -> None:
        async with batch_server(tmp_path) as server:
            await abandoned(server, gate)
            while list((tmp_path / "files").iterdir()):
                await asyncio.sleep(0.01)
            assert server.stores.files.used_bytes == 0

    run(test())


def test_a_file_is_deleted_once(tmp_path: Path, gate: Gate) -> None:
    """Those who ask at the same time find it gone, and its room is freed once."""

    async def test() -> None:
        async with batch_server(tmp_path) as server:
            await server.upload(b"others")
            file = await server.upload(requests(1))
            waiting = asyncio.ensure_future(
                server.stores.disk.run(gate.before(lambda: None))
            )
            tasks = [
                asyncio.ensure_future(server.client.files.delete(file.id))
                for _ in range(3)
            ]
            batch = asyncio.ensure_future(
                server.client.batches.create(
                    input_file_id=file.id,
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                )
            )
            await gate.reached()
            await asyncio.sleep(0.1)
            gate.open()
            await waiting
            outcomes = await asyncio.gather(*tasks, batch, return_exceptions=True)
            statuses = [getattr(each, "status_code", 200) for each in outcomes]
            assert sorted(statuses[:3]) == [200, 404, 404]
            assert statuses[3] in (400, 404)
            assert server.stores.files.used_bytes == len(b"others")

    run(test())


def test_the_event_loop_touches_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch from the upload to the deletion, one cancelled, and one that fails."""
    folder, loop_thread = str(tmp_path), threading.get_ident()
    touched: list[tuple[str, str]] = []
    is_watching = False

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if is_watching and event in ("open", "os.remove", "os.rename", "os.truncate"):
            path = str(args[0])
            if path.startswith(folder) and threading.get_ident() == loop_thread:
                touched.append((event, path))

    # It stays as long as the process, and does nothing after this test.
    sys.addaudithook(watch)

    async def test() -> None:
        nonlocal is_watching
        async with batch_server(tmp_path, slow_engine(0.01)) as server:
            is_watching = True
            batch = await server.ended(await server.start(requests(10)))
            assert batch.status == "completed"
            await server.client.files.content(batch.output_file_id)
            await server.client.files.delete(batch.output_file_id)
            started = await server.start(requests(500))
            await server.wait_for_answers(started, 2)
            await server.client.batches.cancel(started.id)
            assert (await server.ended(started)).status == "cancelled"
            assert (await server.ended(await server.start(b"{"))).status == "failed"
            response = await httpx.AsyncClient(
                transport=httpx.ASGITransport(app=server.app)
            ).post("http://server/v1/files", files={"file": b"x"})
            assert response.status_code == 400
            later = records.now() + 40 * 24 * 3600
            monkeypatch.setattr(stores, "now", lambda: later)
            server.service.worker.wake()
            while len(server.stores.files):
                await asyncio.sleep(0.01)
            is_watching = False

    try:
        run(test())
    finally:
        is_watching = False
    assert touched == []


def test_what_is_asked_for_is_done_in_order_and_in_any_case() -> None:
    async def test() -> None:
        disk, done = DiskThread(), list[int]()
        gate = Gate()
        first = asyncio.ensure_future(disk.run(gate.before(lambda: done.append(0))))
        others = [
            asyncio.ensure_future(disk.run(lambda each=each: done.append(each)))
            for each in range(1, 50)
        ]
        await gate.reached()
        others[20].cancel()
        gate.open()
        await asyncio.gather(first, *others, return_exceptions=True)
        assert done == list(range(50))
        assert others[20].cancelled()
        with pytest.raises(OSError, match="full"):
            await disk.run(raise_full)
        disk.close()

    run(test())


def raise_full() -> None:
    raise OSError(28, "full")
