"""A request on which the model fails gets a 500, and the server keeps running."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from PIL import Image

from tests.reference.cases import data_url

from .conftest import Server, running


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose model fails on white pictures."""
    log = tmp_path_factory.mktemp("faulty") / "log"
    with running(log, module="tests.server.faulty_server") as started:
        yield started


def ask(server: Server, color: str, **options: Any) -> Any:
    url = data_url(Image.new("RGB", (64, 64), color))
    content: Any = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is in the picture?"},
    ]
    return server.client().chat.completions.create(
        model="mllama-demo",
        messages=[{"role": "user", "content": content}],
        **{"max_tokens": 4, **options},
    )


def test_a_failing_request_gets_500_and_the_others_get_their_answers(
    faulty: Server,
) -> None:
    alone = ask(faulty, "red").choices[0].message.content
    colors = ["red", "white", "red", "white", "red"]

    def outcome(color: str) -> Any:
        try:
            return ask(faulty, color).choices[0].message.content
        except openai.InternalServerError as error:
            return error.status_code

    with ThreadPoolExecutor(len(colors)) as pool:
        outcomes = list(pool.map(outcome, colors))
    assert outcomes == [alone, 500, alone, 500, alone]
    assert "too bright" in faulty.log.read_text()


def test_a_failing_stream_ends_with_an_error_and_the_server_keeps_running(
    faulty: Server,
) -> None:
    with pytest.raises(openai.APIError):
        list(ask(faulty, "white", stream=True))
    assert ask(faulty, "blue").choices
