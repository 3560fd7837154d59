"""Long data: URLs are cut out of JSON texts, decoded and checked."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from typing import Any

import pytest
from max.pipelines.context.exceptions import InputError
from max.serve.config import Settings
from max.serve.router._image_resolution import _MediaByteBudget, make_media_ref
from PIL import Image

from mllama.errors import ImageError
from mllama.images.data_urls import decode_base64
from mllama.server import inline_images
from mllama.server.image_fetcher import ImageFetcher
from mllama.server.inline_images import InlineImages, headers_only, image_urls

CONTENT = bytes(range(256)) * 300
PACKED = base64.b64encode(CONTENT).decode()


def body(*urls: str, **others: Any) -> bytes:
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return json.dumps(
        {"messages": [{"role": "user", "content": content}], **others}
    ).encode()


def resolve(
    images: InlineImages, url: str, limit: int | None = None
) -> bytes | ImageError:
    function = images.resolve_with(ImageFetcher(Settings()))
    budget = _MediaByteBudget(limit)
    found: bytes | ImageError = asyncio.run(
        function(make_media_ref(url), Settings(), budget, "image")
    )
    if limit is not None and isinstance(found, bytes):
        assert budget.remaining == limit - len(found)
    return found


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


def test_more_than_the_budget_is_refused_by_its_option() -> None:
    for url in (f"data:;base64,{PACKED}", f"data:;base64,{PACKED[:400]}"):
        images = InlineImages()
        _, urls = images.detach(body(url))
        error = resolve(images, urls[0] if urls else url, 10)
        assert "MAX_SERVE_MAX_MEDIA_BYTES" in str(error)


@pytest.mark.parametrize("bad", ["A", "=AAA" * 30, "\u00e9"])
def test_damaged_base64_is_refused(bad: str) -> None:
    text = PACKED + bad
    images = InlineImages()
    _, (url,) = images.detach(
        json.dumps({"url": f"data:;base64,{text}"}, ensure_ascii=False).encode()
    )
    error = resolve(images, url)
    assert isinstance(error, ImageError)
    assert "base64 is damaged" in str(error)
    assert str(resolve(images, f"data:;base64,{text}")) == str(error)


def picture(width: int = 8, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, 8)).save(file, kind)
    return file.getvalue()


def test_the_image_that_can_not_be_used_is_numbered() -> None:
    facts: list[Any] = []
    for bad, reason in (
        (b"text", "is not an image"),
        (ImageError("it is away"), "it is away"),
    ):
        with pytest.raises(InputError, match=f"^image 2: .*{reason}"):
            headers_only([picture(), bad], None, None, [], facts)


def test_every_image_is_measured_and_none_is_decoded() -> None:
    facts: list[Any] = []
    images: list[Any] = [picture(), picture(9, "JPEG2000")]
    assert headers_only(images, None, None, [], facts) == ([None, None], None)
    assert [(fact.image_format, fact.pixels) for fact in facts] == [
        ("png", 64),
        ("jpeg2000", 72),
    ]


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
