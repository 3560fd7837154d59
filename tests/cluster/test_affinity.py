"""Requests that should meet have the same key."""

from __future__ import annotations

import hashlib

import pytest

from mllama.cluster.affinity import KEY_HEADER, REPLICA_HEADER, affinity_key
from mllama.cluster.messages import ImageContent
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.request import GenerationRequest

from ..server.dialects.fake_engine import FakeEngine
from .local_replicas import LocalCluster, LocalReplica, image_chat


def chat(*texts: str, system: str = "Be brief.") -> GenerationRequest:
    roles = ("user", "assistant")
    messages = [{"role": "system", "content": system}] + [
        {"role": roles[index % 2], "content": text} for index, text in enumerate(texts)
    ]
    return GenerationRequest(prompt=ChatPrompt(messages=messages))


def test_the_first_image_makes_the_key() -> None:
    images = [ImageContent.of(b"one"), ImageContent.of(b"two")]
    assert affinity_key(chat("a"), images) == hashlib.sha256(b"one").hexdigest()
    assert affinity_key(chat("b", "c", "d"), images[:1]) == affinity_key(
        chat("a"), images
    )
    assert affinity_key(chat("a"), images[1:]) != affinity_key(chat("a"), images)


def test_all_turns_of_a_chat_have_the_same_key() -> None:
    first = affinity_key(chat("a"), [])
    assert affinity_key(chat("a", "b", "c"), []) == first
    assert affinity_key(chat("other"), []) != first
    assert affinity_key(chat("a", system="Be long."), []) != first


@pytest.mark.parametrize("prompt", ["x" * 512, [7] * 512])
def test_prompts_without_messages_are_known_by_their_beginning(
    prompt: str | list[int],
) -> None:
    longer = GenerationRequest(prompt=prompt + prompt)  # type: ignore[operator]
    assert affinity_key(GenerationRequest(prompt=prompt), []) == affinity_key(
        longer, []
    )
    other = GenerationRequest(prompt=prompt[1:])
    assert affinity_key(other, []) != affinity_key(longer, [])


def test_a_text_that_is_no_unicode_has_a_key() -> None:
    assert affinity_key(GenerationRequest(prompt="\ud800"), [])


@pytest.fixture
def cluster() -> LocalCluster:
    return LocalCluster([LocalReplica("first", FakeEngine("Hello!"))])


@pytest.mark.parametrize("stream", [False, True])
def test_responses_say_where_a_request_belongs(
    cluster: LocalCluster, stream: bool
) -> None:
    response = cluster.server.post(
        "/v1/chat/completions", image_chat(b"one", stream=stream)
    )
    assert response.headers[KEY_HEADER] == hashlib.sha256(b"one").hexdigest()
    assert response.headers[REPLICA_HEADER] == "first"
    assert cluster.handle.keys == [response.headers[KEY_HEADER]]


def test_a_key_of_the_client_wins(cluster: LocalCluster) -> None:
    response = cluster.server.request(
        "POST",
        "/v1/chat/completions",
        json=image_chat(b"one"),
        headers={KEY_HEADER: "session-7"},
    )
    assert response.headers[KEY_HEADER] == "session-7"
    assert cluster.handle.keys == ["session-7"]


@pytest.mark.parametrize("key", ["", "two words", "x" * 129, "\u00fc".encode()])
def test_other_keys_of_clients_are_none(
    cluster: LocalCluster, key: str | bytes
) -> None:
    response = cluster.server.request(
        "POST",
        "/v1/chat/completions",
        json=image_chat(b"one"),
        headers=[(KEY_HEADER, key), ("x-request-id", "id")],
    )
    assert response.headers[KEY_HEADER] == hashlib.sha256(b"one").hexdigest()


def test_what_is_not_routed_has_no_key(cluster: LocalCluster) -> None:
    response = cluster.server.request("GET", "/v1/models")
    assert response.status_code == 200
    assert KEY_HEADER not in response.headers
