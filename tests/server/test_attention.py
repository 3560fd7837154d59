"""A real server's attention maps are those of the Python API."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from demo.evaluate import example
from mllama import LLM

from .conftest import Server, image_cache

PICTURE, QUESTION, ANSWER = example()


def body(**fields: Any) -> dict[str, Any]:
    content = io.BytesIO()
    PICTURE.save(content, "PNG")
    data = base64.b64encode(content.getvalue()).decode()
    image = {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{data}"},
    }
    message = {"role": "user", "content": [image, {"type": "text", "text": QUESTION}]}
    return {"messages": [message], "temperature": 0, **fields}


def ask(server: Server, **fields: Any) -> httpx.Response:
    url = f"{server.url}/v1/chat/completions"
    return httpx.post(url, json=body(**fields), timeout=120)


def maps_of(image: Any) -> np.ndarray:
    steps = np.frombuffer(base64.b64decode(image["maps"]), "<u2")
    scale = np.frombuffer(base64.b64decode(image["scale"]), "<f4")
    return steps.reshape(image["shape"]) * (scale / 65535)[:, None, None]


@pytest.mark.parametrize(
    "attention", [{}, {"heads": [[1, 0], [3, 2]], "prompt": True}, {"layers": "last"}]
)
def test_maps_are_those_of_the_python_api(
    server: Server, llm: LLM, attention: Any
) -> None:
    content = [
        {"type": "image", "image": PICTURE},
        {"type": "text", "text": QUESTION},
    ]
    messages = [{"role": "user", "content": content}]
    # True is the default, which {} asks for too.
    expected = llm.chat(messages, temperature=0, attention=attention or True).attention
    assert expected is not None
    response = ask(server, attention=attention)
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    assert choice["message"]["content"] == ANSWER
    found = choice["attention"]
    assert found["heads"] == [list(head) for head in expected.heads]
    assert [each["id"] for each in found["tokens"]] == [t.id for t in expected.tokens]
    assert [
        (each["text"], *each["tokens"], each["map_of_token"]) for each in found["words"]
    ] == [(w.text, w.start, w.end, w.at) for w in expected.words]
    (image,) = found["images"]
    np.testing.assert_allclose(maps_of(image), expected.maps[0], atol=1e-4)
    classes = np.frombuffer(base64.b64decode(image["class_tokens"]), "<f4")
    np.testing.assert_allclose(classes, expected.images[0].class_mass, atol=1e-4)


def test_several_clients_get_maps_and_no_image_stays_pinned(server: Server) -> None:
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask, server, attention={}) for _ in range(4)]
        plain = [pool.submit(ask, server) for _ in range(4)]
        found = [each.result().json()["choices"][0] for each in (*asked, *plain)]
    assert {each["message"]["content"] for each in found} == {ANSWER}
    maps = [maps_of(each["attention"]["images"][0]) for each in found[:4]]
    for each in maps:
        np.testing.assert_allclose(each, maps[0], atol=1e-5)
    assert image_cache(server)["pinned"] == 0


def test_wrong_layers_are_refused_before_the_answer(server: Server) -> None:
    response = ask(server, attention={"layers": [2]}, stream=True)
    assert response.status_code == 400
    assert "layer 2 has no cross-attention" in response.json()["error"]["message"]
