"""The soak's questions are right requests, and its reading of answers finds errors."""

from __future__ import annotations

import pytest

from tests.server.fuzzing.application import HOST, TEXT, Application
from tests.server.fuzzing.conftest import application
from tests.server.fuzzing.exchange import Answer

from .questions import APIS, Question

__all__ = ["application"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("picture", [None, 0])
@pytest.mark.parametrize("api", APIS)
def test_an_answer_is_read(
    application: Application, api: str, picture: int | None, stream: bool
) -> None:
    question = Question(api, picture, stream=stream)
    answer = application.send(question.exchange(HOST))
    assert answer.status == 200, answer.body
    assert question.outcome(answer) == (TEXT, None)


@pytest.mark.parametrize(
    ("api", "end"),
    [
        ("chat", b'data: {"error": {"message": "The model has died"}}\n\n'),
        ("messages", b'event: error\ndata: {"type":"error","error":{"type":"a"}}\n\n'),
        ("ollama", b'{"error":"The model has died"}\n'),
        ("chat", b'data: {"choices": []'),
    ],
)
def test_a_stream_that_ends_early_is_an_error(api: str, end: bytes) -> None:
    answer = Answer(200, {}, end)
    text, error = Question(api, None, stream=True).outcome(answer)
    assert text == ""
    assert error
