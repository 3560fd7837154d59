"""``data:`` URLs are decoded in base64 and percent-encoded; damage is named."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllama.errors import ImageError
from mllama.images import data_urls
from mllama.images.data_urls import data_url_content, decode_base64


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
