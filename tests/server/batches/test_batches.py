"""OpenAI's SDK makes batches, sees how far they are, and gets their answers."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import openai
import pytest

from mllama.batch.output import JsonLines, unwritable
from mllama.errors import EngineError, EngineUnavailableError, MllamaError
from mllama.server.batches import job, record_store
from mllama.server.batches.records import BatchRecord, now
from tests.server.batches.running import CHAT, batch_server, requests
from tests.server.dialects.fake_engine import FakeEngine


def run(test: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(test, 120))


def slow_engine(seconds: float = 0.01) -> FakeEngine:
    engine = FakeEngine()
    engine.wait = lambda: asyncio.sleep(seconds)
    return engine


def test_a_batch_is_answered(tmp_path: Path) -> None:
    async def test() -> None:
        async with batch_server(tmp_path) as server:
            bad = json.dumps(
                {
                    "custom_id": "bad",
                    "method": "POST",
                    "url": CHAT,
                    "body": {"messages": []},
                }
            ).encode()
            started = await server.start(requests(30) + bad, metadata={"for": "tests"})
            assert started.status == "validating"
            assert started.metadata == {"for": "tests"}
            batch = await server.ended(started)
            assert batch.status == "completed"
            assert batch.request_counts.model_dump() == {
                "total": 31,
                "completed": 30,
                "failed": 1,
            }
            assert batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
            answers = await server.lines(batch.output_file_id)
            assert {line["custom_id"] for line in answers} == {
                f"request-{each}" for each in range(1, 31)
            }
            for line in answers:
                assert line["error"] is None
                assert line["response"]["status_code"] == 200
                choice = line["response"]["body"]["choices"][0]
                assert choice["message"]["content"] == "Hello!"
            (error,) = await server.lines(batch.error_file_id)
            assert error["custom_id"] == "bad"
            assert error["response"]["status_code"] == 400
            assert error["response"]["body"]["error"]["param"] == "messages"
            files = await server.client.files.list(purpose="batch_output")
            assert {file.id for file in files.data} == {
                batch.output_file_id,
                batch.error_file_id,
            }

    run(test())


@pytest.mark.parametrize(
    ("content", "codes"),
    [
        (b"", ["empty_file"]),
        (b"nonsense", ["invalid_json_line"]),
        (requests(1) * 2, ["duplicate_custom_id"]),
        (requests(1, "/v1/completions"), ["mismatched_endpoint"]),
        (requests(1, stream=True), ["unsupported_parameter"]),
        (requests(11), ["too_many_tasks"]),
        (b"[]\n" * 3, ["invalid_json_line"] * 3),
    ],
)
def test_a_wrong_input_fails_the_batch(
    tmp_path: Path, content: bytes, codes: list[str]
) -> None:
    async def test() -> None:
        async with batch_server(tmp_path, max_lines=10) as server:
            batch = await server.ended(await server.start(content))
            assert batch.status == "failed"
            assert [each.code for each in batch.errors.data] == codes
            assert batch.output_file_id is None

    run(test())


def test_a_cancelled_batch_keeps_its_answers(tmp_path: Path) -> None:
    async def test() -> None:
        async with batch_server(tmp_path, slow_engine()) as server:
            started = await server.start(requests(200))
            await server.wait_for_answers(started, 5)
            cancelling = await server.client.batches.cancel(started.id)
            assert cancelling.status == "cancelling"
            batch = await server.ended(started)
            assert batch.status == "cancelled"
            done = batch.request_counts.completed
            assert 5 <= done < 200
            assert len(await server.lines(batch.output_file_id)) == done
            with pytest.raises(openai.ConflictError):
                await server.client.batches.cancel(started.id)

    run(test())


def test_a_batch_that_takes_too_long_expires(tmp_path: Path) -> None:
    """One server answers some lines, and the time is over while the next one runs."""

    async def first() -> Any:
        async with batch_server(tmp_path, slow_engine()) as server:
            started = await server.start(requests(200))
            await server.wait_for_answers(started, 5)
            return started

    async def second(started: Any) -> None:
        # No answer of it is in time, however busy the machine is.
        async with batch_server(tmp_path, slow_engine(60)) as server:
            batch = await server.ended(started)
            assert batch.status == "expired"
            counts = batch.request_counts
            assert counts.completed + counts.failed == 200
            answers = await server.lines(batch.output_file_id)
            errors = await server.lines(batch.error_file_id)
            assert 5 <= len(answers) == counts.completed < 200
            assert {line["error"]["code"] for line in errors} == {"batch_expired"}
            ids = {line["custom_id"] for line in answers + errors}
            assert len(ids) == len(answers) + len(errors) == 200

    started = run(first())
    path = tmp_path / "batches" / f"{started.id}.json"
    record = BatchRecord.model_validate_json(path.read_bytes())
    record.expires_at = now() + 2
    path.write_text(record.model_dump_json())
    run(second(started))


def test_a_batch_goes_on_after_a_restart(tmp_path: Path) -> None:
    async def first() -> Any:
        async with batch_server(tmp_path, slow_engine()) as server:
            started = await server.start(requests(60))
            await server.wait_for_answers(started, 10)
            return started

    async def second(started: Any) -> None:
        engine = FakeEngine()
        async with batch_server(tmp_path, engine) as server:
            batch = await server.ended(started)
            assert batch.status == "completed"
            answers = await server.lines(batch.output_file_id)
            ids = [line["custom_id"] for line in answers]
            assert sorted(ids) == sorted(f"request-{each}" for each in range(1, 61))
            # What the first one has answered isn't asked again.
            assert len(engine.requests) <= 50

    started = run(first())
    for path in tmp_path.glob("batches/*.answers.jsonl"):
        # As if it had been killed.
        with path.open("ab") as file:
            file.write(b'{"id":"torn')
    run(second(started))


@pytest.mark.parametrize("has_record", [True, False])
def test_a_batch_ends_after_a_crash_amid_its_end(
    tmp_path: Path, has_record: bool
) -> None:
    async def first() -> Any:
        async with batch_server(tmp_path) as server:
            batch = await server.ended(await server.start(requests(3)))
            record = server.stores.batches.find(batch.id)
            file = server.stores.files.find(batch.output_file_id)
            assert record is not None
            assert file is not None
            # As it is before the answers are a file, or between the two steps of that.
            record.status = "finalizing"
            server.stores.batches.save(record)
            content = server.stores.files.content_path(file.id)
            results = server.stores.results_path(record, of_errors=False)
            content.rename(results)
            if not has_record:
                (tmp_path / "files" / f"{file.id}.json").unlink()
            return batch

    async def second(batch: Any) -> None:
        async with batch_server(tmp_path) as server:
            ended = await server.ended(batch)
            assert ended.status == "completed"
            assert len(await server.lines(ended.output_file_id)) == 3
            used = server.stores.files.used_bytes
            assert used == sum(file.bytes for file in server.stores.files)

    run(second(run(first())))


def test_keys_see_only_their_own(tmp_path: Path) -> None:
    async def test() -> None:
        async with batch_server(tmp_path, keys=("a", "b")) as server:
            batch = await server.ended(await server.start(requests(3)))
            other = server.client_of("b")
            for attempt in (
                other.files.retrieve(batch.input_file_id),
                other.files.content(batch.output_file_id),
                other.files.delete(batch.output_file_id),
                other.batches.retrieve(batch.id),
                other.batches.cancel(batch.id),
            ):
                with pytest.raises(openai.NotFoundError, match="No such"):
                    await attempt
            with pytest.raises(openai.BadRequestError, match="No such file"):
                await other.batches.create(
                    input_file_id=batch.input_file_id,
                    endpoint=CHAT,
                    completion_window="24h",
                )
            assert (await other.files.list()).data == []
            assert (await other.batches.list()).data == []
            with pytest.raises(openai.AuthenticationError):
                await server.client_of("c").files.list()
            # A key isn't kept, nor what it can be found out from by looking it up.
            digest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
            for path in tmp_path.rglob("*.json"):
                assert digest not in path.read_text()

    run(test())


def test_lists_have_pages(tmp_path: Path) -> None:
    async def test() -> None:
        async with batch_server(tmp_path) as server:
            batches = [await server.start(requests(1)) for _ in range(5)]
            ids = [batch.id for batch in batches][::-1]
            page = await server.client.batches.list(limit=2)
            assert ([each.id for each in page.data], page.has_more) == (ids[:2], True)
            found = [each.id async for each in server.client.batches.list(limit=2)]
            assert found == ids
            files = [each.id async for each in server.client.files.list(limit=2)]
            assert len(files) == len(set(files)) >= 5
            oldest = await server.client.files.list(order="asc", limit=1)
            assert oldest.data[0].id == batches[0].input_file_id
            for query in ({"limit": 0}, {"limit": 101}, {"after": "nothing"}):
                with pytest.raises(openai.BadRequestError):
                    await server.client.batches.list(**query)

    run(test())


def test_clients_come_before_batches(tmp_path: Path) -> None:
    async def test() -> None:
        engine = slow_engine(0.05)
        async with batch_server(tmp_path, engine, slots=2) as server:
            started = await server.start(requests(50, max_tokens=200))
            while engine.running < 2:
                await asyncio.sleep(0.01)
            # Each answer of the batch takes a third of a second.
            engine.wait = lambda: asyncio.sleep(0)
            for _ in range(10):
                await asyncio.wait_for(
                    server.client.chat.completions.create(
                        model="served", messages=[{"role": "user", "content": "Me!"}]
                    ),
                    5,
                )
            batch = await server.ended(started)
            assert batch.request_counts.completed == 50

    run(test())


def test_slots_are_taken_back_from_batches(tmp_path: Path) -> None:
    async def test() -> None:
        engine = FakeEngine()
        is_over = asyncio.Event()
        engine.wait = is_over.wait
        async with batch_server(tmp_path, engine, slots=2) as server:
            started = await server.start(requests(5))
            while engine.running < 2:
                await asyncio.sleep(0.01)
            # Those of the batch go on waiting, for ever.
            engine.wait = None
            answer = await server.client.chat.completions.create(
                model="served", messages=[{"role": "user", "content": "Me!"}]
            )
            assert answer.choices[0].message.content == "Hello!"
            is_over.set()
            batch = await server.ended(started)
            assert batch.request_counts.completed == 5

    run(test())


def test_batches_wait_for_an_engine_that_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_LONGEST_PAUSE", 0.01)
    engine = FakeEngine()
    engine.error = EngineUnavailableError("the model starts again", 1)

    async def test() -> None:
        async with batch_server(tmp_path, engine) as server:
            started = await server.start(requests(3))
            while len(engine.requests) < 3:
                await asyncio.sleep(0.01)
            engine.error = None
            batch = await server.ended(started)
            assert batch.request_counts.completed == 3

    run(test())


def test_a_line_on_which_the_engine_fails_has_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(job, "_FIRST_PAUSE", 0.01)
    engine = FakeEngine()
    engine.error = EngineError("the model failed on this request")

    async def test() -> None:
        async with batch_server(tmp_path, engine) as server:
            batch = await server.ended(await server.start(requests(1)))
            assert batch.status == "completed"
            (error,) = await server.lines(batch.error_file_id)
            assert error["response"]["status_code"] == 500
            assert len(engine.requests) == 3

    run(test())


class Disk:
    """A disk that fails when it is told to.

    Attributes:
        error: Number of the error; None works.
        folder: Name of the only folder that fails, if there is one.
        failures: Writes that have failed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: int | None = None
        self.folder: str | None = None
        self.failures = 0
        write, write_line = record_store.write_small_file, JsonLines.write

        def write_file(target: Path, content: bytes) -> None:
            self._check(target)
            write(target, content)

        def write_answer(lines: JsonLines, result: bytes, *, is_error: bool) -> None:
            try:
                self._check(lines.path)
            except OSError as error:
                raise unwritable(lines.path, error) from error
            write_line(lines, result, is_error=is_error)

        monkeypatch.setattr(record_store, "write_small_file", write_file)
        monkeypatch.setattr(JsonLines, "write", write_answer)

    def _check(self, path: Path) -> None:
        if self.error is not None and self.folder in (None, path.parent.name):
            self.failures += 1
            raise OSError(self.error, os.strerror(self.error))


