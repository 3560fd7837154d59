"""A batch answers each line once, in little memory, whatever interrupts it."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mllama.batch.destination import Destination
from mllama.batch.lines import BatchLine, parse_line
from mllama.batch.read_ahead import ReadAhead
from mllama.batch.results import LineAnswer
from mllama.batch.run import (
    AskLine,
    BatchCounts,
    BatchRun,
    TooManyErrors,
    unanswered,
)
from mllama.batch.seen_ids import SeenIds
from mllama.errors import MllamaError

ANSWER = LineAnswer(200, b'{"usage":{"completion_tokens":3}}', "id")


def line(number: int, picture: str | None = None, custom_id: str = "") -> BatchLine:
    content: list[Any] = [] if picture is None else [{"image_url": picture}]
    request = {
        "custom_id": custom_id or f"request-{number}",
        "url": "/v1/chat/completions",
        "body": {"messages": [{"content": content}]},
    }
    return parse_line(json.dumps(request).encode(), number)


async def answer(line: BatchLine) -> LineAnswer:
    return ANSWER


def run(
    lines: Iterable[BatchLine],
    output: Path,
    ask: AskLine = answer,
    meanwhile: Callable[[BatchRun], Any] | None = None,
    seconds: float = 60,
    **options: Any,
) -> BatchCounts:
    seen, counts = SeenIds(), BatchCounts()
    with Destination(str(output)).opened(seen) as writer:
        batch = BatchRun(
            unanswered(lines, seen, counts),
            ask,
            writer,
            counts,
            **{"concurrency": 4, **options},
        )

        async def main() -> None:
            if meanwhile is not None:
                meanwhile(batch)
            await batch.run()

        asyncio.run(asyncio.wait_for(main(), seconds))
    return counts


def ids(output: Path) -> list[str]:
    return [json.loads(text)["custom_id"] for text in output.open()]


def test_each_line_has_its_answer(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    counts = run(map(line, range(1, 101)), output)
    assert sorted(ids(output)) == sorted(f"request-{each}" for each in range(1, 101))
    assert (counts.read, counts.answered, counts.tokens) == (100, 100, 300)


def test_what_the_output_has_is_not_asked_again(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    run(map(line, range(1, 51)), output)
    asked = []

    async def ask(line: BatchLine) -> LineAnswer:
        asked.append(line.number)
        return ANSWER

    # The order of the input may have changed.
    counts = run(map(line, range(100, 0, -1)), output, ask)
    assert sorted(asked) == list(range(51, 101))
    assert counts.skipped == 50
    assert len(set(ids(output))) == len(ids(output)) == 100


def test_a_torn_last_line_is_repaired(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    run(map(line, range(1, 11)), output)
    content = output.read_bytes()
    output.write_bytes(content[:-20])
    run(map(line, range(1, 11)), output)
    assert sorted(ids(output)) == sorted(f"request-{each}" for each in range(1, 11))


def test_an_output_of_something_else_is_left_alone(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text('{"mine": true}\n')
    with pytest.raises(MllamaError, match=r"line 1 of .* is not an answer of a batch"):
        run([line(1)], output)
    assert output.read_text() == '{"mine": true}\n'


def test_a_wrong_line_has_its_error_and_the_others_go_on(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    lines = [line(1), parse_line(b"{", 2), line(3), line(4, custom_id="request-1")]
    counts = run(lines, output)
    assert (counts.answered, counts.failed) == (2, 2)
    errors = [json.loads(text)["error"] for text in output.open()]
    codes = {error["line"]: error["code"] for error in errors if error}
    assert codes == {2: "invalid_json_line", 4: "duplicate_custom_id"}
    # Nor are they asked again.
    again = run(lines, output)
    assert (again.skipped, again.done) == (4, 0)


def test_a_batch_ends_after_too_many_errors(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"

    async def refuse(line: BatchLine) -> LineAnswer:
        return LineAnswer(400, b'{"error":{"message":"no"}}', "id")

    with pytest.raises(TooManyErrors, match="no"):
        run(map(line, range(1, 1001)), output, refuse, max_errors=10)
    # Those that ran meanwhile have their errors, too.
    assert 11 <= len(ids(output)) <= 14


def test_what_asking_raises_ends_the_batch(tmp_path: Path) -> None:
    async def fail(line: BatchLine) -> LineAnswer:
        raise RuntimeError("the engine has failed")

    with pytest.raises(RuntimeError, match="engine"):
        run(map(line, range(1, 1001)), tmp_path / "out.jsonl", fail)


def test_an_input_that_breaks_ends_the_batch_after_its_lines(tmp_path: Path) -> None:
    def lines() -> Iterator[BatchLine]:
        yield from map(line, range(1, 11))
        raise MllamaError("the input is damaged")

    output = tmp_path / "out.jsonl"
    with pytest.raises(MllamaError, match="damaged"):
        run(lines(), output)
    assert len(ids(output)) == 10


def test_stopping_answers_what_runs_and_loses_nothing(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    batch: list[BatchRun] = []

    async def ask(line: BatchLine) -> LineAnswer:
        await asyncio.sleep(0.001)
        if line.number == 20:
            batch[0].stop()
        await asyncio.sleep(0.001)
        return ANSWER

    run(map(line, range(1, 10_001)), output, ask, batch.append)
    done = len(ids(output))
    assert 20 <= done <= 24
    run(map(line, range(1, 101)), output)
    assert sorted(ids(output)) == sorted(f"request-{each}" for each in range(1, 101))


def test_cancelling_ends_at_once(tmp_path: Path) -> None:
    batch: list[BatchRun] = []

    async def ask(line: BatchLine) -> LineAnswer:
        if line.number == 4:
            batch[0].cancel()
        await asyncio.sleep(60)
        return ANSWER

    output = tmp_path / "out.jsonl"
    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        run(map(line, range(1, 101)), output, ask, batch.append)
    assert time.monotonic() - started < 10
    assert ids(output) == []


def test_lines_about_one_picture_are_asked_one_after_another(tmp_path: Path) -> None:
    asked: list[str] = []
    pictures, is_read = 50, False

    def lines() -> Iterator[BatchLine]:
        nonlocal is_read
        for number in range(1, 501):
            yield line(number, f"http://p/{number % pictures}")
        is_read = True

    async def ask(line: BatchLine) -> LineAnswer:
        # Otherwise the first ones come before there is anything to be grouped.
        while not is_read:
            await asyncio.sleep(0.01)
        asked.append(json.loads(line.body)["messages"][0]["content"][0]["image_url"])
        return ANSWER

    run(lines(), tmp_path / "out.jsonl", ask)
    changes = sum(a != b for a, b in itertools.pairwise(asked))
    assert len(asked) == 500
    # In the order of the input there would be 499.
    assert changes < 2 * pictures


def test_no_more_is_read_ahead_than_allowed(tmp_path: Path) -> None:
    read = 0
    most = 0

    def lines() -> Iterator[BatchLine]:
        nonlocal read
        for number in range(1, 2001):
            read += 1
            yield line(number)

    async def ask(line: BatchLine) -> LineAnswer:
        nonlocal most
        await asyncio.sleep(0)
        most = max(most, read - counts[0])
        counts[0] += 1
        return ANSWER

    counts = [0]
    run(lines(), tmp_path / "out.jsonl", ask, max_lines=100)
    assert read == 2000
    # One is in the reader's hands, and four are being asked.
    assert most <= 106


def test_bytes_are_limited_but_one_line_always_passes(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    run(map(line, range(1, 101)), output, max_bytes=1)
    assert len(ids(output)) == 100


def test_lines_are_freed_once_they_are_answered(tmp_path: Path) -> None:
    alive = most = 0

    def lines() -> Iterator[BatchLine]:
        nonlocal alive
        for number in range(1, 10_001):
            made = line(number)
            alive += 1
            weakref.finalize(made, forget)
            yield made

    def forget() -> None:
        nonlocal alive
        alive -= 1

    async def ask(line: BatchLine) -> LineAnswer:
        nonlocal most
        most = max(most, alive)
        return ANSWER

    counts = run(lines(), tmp_path / "out.jsonl", ask, max_lines=200)
    assert counts.answered == 10_000
    assert most < 220


@pytest.mark.long
def test_a_million_lines_take_no_more_memory(tmp_path: Path) -> None:
    import psutil

    process = psutil.Process()
    run(map(line, range(1, 20_001)), tmp_path / "few.jsonl")
    before, most = process.memory_info().rss, 0

    async def ask(line: BatchLine) -> LineAnswer:
        nonlocal most
        if line.number % 50_000 == 0:
            most = max(most, process.memory_info().rss)
        return ANSWER

    output = tmp_path / "out.jsonl"
    half = run(map(line, range(1, 500_001)), output, ask, seconds=900)
    whole = run(map(line, range(1, 1_000_001)), output, ask, seconds=900)
    assert (half.answered, whole.answered, whole.skipped) == (500_000,) * 3
    assert most - before < 32 * 2**20


def test_a_reader_that_outlives_the_loop_ends_quietly() -> None:
    loop = asyncio.new_event_loop()
    window = ReadAhead(loop)
    assert window.put(line(1))

    async def wait() -> None:
        await window.take()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(window.take(), 0.01)

    loop.run_until_complete(wait())
    loop.close()
    # Somebody still seems to wait.
    assert window.put(line(2))
    window.end()
    assert not window.put(line(3))
