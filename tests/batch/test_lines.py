"""Lines of OpenAI's batch format are read, and wrong ones say what is wrong."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from mllama.batch import lines
from mllama.batch.lines import parse_line, picture_of, read_lines
from mllama.batch.results import (
    LineAnswer,
    answered,
    answered_identity,
    failed,
    identity_of,
)


def request(**fields: Any) -> dict[str, Any]:
    return {
        "custom_id": "one",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"messages": []},
    } | fields


def parse(content: Any) -> lines.BatchLine:
    return parse_line(json.dumps(content).encode(), 7)


def test_reads_a_request() -> None:
    line = parse(request(body={"messages": [{"content": "é"}]}))
    assert (line.number, line.custom_id, line.url) == (7, "one", "/v1/chat/completions")
    assert json.loads(line.body) == {"messages": [{"content": "é"}]}
    assert line.error is None
    assert line.picture is None


@pytest.mark.parametrize(
    ("content", "code", "param", "custom_id"),
    [
        ([], "invalid_json_line", None, None),
        (request(custom_id=None), "invalid_value", "custom_id", None),
        (request(custom_id=""), "invalid_value", "custom_id", None),
        (request(custom_id="x" * 513), "invalid_value", "custom_id", None),
        (request(custom_id=5), "invalid_value", "custom_id", None),
        (request(method="GET"), "invalid_method", "method", "one"),
        (request(url=None), "invalid_url", "url", "one"),
        (request(body=[]), "invalid_type", "body", "one"),
        (request(extra=1), "unknown_parameter", "extra", "one"),
        (
            request(body={"stream": True}),
            "unsupported_parameter",
            "body.stream",
            "one",
        ),
    ],
)
def test_a_wrong_line_says_what_is_wrong(
    content: Any, code: str, param: str | None, custom_id: str | None
) -> None:
    line = parse(content)
    assert line.error is not None
    assert (line.error.code, line.error.param) == (code, param)
    assert line.custom_id == custom_id
    result = json.loads(failed(line, line.error))
    assert result["custom_id"] == custom_id
    assert result["response"] is None
    assert result["error"]["code"] == code
    assert result["error"]["line"] == 7


def test_no_json_is_an_error() -> None:
    line = parse_line(b"{nonsense", 1)
    assert line.error is not None
    assert "not valid JSON" in line.error.message.replace("Not", "not")


def test_empty_lines_and_a_byte_order_mark_are_skipped() -> None:
    text = json.dumps(request())
    file = io.BytesIO(f"\ufeff{text}\n\n  \n{text}".encode())
    assert [(line.number, line.custom_id) for line in read_lines(file)] == [
        (1, "one"),
        (4, "one"),
    ]


def test_a_line_without_end_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    file = io.BytesIO(b'"' + b"x" * 5000 + b'"\n' + b"[]\n")
    first, second = read_lines(file)
    assert first.error is not None
    assert first.error.code == "invalid_json_line"
    assert second.number == 2


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"content": [{"image_url": {"url": "http://a"}}]}]},
        {"messages": [{"content": [{"image_url": "http://a"}]}]},
        {"input": [{"content": [{"type": "input_image", "image_url": "http://a"}]}]},
        {"input": [{"image_url": {"url": "http://a"}}, {"image_url": "http://b"}]},
    ],
)
def test_the_first_picture_of_any_api_is_found(body: Any) -> None:
    assert picture_of(body) == lines.picture_key("http://a")


def test_an_answer_is_known_by_its_line() -> None:
    line = parse(request())
    text = answered(line, LineAnswer(200, b'{"choices":[]}', "id"))
    assert json.loads(text)["response"] == {
        "status_code": 200,
        "request_id": "id",
        "body": {"choices": []},
    }
    assert answered_identity(text) == identity_of(line)
    wrong = parse([])
    assert wrong.error is not None
    assert answered_identity(failed(wrong, wrong.error)) == identity_of(wrong)
    assert identity_of(wrong) != identity_of(parse(request(custom_id="line 7")))