def test_a_batch_keeps_its_answers_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_FULL_PAUSE", 0.01)
    disk = Disk(monkeypatch)

    async def test() -> None:
        async with batch_server(tmp_path, slow_engine()) as server:
            started = await server.start(requests(200))
            await server.wait_for_answers(started, 5)
            disk.error = errno.ENOSPC
            while disk.failures < 10:
                await asyncio.sleep(0.01)
            batch = await server.client.batches.retrieve(started.id)
            assert (batch.status, batch.output_file_id) == ("finalizing", None)
            disk.error = None
            batch = await server.ended(started)
            assert batch.status == "failed"
            assert [each.code for each in batch.errors.data] == [
                "storage_limit_exceeded"
            ]
            done = batch.request_counts.completed
            assert 5 <= done < 200
            assert len(await server.lines(batch.output_file_id)) == done
            used = server.stores.files.used_bytes
            assert used == sum(file.bytes for file in server.stores.files)

    run(test())


def test_a_batch_names_no_file_that_a_broken_disk_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)

    async def test() -> None:
        async with batch_server(tmp_path) as server:
            file = await server.upload(requests(3))
            disk.error, disk.folder = errno.EIO, "files"
            started = await server.client.batches.create(
                input_file_id=file.id, endpoint=CHAT, completion_window="24h"
            )
            batch = await server.ended(started)
            assert batch.status == "failed"
            assert [each.code for each in batch.errors.data] == ["server_error"]
            assert batch.output_file_id is None
            record = tmp_path / f"batches/{batch.id}.json"
            async with asyncio.timeout(60):  # It is written in a thread.
                while json.loads(record.read_text())["status"] != "failed":
                    await asyncio.sleep(0.01)
            assert json.loads(record.read_text())["output_file_id"] is None

    run(test())


