"""Sizes are parsed with decimal and binary units, or as a share of the memory."""

from __future__ import annotations

import pytest

from mllama.errors import MllamaError
from mllama.utils.sizes import format_bytes, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000", 1000),
        ("12B", 12),
        ("500MB", 500 * 1000**2),
        ("4GiB", 4 * 1024**3),
        ("4 gib", 4 * 1024**3),
        (" 1.5TB ", 1.5 * 1000**4),
        ("1G", 1024**3),
        ("2k", 2048),
        (".5KiB", 512),
        ("0.2", 200),
        (".25", 250),
        ("20%", 200),
        ("0.5 %", 5),
    ],
)
def test_every_accepted_spelling_has_its_value(text: str, size: int) -> None:
    assert parse_size(text, memory=1000) == size


@pytest.mark.parametrize(
    "text", ["", "much", "-1", "0GiB", "1.5", "1.0", "100%", "0%", "0.0", "4XB", "1e9"]
)
def test_other_texts_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(MllamaError, match="not a valid size") as caught:
        parse_size(text, memory=1000)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (3 * 2**29, "1.5 GiB"),
        (2**41, "2048.0 GiB"),
    ],
)
def test_bytes_are_formatted_with_a_binary_unit(count: int, text: str) -> None:
    assert format_bytes(count) == text
