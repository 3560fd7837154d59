"""Answers on stdout, which is reserved for them.

MAX and its libraries also print to stdout, some from C++.  So the file descriptor
itself is redirected: everything but the answers goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from mllama.requests.events import (
    ToolCallArguments,
    ToolCallEnded,
    ToolCallEvent,
    ToolCallStarted,
)

if TYPE_CHECKING:
    from mllama.engine.outputs import Choice, Chunk, Output
    from mllama.requests.events import TokenLogprob


def reserve_stdout() -> TextIO:
    """Reserves stdout for the caller; all other output goes to stderr from now on.

    Returns:
        A stream that writes to the original stdout.
    """
    try:
        shared = sys.stdout.fileno()
    except (OSError, ValueError):
        # A captured stdout, as in a test, has no descriptor to redirect.
        return sys.stdout
    sys.stdout.flush()
    answers = os.fdopen(
        os.dup(shared), "w", encoding="utf-8", errors="replace", buffering=1
    )
    os.dup2(sys.stderr.fileno(), shared)
    return answers


class Answers:
    """A writer of answers, as text or as lines of JSON.

    Args:
        stream: The stream to write to.
        output_format: ``text`` or ``json``.
        load_seconds: The time to load the model, which the JSON reports.
    """

    def __init__(self, stream: TextIO, output_format: str, load_seconds: float) -> None:
        self._stream = stream
        self._is_json = output_format == "json"
        self._load_seconds = load_seconds
        self._number = 0
        # A call ends its line.
        self._is_after_call = False

    def write_chunk(self, chunk: Chunk) -> None:
        """Writes a piece of a single answer; JSON is written at the end."""
        if not self._is_json:
            calls = "".join(map(_shown, chunk.tool_calls))
            self._stream.write(calls + chunk.text)
            if calls or chunk.text:
                self._is_after_call = calls.endswith("\n") and not chunk.text
            self._stream.flush()

    def end(self, output: Output) -> None:
        """Ends a single answer after its pieces."""
        if not self._is_after_call:
            self._stream.write(f"{self._json(output) if self._is_json else ''}\n")
        self._stream.flush()

    def write_one_of_many(self, output: Output) -> None:
        """Writes one of several outputs, with headings like those of ``head``.

        An output with several answers has a heading for each.
        """
        self._number += 1
        if self._is_json:
            self._stream.write(f"{self._json(output)}\n")
        for index, choice in enumerate(() if self._is_json else output.choices, 1):
            gap = "\n" if (self._number, index) != (1, 1) else ""
            answer = f".{index}" if len(output.choices) > 1 else ""
            heading = f"{gap}==> {self._number}{answer} <==\n"
            calls = [f"{call.name}({call.arguments})\n" for call in choice.tool_calls]
            text = f"{choice.text}\n" if choice.text or not calls else ""
            self._stream.write("".join([heading, *calls, text]))
        self._stream.flush()

    def _json(self, output: Output) -> str:
        report: dict[str, Any] = {
            "text": output.text,
            "token_ids": output.token_ids,
            "finish_reason": output.finish_reason,
            "prompt_tokens": output.prompt_tokens,
            "image_tokens": output.image_tokens,
            "cached_tokens": output.cached_tokens,
            "completion_tokens": output.completion_tokens,
            "load_seconds": self._load_seconds,
            "time_to_first_token_seconds": output.time_to_first_token_seconds,
            "tokens_per_second": output.tokens_per_second,
            "prompt_token_ids": output.prompt_token_ids,
        }
        if output.prompt_logprobs is not None:
            report["prompt_logprobs"] = list(map(_logprob, output.prompt_logprobs))
        report |= _given(output.choices[0])
        if len(output.choices) > 1:
            report["choices"] = [
                {
                    "text": choice.text,
                    "token_ids": choice.token_ids,
                    "finish_reason": choice.finish_reason,
                    **_given(choice),
                }
                for choice in output.choices
            ]
        return json.dumps(report, ensure_ascii=False)


def _given(choice: Choice) -> dict[str, Any]:
    """Returns the calls and the log probabilities of an answer, where it has them."""
    given: dict[str, Any] = {}
    if choice.tool_calls:
        given["tool_calls"] = [call.message() for call in choice.tool_calls]
    if choice.logprobs is not None:
        given["logprobs"] = list(map(_logprob, choice.logprobs))
    return given


def _shown(event: ToolCallEvent) -> str:
    """Returns a part of a call as text: ``name({"argument": 1})``, on its own line."""
    match event:
        case ToolCallStarted():
            return f"{event.name}("
        case ToolCallArguments():
            return event.text
        case ToolCallEnded():
            return ")\n"
    # What has been shown as a call follows as text.
    return "\n"


def _logprob(logprob: TokenLogprob | None) -> dict[str, Any] | None:
    """Returns a token's log probability as plain data."""
    return None if logprob is None else asdict(logprob)
