"""Long data: URLs are cut out of JSON texts, and decoded as MAX decodes them."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from max.pipelines.context.exceptions import InputError
from max.serve.config import Settings
from max.serve.router._image_resolution import (
    DataUrl,
    _decode_data_uri_base64,
    _MediaByteBudget,
    resolve_image_from_url,
)

from mllama.server import inline_images
from mllama.server.inline_images import InlineImages, decode_base64, image_urls

CONTENT = bytes(range(256)) * 300
PACKED = base64.b64encode(CONTENT).decode()


def body(*urls: str, **others: Any) -> bytes:
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return json.dumps(
        {"messages": [{"role": "user", "content": content}], **others}
    ).encode()


def resolve(images: InlineImages, url: str, limit: int | None = None) -> bytes:
    function = images.resolve_with(resolve_image_from_url)
    budget = _MediaByteBudget(limit)
    content: bytes = asyncio.run(function(DataUrl(url), Settings(), budget, "image"))
    if limit is not None:
        assert budget.remaining == limit - len(content)
    return content


def test_long_urls_become_short_ones_and_resolve_to_their_content() -> None:
    images = InlineImages()
    short = "data:image/png;base64,AAAA"
    first, last = f"data:image/png;base64,{PACKED}", f"data:;base64,{PACKED[4:]}"
    raw = body(first, short, last, seed=3)
    text, urls = images.detach(raw)
    assert len(text) < 1000
    parsed = json.loads(text)
    assert parsed["seed"] == 3
    assert image_urls(parsed) == [urls[0], short, urls[1]]
    assert resolve(images, urls[0], 10**6) == CONTENT
    assert resolve(images, urls[1]) == CONTENT[3:]
    assert resolve(images, short) == b"\0\0\0"
    assert len(images) == 0


def test_a_request_that_ends_early_leaves_nothing_behind() -> None:
    images = InlineImages()
    _, urls = images.detach(body(f"data:;base64,{PACKED}"))
    assert len(images) == 1
    images.discard(urls)
    assert len(images) == 0


def test_a_url_of_another_request_can_not_be_guessed() -> None:
    assert InlineImages()._prefix != InlineImages()._prefix


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b'{"a": "data:',
        b'{"a": "data:,' + b"A" * 100_000,
        b'"data:' + b"A" * 100_000 + b'"',
        body("data:;base64," + PACKED[:60] + "\n" + PACKED[60:]),
        json.dumps({"text": f'see "data:;base64,{PACKED}"'}).encode(),
    ],
)
def test_other_texts_stay_as_they_are(raw: bytes) -> None:
    images = InlineImages()
    assert images.detach(raw) == (raw, [])
    assert len(images) == 0


def test_slashes_may_be_escaped() -> None:
    images = InlineImages()
    raw = body(f"data:image/png;base64,{PACKED}").replace(b"/", b"\\/")
    assert json.loads(raw)
    _, (url,) = images.detach(raw)
    assert resolve(images, url) == CONTENT


def test_more_than_the_budget_is_refused_in_max_s_words() -> None:
    images = InlineImages()
    _, (url,) = images.detach(body(f"data:;base64,{PACKED}"))
    with pytest.raises(InputError, match="maximum media size"):
        resolve(images, url, len(CONTENT) - 1)


@pytest.mark.parametrize("bad", ["A", "=AAA" * 30, "\u00e9"])
def test_damaged_base64_is_answered_as_by_max(bad: str) -> None:
    text = PACKED + bad
    images = InlineImages()
    _, (url,) = images.detach(
        json.dumps({"url": f"data:;base64,{text}"}, ensure_ascii=False).encode()
    )

    def outcome(images: InlineImages, url: str) -> Any:
        try:
            return resolve(images, url)
        except InputError as error:
            return str(error)

    assert outcome(images, url) == outcome(InlineImages(), f"data:;base64,{text}")


@given(
    st.binary(max_size=500),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
)
def test_base64_is_decoded_as_by_max(
    content: bytes, piece: int, is_url_safe: bool, is_padded: bool
) -> None:
    encode = base64.urlsafe_b64encode if is_url_safe else base64.b64encode
    text = encode(content).decode()
    text = text if is_padded else text.rstrip("=")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inline_images, "_PIECE", piece)
        assert decode_base64(text.encode()) == content
    if text:
        assert _decode_data_uri_base64(f"data:,{text}") == content


def test_base64_is_decoded_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def spy(text: Any) -> bytes:
        threads.append(threading.current_thread())
        return decode_base64(text)

    monkeypatch.setattr(inline_images, "decode_base64", spy)
    images = InlineImages()
    _, (url,) = images.detach(body(f"data:;base64,{PACKED}"))
    assert resolve(images, url) == CONTENT
    assert threads != [threading.main_thread()]