def test_the_oldest_batch_that_has_ended_is_forgotten(tmp_path: Path) -> None:
    async def test() -> None:
        async with batch_server(tmp_path, keys=("a", "b"), max_files=3) as server:

            async def batch_of(client: Any) -> Any:
                file = await client.files.create(
                    file=("in.jsonl", requests(1)), purpose="batch"
                )
                batch = await client.batches.create(
                    input_file_id=file.id, endpoint=CHAT, completion_window="24h"
                )
                while not (await client.batches.retrieve(batch.id)).output_file_id:
                    await asyncio.sleep(0.01)
                for each in (await client.files.list()).data:
                    await client.files.delete(each.id)
                return batch

            first = await batch_of(server.client_of("b"))
            mine = [await batch_of(server.client) for _ in range(4)]
            # One of the client that has most, though another one's is older.
            await server.client_of("b").batches.retrieve(first.id)
            kept = (await server.client.batches.list()).data
            assert [each.id for each in kept] == [mine[3].id, mine[2].id]

    run(test())


def test_a_folder_is_of_one_server(tmp_path: Path) -> None:
    async def test() -> None:
        async with batch_server(tmp_path):
            with pytest.raises(MllamaError, match="used by another server"):
                async with batch_server(tmp_path):
                    pass

    run(test())
