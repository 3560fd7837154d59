"""``data:`` URLs are decoded in base64 and percent-encoded; damage is named."""

from __future__ import annotations

import base64
import tracemalloc
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllama.errors import ImageError
from mllama.images import data_urls
from mllama.images.data_urls import data_url_content, decode_base64, percent_decoded


@given(
    st.binary(max_size=500),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
    st.integers(0, 80),
)
def test_base64_is_decoded_in_pieces(
    content: bytes, piece: int, is_url_safe: bool, is_padded: bool, line: int
) -> None:
    encode = base64.urlsafe_b64encode if is_url_safe else base64.b64encode
    text = encode(content).decode()
    text = text if is_padded else text.rstrip("=")
    text = f"{text[:line]}\r\n {text[line:]}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_urls, "_PIECE", piece)
        assert decode_base64(text.encode()) == content
    assert data_url_content(f"data:;base64,{text}") == content
    escaped = "".join(f"%{byte:02x}" for byte in text.encode())
    assert data_url_content(f"DATA:image/png; BASE64 ,{escaped}") == content


def test_percent_encoded_content_is_decoded() -> None:
    assert data_url_content("data:,a%20b,%00") == b"a b,\0"


@given(st.text("%4aZ\u00e9\u20ac", max_size=40), st.integers(1, 20))
def test_percent_signs_keep_their_digits(text: str, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_urls, "_QUOTED_PIECE", piece)
        assert percent_decoded(text) == unquote_to_bytes(text)
        assert percent_decoded(memoryview(text.encode())) == unquote_to_bytes(text)


@pytest.mark.parametrize("header", ["", ";base64"])
def test_percent_encoded_content_takes_little_memory(header: str) -> None:
    url = f"data:{header}," + "%41" * 1_000_000
    tracemalloc.start()
    try:
        data_url_content(url)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 * len(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("data:image/png;base64", "comma"),
        ("data:;base64,####", "base64"),
        ("data:;base64,A", "base64"),
        ("data:;base64,AAA=AAAA" + "A" * 400, "base64"),
        ("data:;base64,\u00e9\ud800", "base64"),
    ],
)
def test_damaged_urls_are_refused(url: str, reason: str) -> None:
    for piece in (data_urls._PIECE, 8):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data_urls, "_PIECE", piece)
            with pytest.raises(ImageError, match=reason):
                data_url_content(url)
