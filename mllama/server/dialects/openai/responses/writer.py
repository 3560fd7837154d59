"""Events of the engine to a response, and to the events of its stream."""

from __future__ import annotations

import secrets
import time
from typing import Any, Final, Literal

from mllama.requests.events import (
    Event,
    Finished,
    Piece,
    TokenLogprob,
    ToolCallArguments,
    ToolCallEnded,
    ToolCallStarted,
    ToolCallWithdrawn,
)
from mllama.server.dialects.log_probability_budget import LogProbabilityBudget
from mllama.server.dialects.openai.responses.response_form import (
    ResponseForm,
    usage_object,
)
from mllama.server.errors import ErrorReport
from mllama.server.token_text import chat_entry
from mllama.server.usage import UsageCounter

StreamEvent = dict[str, Any]
"""An event of a stream, with its ``type`` and ``sequence_number``."""

Status = Literal["in_progress", "completed", "incomplete", "failed"]

_ERROR_CODES: Final = {429: "rate_limit_exceeded", 400: "invalid_prompt"}
"""What a failed response says, by the status of the error; others are the server's."""


class ResponseWriter:
    """Makes a response of the engine's events, and says what each of them adds.

    Args:
        form: What the response contains beside its items.
        usage: Counts the tokens.
    """

    def __init__(self, form: ResponseForm, usage: UsageCounter) -> None:
        self._form = form
        self._usage = usage
        self._fields = form.fields()
        self._output: list[dict[str, Any]] = []
        self._number = 0
        # The place of the item that grows in the stream, which counts withdrawn calls.
        self._place = -1
        self._item: dict[str, Any] | None = None
        self._text: list[str] = []
        # Those of tokens whose text, if they have any, hasn't come yet.
        self._logprobs: list[TokenLogprob] = []
        # A stream repeats them all at its end.
        self._budget = LogProbabilityBudget("include")
        self._status: Status = "in_progress"
        self._completed_at: int | None = None
        self._error: dict[str, str] | None = None

    def begin(self) -> list[StreamEvent]:
        """Returns the events that come before those of the engine."""
        return [
            self._event("response.created", response=self.response()),
            self._event("response.in_progress", response=self.response()),
        ]

    def add(self, event: Event) -> list[StreamEvent]:
        """Adds an event of the engine; returns what it adds to the stream."""
        self._usage.add(event)
        if isinstance(event, Piece):
            self._budget.spend(event.logprobs)
            self._logprobs += event.logprobs
            return self._add_text(event.text) if event.text else []
        if isinstance(event, ToolCallStarted):
            return self._close() + self._open(_new_call(event))
        if isinstance(event, ToolCallArguments):
            self._text.append(event.text)
            delta = "response.function_call_arguments.delta"
            return [self._item_event(delta, delta=event.text)]
        if isinstance(event, ToolCallEnded):
            # A call has no log probabilities.
            self._logprobs.clear()
            return self._close()
        if isinstance(event, ToolCallWithdrawn):
            closed = self._close("incomplete")
            self._output.pop()
            return closed
        if isinstance(event, Finished):
            return self._finish(event)
        return []

    def _add_text(self, text: str) -> list[StreamEvent]:
        events = [] if self._item is not None else self._open_message()
        assert self._item is not None
        logprobs = self._take_logprobs()
        self._text.append(text)
        delta = "response.output_text.delta"
        return [
            *events,
            self._item_event(delta, content_index=0, delta=text, logprobs=logprobs),
        ]

    def _take_logprobs(self) -> list[dict[str, Any]]:
        """Adds the log probabilities so far to the message, and returns them."""
        assert self._item is not None
        entries = [chat_entry(each, self._form.token_bytes) for each in self._logprobs]
        self._logprobs.clear()
        self._item["content"][0]["logprobs"] += entries
        return entries

    def _open_message(self) -> list[StreamEvent]:
        item: dict[str, Any] = {
            "id": f"msg_{secrets.token_hex(16)}",
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        events = self._open(item)
        added = "response.content_part.added"
        events.append(self._item_event(added, content_index=0, part=_new_part()))
        item["content"] = [_new_part()]
        return events

    def _open(self, item: dict[str, Any]) -> list[StreamEvent]:
        self._place += 1
        self._item = item
        self._text = []
        self._output.append(item)
        return [self._place_event("response.output_item.added", item=dict(item))]

    def _close(
        self, status: Literal["completed", "incomplete"] = "completed"
    ) -> list[StreamEvent]:
        """Returns the events of the end of the item that grows, if there is one."""
        item = self._item
        if item is None:
            return []
        self._settle(item, status)
        events = []
        if item["type"] == "message":
            (part,) = item["content"]
            done = "response.output_text.done"
            said = {"text": part["text"], "logprobs": part["logprobs"]}
            events.append(self._item_event(done, content_index=0, **said))
            done = "response.content_part.done"
            events.append(self._item_event(done, content_index=0, part=part))
        elif status == "completed":
            done = "response.function_call_arguments.done"
            called = {"name": item["name"], "arguments": item["arguments"]}
            events.append(self._item_event(done, **called))
        events.append(self._place_event("response.output_item.done", item=item))
        self._item = None
        return events

    def _settle(
        self, item: dict[str, Any], status: Literal["completed", "incomplete"]
    ) -> None:
        """Gives the item that grows what it has so far."""
        item["status"] = status
        if item["type"] == "message":
            item["content"][0]["text"] = "".join(self._text)
        else:
            item["arguments"] = "".join(self._text)

    def _finish(self, event: Finished) -> list[StreamEvent]:
        events = [] if self._output else self._open_message()
        if self._item is not None and self._item["type"] == "message":
            # The model's end token has one too.
            self._take_logprobs()
        is_cut = event.reason == "length"
        events += self._close("incomplete" if is_cut else "completed")
        self._status = "incomplete" if is_cut else "completed"
        if not is_cut:
            self._completed_at = int(time.time())
        response = self.response()
        return [*events, self._event(f"response.{self._status}", response=response)]

    def fail(self, report: ErrorReport) -> StreamEvent:
        """Returns the last event of a stream that an error ends."""
        if self._item is not None:
            self._settle(self._item, "incomplete")
        code = _ERROR_CODES.get(report.status, "server_error")
        self._error = {"code": code, "message": report.message}
        self._status = "failed"
        return self._event("response.failed", response=self.response())

    def response(self) -> dict[str, Any]:
        """Returns the response as far as it is known."""
        is_over = self._status != "in_progress"
        cut = {"reason": "max_output_tokens"} if self._status == "incomplete" else None
        return {
            **self._fields,
            "status": self._status,
            "completed_at": self._completed_at,
            "error": self._error,
            "incomplete_details": cut,
            "output": list(self._output),
            "usage": usage_object(self._usage) if is_over else None,
        }

    def _item_event(self, kind: str, **fields: Any) -> StreamEvent:
        assert self._item is not None
        return self._place_event(kind, item_id=self._item["id"], **fields)

    def _place_event(self, kind: str, **fields: Any) -> StreamEvent:
        return self._event(kind, output_index=self._place, **fields)

    def _event(self, kind: str, **fields: Any) -> StreamEvent:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return event


def _new_call(event: ToolCallStarted) -> dict[str, Any]:
    return {
        "id": f"fc_{secrets.token_hex(16)}",
        "type": "function_call",
        "status": "in_progress",
        "call_id": event.id,
        "name": event.name,
        "arguments": "",
    }


def _new_part() -> dict[str, Any]:
    return {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
