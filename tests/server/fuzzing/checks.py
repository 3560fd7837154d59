"""What every answer has to be: planned, in the form of its API, and documented."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from jsonschema import Draft202012Validator
from starlette.types import Scope

from mllama.server.arrival import connection_errors
from mllama.server.errors import ErrorForm

from .exchange import Answer, Exchange

ALWAYS_POSSIBLE = {400, 404, 405, 413, 431}
"""Statuses of requests that are no HTTP, or for no operation."""

NO_HTTP = connection_errors.NO_HTTP.message.encode()
"""What is in the answer to what is no request, and so has no route."""


class DocumentChecks:
    """Compares answers with the OpenAPI document.

    Args:
        document: The document.
        form_of: Returns the form of a request's errors.
    """

    def __init__(self, document: Any, form_of: Callable[[Scope], ErrorForm]) -> None:
        self._document = document
        self._form_of = form_of
        self._validators: dict[str, Draft202012Validator] = {}
        # Plain paths first, and longer ones before shorter: a name may be anything.
        self._paths = [
            (re.compile(re.sub(r"{\w+}", ".+", path)), path)
            for path in sorted(
                document["paths"], key=lambda path: ("{" in path, -len(path))
            )
        ]

    def problems(self, exchange: Exchange, answer: Answer) -> list[str]:
        """Returns what is wrong with an answer; nothing if all is well."""
        return list(self._problems(exchange, answer))

    def _problems(self, exchange: Exchange, answer: Answer) -> Iterator[str]:
        if answer.status == 0:
            # The client left before there was a status.
            return
        if answer.status >= 500 and answer.status != 503:
            yield f"the status is {answer.status}"
        if answer.status == 503 and "retry-after" not in answer.headers:
            yield "a 503 without Retry-After"
        if not answer.is_whole:
            return
        if answer.status == 400 and exchange.method == "HEAD":
            if answer.headers.get("connection") == "close":
                return
        elif answer.status == 400 and NO_HTTP in answer.body:
            yield from self._wrong_error(exchange, answer)
            return
        operation = self._operation(exchange)
        responses = {} if operation is None else operation["responses"]
        documented = responses.get(str(answer.status))
        if answer.status == 307:
            # A slash too many, or too few.
            if not answer.headers.get("location"):
                yield "a redirection to nowhere"
            return
        if documented is None:
            if operation is not None and answer.status != 405:
                yield f"the status {answer.status} isn't documented"
            elif answer.status not in ALWAYS_POSSIBLE | {401, 403, 415}:
                yield f"the status is {answer.status} though there is no operation"
            elif exchange.method != "HEAD":
                yield from self._wrong_error(exchange, answer)
            return
        if exchange.method == "HEAD":
            return
        content = documented.get("content", {})
        if answer.kind not in content:
            if content or answer.body:
                yield f"the content type {answer.kind!r} isn't documented"
        elif answer.kind == "application/json":
            yield from self._invalid(content[answer.kind]["schema"], answer.body)
            if answer.status >= 400:
                yield from self._wrong_error(exchange, answer)
        elif answer.kind == "text/event-stream":
            yield from self._wrong_events(exchange, answer, content[answer.kind])
        elif answer.kind == "application/x-ndjson":
            yield from self._wrong_lines(answer, content[answer.kind])

    def _operation(self, exchange: Exchange) -> Any:
        path = exchange.path.partition("?")[0]
        for pattern, name in self._paths:
            if pattern.fullmatch(path):
                operations = self._document["paths"][name]
                method = exchange.method.lower()
                # GET's answer without its body.
                default = operations.get("get") if method == "head" else None
                return operations.get(method, default)
        return None

    def _wrong_error(self, exchange: Exchange, answer: Answer) -> Iterator[str]:
        headers = [
            (name.lower().encode(), value.encode("latin-1", "replace"))
            for name, value in exchange.headers
        ]
        path = unquote(re.split("[ ?]", exchange.path)[0])
        form = self._form_of({"type": "http", "path": path, "headers": headers})
        try:
            form.answer.model_validate_json(answer.body, strict=True)
        except ValueError as error:
            yield f"the error isn't in the API's form: {answer.body[:300]!r}: {error}"

    def _invalid(self, schema: Any, body: bytes | str) -> Iterator[str]:
        try:
            value = json.loads(body)
        except ValueError:
            yield f"the answer is no JSON: {body[:300]!r}"
            return
        validator = self._validator(schema)
        for error in list(validator.iter_errors(value))[:3]:
            yield f"the answer isn't as documented: {error.message[:500]}"

    def _validator(self, schema: Any) -> Draft202012Validator:
        key = json.dumps(schema, sort_keys=True)
        if key not in self._validators:
            whole = {**schema, "components": self._document["components"]}
            self._validators[key] = Draft202012Validator(whole)
        return self._validators[key]

    def _wrong_events(
        self, exchange: Exchange, answer: Answer, content: Any
    ) -> Iterator[str]:
        """Checks server-sent events, the last of which must be an end or an error."""
        text = answer.body.decode("utf-8", "strict")
        if not text.endswith("\n\n"):
            yield f"the stream ends in the middle of an event: {text[-200:]!r}"
            return
        blocks = text[:-2].split("\n\n")
        data = [re.search("^data: (.*)$", block, re.M) for block in blocks]
        events = [found[1] for found in data if found]
        last = events[-1] if events else ""
        if last == "[DONE]":
            events.pop()
            last = events[-1] if events else ""
        elif not re.search(
            r'"type": ?"(message_stop|error|response\.(completed|incomplete|failed))"',
            last,
        ) and not last.startswith('{"error"'):
            yield f"the stream has no end: {text[-200:]!r}"
        if last.startswith('{"error"'):
            events.pop()
            error = Answer(answer.status, body=last.encode())
            yield from self._wrong_error(exchange, error)
        if "x-event" in content:
            for event in events:
                yield from self._invalid(content["x-event"], event)

    def _wrong_lines(self, answer: Answer, content: Any) -> Iterator[str]:
        """Checks lines of JSON, the last of which must be an end or an error."""
        text = answer.body.decode("utf-8", "strict")
        if not text.endswith("\n"):
            yield f"the stream ends in the middle of a line: {text[-200:]!r}"
            return
        lines = text[:-1].split("\n")
        last = json.loads(lines[-1])
        if list(last) == ["error"]:
            lines.pop()
        elif not last.get("done"):
            yield f"the stream has no end: {text[-200:]!r}"
        for line in lines:
            yield from self._invalid(content["x-event"], line)
