"""Damaged files of pictures are read or refused, in every format."""

from __future__ import annotations

import collections
from collections.abc import Callable

import pytest
from hypothesis import given, settings

from mllama.errors import ImageError
from mllama.images.load import load_image

from .application import HOST
from .damaged_images import damaged, files
from .exchange import Exchange
from .hostile_requests import picture_chats
from .test_in_process import repeatable


def test_the_files_themselves_are_read() -> None:
    unread = []
    for data in files():
        try:
            load_image(data)
        except ImageError as error:
            unread.append(str(error))
    # Floating-point numbers without a known range.
    assert [each for each in unread if "0 to 1" not in each] == []


def _outcome(data: bytes) -> str:
    try:
        picture = load_image(data)
    except ImageError as error:
        return "refused" if "\n" not in str(error) else "several lines"
    return "read" if picture.mode == "RGB" else picture.mode


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files_are_read_or_refused_in_one_line() -> None:
    outcomes: collections.Counter[str] = collections.Counter()

    @settings(repeatable, max_examples=800)
    @given(damaged())
    def check(data: bytes) -> None:
        outcomes[_outcome(data)] += 1

    check()
    assert outcomes["read"] > 80
    assert outcomes["refused"] > 80
    assert outcomes.keys() == {"read", "refused"}


def test_questions_about_damaged_pictures_get_planned_answers(
    examine: Callable[[Exchange], int],
) -> None:
    @settings(repeatable, max_examples=80)
    @given(picture_chats(HOST, damaged()))
    def check(exchange: Exchange) -> None:
        assert examine(exchange) in (200, 400)

    check()
