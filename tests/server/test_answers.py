"""The server's answers to every kind of request equal those of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import openai
import pytest

from mllama.demo_model import MODEL_PATH
from tests.reference.cases import Case, case, case_names
from tests.reference.oracle import Reference, reference

TILE = 64
"""Side of the demo model's tiles in pixels."""

STEPS = 12


@pytest.fixture(scope="module")
def oracle() -> Reference:
    return reference(MODEL_PATH)


def expected(one: Case, oracle: Reference) -> str:
    """Returns the reference's greedy answer up to the end of its turn."""
    ids = oracle.decode(one.messages, STEPS - 1).token_ids
    ends = oracle.model.config.text_config.eos_token_id
    end = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return str(oracle.processor.tokenizer.decode(ids[:end]))


def answer(client: openai.OpenAI, messages: list[Any]) -> str:
    reply = client.chat.completions.create(
        model="mllama-demo", messages=messages, max_tokens=STEPS
    )
    return reply.choices[0].message.content or ""


@pytest.mark.parametrize("name", case_names())
def test_an_answer_over_http_equals_the_reference(
    client: openai.OpenAI, oracle: Reference, name: str
) -> None:
    one = case(name, TILE)
    assert answer(client, one.openai_messages()) == expected(one, oracle)


def test_concurrent_requests_of_all_kinds_get_the_same_answers(
    client: openai.OpenAI, oracle: Reference
) -> None:
    cases = [case(name, TILE) for name in case_names()]
    with ThreadPoolExecutor(len(cases)) as pool:
        messages = [one.openai_messages() for one in cases]
        answers = list(pool.map(partial(answer, client), messages))
    assert answers == [expected(one, oracle) for one in cases]


@pytest.fixture
def website(tmp_path: Path) -> Iterator[str]:
    """Serves ``tmp_path`` at a host that the tests' server may fetch images from."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        Thread(target=site.serve_forever, daemon=True).start()
        yield f"http://localhost:{site.server_port}"
        site.shutdown()


def test_an_image_is_fetched_from_its_url_or_the_error_says_why_not(
    client: openai.OpenAI, oracle: Reference, website: str, tmp_path: Path
) -> None:
    one = case("system_and_image", TILE)
    one.images[0].save(tmp_path / "picture.png")
    messages: Any = one.openai_messages()
    url = messages[-1]["content"][0]["image_url"]
    url["url"] = f"{website}/picture.png"
    assert answer(client, messages) == expected(one, oracle)

    url["url"] = f"{website}/missing.png"
    with pytest.raises(openai.BadRequestError, match=r"image 1: .*status 404"):
        answer(client, messages)
