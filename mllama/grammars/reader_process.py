"""Makes and reads grammars in a process of its own, which may take too long, or crash.

llguidance bounds most of its work, but not all: it looks for a text that several
expressions match for as long as it takes, and a chain of thousands of rules is more
than the stack of its thread.  Who sends such a grammar gets an error; nobody else
notices.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from mllama.errors import EngineError, EngineUnavailableError, RequestError
from mllama.grammars.convert import FormatKind, format_grammar
from mllama.utils.child_processes import restore_child_environment
from mllama.utils.stuck_processes import (
    NoThreadError,
    StuckLimits,
    killed_if_stuck,
)

logger = logging.getLogger("mllama")

CPU_SECONDS: Final = 3.0
"""What one grammar may take; 64 KiB of a schema take one or two."""

STUCK: Final = StuckLimits(total=600.0)
"""When the process doesn't go on with a grammar, or with its start."""

_MEMORY_BYTES: Final = 4 << 30
"""Address space of the process: a grammar takes some hundred megabytes at most."""

_STACK_BYTES: Final = 2 << 20
"""The stack on which grammars are read; other threads have four times as much."""


class UnreadableGrammarError(ValueError):
    """A grammar that is wrong, or takes too much to read."""


@dataclass(frozen=True)
class Vocabulary:
    """What grammars can name of a vocabulary.

    Attributes:
        size: Its tokens.
        special: Names of special tokens by their ids.
        end: A token that ends an answer.
    """

    size: int
    special: Mapping[int, str]
    end: int


class GrammarReader:
    """A process that makes and reads one grammar at a time.

    It is started for the first one, and anew after one that ended it.  Its user calls
    it from one thread at a time.

    Args:
        vocabulary: What grammars can name.
        limits: llguidance's limits.
    """

    def __init__(self, vocabulary: Vocabulary, limits: Mapping[str, Any]) -> None:
        self._start = {"vocabulary": asdict(vocabulary), "limits": dict(limits)}
        self._process: subprocess.Popen[str] | None = None

    def read(self, kind: FormatKind, source: str, *, is_strict: bool, path: str) -> str:
        """Returns a format's grammar, which llguidance can read.

        Args:
            kind: See :func:`~mllama.grammars.convert.format_grammar`.
            source: See there.
            is_strict: See there.
            path: See there.

        Raises:
            RequestError: If there is no grammar of it.
            UnreadableGrammarError: If the grammar can't be read.
            EngineUnavailableError: If the system has no room for the process, or it
                doesn't answer in time.
            EngineError: If the process ends as it starts.
        """
        process = self._running()
        task = {"kind": kind, "source": source, "is_strict": is_strict, "path": path}
        reply = self._reply(process, task)
        if reply is None:
            self._process = None
            raise UnreadableGrammarError(_death(process))
        if (message := reply.get("request_error")) is not None:
            raise RequestError(message, reply["param"])
        if (message := reply.get("unreadable")) is not None:
            raise UnreadableGrammarError(message)
        grammar: str = reply["grammar"]
        return grammar

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        # The package may be one that is found by a path of this process only.
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        restore_child_environment()
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import main; main()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        except OSError as error:
            logger.warning("no process that reads grammars can be started: %s", error)
            raise EngineUnavailableError(
                "grammars can't be read at the moment; try again"
            ) from error
        # Before it has started: the end of a server closes it at any time.
        self._process = process
        if self._reply(process, self._start) is None:
            raise EngineError(f"grammars can't be read: {_death(process)}")
        return process

    def _reply(
        self, process: subprocess.Popen[str], message: Any
    ) -> dict[str, Any] | None:
        """Returns a process's reply to a message; None if it has ended.

        Raises:
            EngineUnavailableError: If it doesn't go on, or can't be watched; the
                process is killed.
        """
        try:
            with killed_if_stuck(
                lambda: process.pid, lambda _: process.kill(), STUCK
            ) as was_killed:
                reply = _exchange(process, message)
        except NoThreadError as error:
            self._process = process
            self.close()
            raise EngineUnavailableError(
                "grammars can't be read at the moment; try again"
            ) from error
        if was_killed.is_set():
            self._process = None
            _death(process)
            raise EngineUnavailableError(
                "the process that reads grammars didn't go on and was killed; try again"
            )
        return reply

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            _death(process)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


def _exchange(process: subprocess.Popen[str], message: Any) -> dict[str, Any] | None:
    """Returns a process's reply to a message; None if it has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except OSError:
        return None
    # A process that is killed while it writes leaves the begin of a line.
    reply: dict[str, Any] | None = json.loads(line) if line.endswith("\n") else None
    return reply


def _death(process: subprocess.Popen[str]) -> str:
    """Returns why a process has ended, and frees what is left of it."""
    code = process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    if code == -signal.SIGPROF:
        return f"it takes more than {CPU_SECONDS:g} s to read"
    if code in (-signal.SIGSEGV, -signal.SIGBUS):
        return "its rules refer too deep"
    if code == -signal.SIGABRT:
        return "it takes too much memory, or refers too deep"
    return f"the process that reads it ended with exit code {code}"


class _Bytes:
    """A vocabulary of all bytes and the special tokens of another one."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, size: int, special: Mapping[str, str], end: int) -> None:
        self.eos_token_id = end
        named = {int(token): name.encode() for token, name in special.items()}
        self.special_token_ids = sorted({*named, end})
        self.tokens = [named.get(token, b"") for token in range(size)]
        free = (token for token in range(size) if token not in named and token != end)
        self._ids = dict(zip(range(256), free, strict=False))
        for byte, token in self._ids.items():
            self.tokens[token] = bytes([byte])

    def __call__(self, text: bytes | str) -> list[int]:
        """Returns the tokens of a text."""
        content = text.encode() if isinstance(text, str) else text
        return [self._ids[byte] for byte in content]


def _answers(messages: IO[str], replies: IO[str]) -> None:
    start = json.loads(messages.readline())
    vocabulary = _Bytes(**start["vocabulary"])
    tokenizer = LLTokenizer(
        vocabulary,
        n_vocab=len(vocabulary.tokens),
        eos_token=[vocabulary.eos_token_id],
        slices=LLTokenizer.json_slices(),
    )
    reply: dict[str, Any] = {}
    while True:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
        if not (line := messages.readline()):
            return
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        reply = _reply(tokenizer, json.loads(line), start["limits"])
        signal.setitimer(signal.ITIMER_PROF, 0)


def _reply(tokenizer: Any, task: Any, limits: Any) -> dict[str, Any]:
    try:
        grammar = format_grammar(
            task["kind"],
            task["source"],
            is_strict=task["is_strict"],
            path=task["path"],
        )
    except RequestError as error:
        return {"request_error": str(error), "param": error.param}
    except RecursionError:
        return {"unreadable": "it refers too deep"}
    matcher = LLMatcher(
        tokenizer, grammar, log_level=0, limits=LLParserLimits(**limits)
    )
    if matcher.is_error():
        return {"unreadable": " ".join(matcher.get_error().split())[:500]}
    return {"grammar": grammar}


def main() -> None:
    """Reads grammars until standard input ends; the entry of the process."""
    # Whoever started it decides when it ends, not a terminal's Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=_answers, args=(sys.stdin, sys.stdout))
    thread.start()
    thread.join()
