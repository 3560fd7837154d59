"""A grammar that crashes its reader, or takes too long, is its request's error."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from functools import partial
from typing import Any

import pytest

from mllama.errors import EngineUnavailableError, RequestError
from mllama.grammars import reader_process
from mllama.grammars.convert import FormatKind
from mllama.grammars.reader_process import (
    CPU_SECONDS,
    GrammarReader,
    UnreadableGrammarError,
)
from mllama.requests.format_grammars import FormatGrammars
from mllama.requests.output_format import OutputFormat
from mllama.requests.token_grammars import LIMITS
from mllama.utils.stuck_processes import StuckLimits
from tests.utils.threads import no_threads

from .walking import demo_grammars

CHAIN = "\n".join(
    ["start: r0", *(f'r{n}: r{n + 1} | "a{n}"' for n in range(2900)), 'r2900: "x"']
)
"""As many rules as fit in 64 KiB, each of which needs the next one."""

GBNF_CHAIN = "\n".join(
    ["root ::= r0", *(f'r{n} ::= "a" r{n + 1}' for n in range(3000)), 'r3000 ::= "x"']
)
SCHEMA_CHAIN: Any = {
    "$ref": "#/$defs/d0",
    "$defs": {
        **{f"d{n}": {"items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(1100)},
        "d1100": {},
    },
}
NO_MULTIPLE: Any = {
    "allOf": [
        {"type": "integer", "multipleOf": 9973},
        {"type": "integer", "multipleOf": 9967},
    ]
}


@pytest.fixture(scope="module")
def reader() -> GrammarReader:
    return GrammarReader(demo_grammars().vocabulary, LIMITS)


def read(reader: GrammarReader, kind: FormatKind, source: str) -> str:
    return reader.read(kind, source, is_strict=True, path="format")


def running(reader: GrammarReader) -> subprocess.Popen[str]:
    """Returns the process of a reader, once it has read a grammar."""
    read(reader, "regex", "a+")
    process = reader._process
    assert process is not None
    return process


@pytest.mark.parametrize(
    "source",
    [CHAIN, GBNF_CHAIN, f"start: %json {json.dumps(SCHEMA_CHAIN)}"],
    ids=["lark", "gbnf", "json in lark"],
)
def test_a_grammar_that_overflows_the_stack_is_refused(
    reader: GrammarReader, source: str
) -> None:
    assert len(source) <= 1 << 16
    with pytest.raises(UnreadableGrammarError, match="rules refer too deep"):
        read(reader, "grammar", source)
    assert read(reader, "regex", "a+")


def test_a_grammar_that_takes_too_long_is_given_up(reader: GrammarReader) -> None:
    with pytest.raises(UnreadableGrammarError, match=f"more than {CPU_SECONDS:g} s"):
        read(reader, "grammar", f"start: %json {json.dumps(NO_MULTIPLE)}")
    assert read(reader, "regex", "a+")


def test_a_request_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = FormatGrammars(demo_grammars)
    with pytest.raises(RequestError, match="guided_grammar is no grammar") as raised:
        grammars._made(OutputFormat.grammar(CHAIN, path="guided_grammar"))
    assert raised.value.param == "guided_grammar"


def test_errors_name_the_field(reader: GrammarReader) -> None:
    with pytest.raises(RequestError, match="must be at most") as raised:
        read(reader, "json_schema", '{"type": "string", "maxLength": 1000000}')
    assert raised.value.param == "format.maxLength"


def test_special_tokens_are_known_by_name_and_number(reader: GrammarReader) -> None:
    (token, name), *_ = sorted(demo_grammars().vocabulary.special.items())
    for special in (name, f"<[{token}]>", "<[*]>"):
        assert special in read(reader, "grammar", f'start: "a" | {special}')
    with pytest.raises(UnreadableGrammarError):
        read(reader, "grammar", "start: <|nothing|>")


def test_a_process_that_was_killed_is_started_anew(reader: GrammarReader) -> None:
    process = running(reader)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read(reader, "regex", "b+")


@pytest.mark.parametrize("padding", [0, 1 << 18], ids=["waits", "writes"])
def test_a_process_that_is_stopped_is_replaced(
    reader: GrammarReader, monkeypatch: pytest.MonkeyPatch, padding: int
) -> None:
    process = running(reader)
    process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(reader_process, "STUCK", StuckLimits(stopped=0.3, look=0.05))
    with pytest.raises(EngineUnavailableError, match="go on and was killed"):
        # A pipe takes 64 KiB that nobody reads.
        read(reader, "regex", "a" * padding + "b+")
    assert process.returncode == -signal.SIGKILL
    monkeypatch.undo()
    assert read(reader, "regex", "b+")


def test_a_system_without_room_for_a_process_may_have_some_later(
    reader: GrammarReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*args: Any, **more: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    reader.close()
    monkeypatch.setattr(subprocess, "Popen", no_room)
    with pytest.raises(EngineUnavailableError, match="try again"):
        read(reader, "regex", "a+")
    monkeypatch.undo()
    assert read(reader, "regex", "a+")


def test_a_system_without_a_thread_for_the_watch_may_have_one_later(
    reader: GrammarReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = running(reader)
    with no_threads(monkeypatch), pytest.raises(EngineUnavailableError):
        read(reader, "regex", "ab+")
    assert process.returncode == -signal.SIGKILL
    assert read(reader, "regex", "ab+")


def test_a_process_that_is_killed_amid_its_reply_has_none(
    reader: GrammarReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = running(reader)
    assert process.stdout is not None

    def killed() -> str:
        process.kill()
        return '{"grammar": "st'

    monkeypatch.setattr(process.stdout, "readline", killed)
    with pytest.raises(UnreadableGrammarError):
        read(reader, "regex", "ab+")


def test_the_process_ends_with_its_reader() -> None:
    reader = GrammarReader(demo_grammars().vocabulary, LIMITS)
    process = running(reader)
    assert process.stdin is not None
    process.stdin.close()
    end = time.monotonic() + 20
    while process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert process.returncode == 0


def test_the_end_of_a_server_gives_up_grammars() -> None:
    grammars = FormatGrammars(demo_grammars)
    grammars._made(OutputFormat.grammar('start: "a"', path="grammar"))
    process = grammars._reader._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    begun, later = (
        grammars._thread.submit(
            partial(
                grammars._made, OutputFormat.grammar(f'start: "{text}"', path="grammar")
            )
        )
        for text in ("b", "c")
    )
    # It watches the process that the grammar was sent to.
    while not any(each.name == "mllama-stuck" for each in threading.enumerate()):
        time.sleep(0.01)
    grammars.close()
    with pytest.raises((RequestError, ValueError)):
        begun.result(60)
    assert later.cancelled()
    assert process.returncode == -signal.SIGKILL
    (thread,) = grammars._thread._threads._threads
    thread.join(60)
    assert not thread.is_alive()
