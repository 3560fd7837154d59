"""Pictures in terminals: which protocol, and what is written."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from mllama.cli.terminal_image import (
    display_method,
    half_blocks,
    iterm2_sequence,
    kitty_sequence,
    show_picture,
)
from mllama.demo_model import PICTURES

PICTURE = PICTURES[0].path


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "method"),
    [
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM_PROGRAM": "WezTerm", "COLORTERM": "truecolor"}, "iterm2"),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"KITTY_WINDOW_ID": "1", "TERM": "xterm-256color"}, "kitty"),
        ({"TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "blocks"),
        ({"COLORTERM": "24bit"}, "blocks"),
        ({"TERM_PROGRAM": "iTerm.app", "TMUX": "x"}, None),
        ({"KITTY_WINDOW_ID": "1", "TMUX": "x", "COLORTERM": "truecolor"}, "blocks"),
        ({"COLORTERM": "truecolor", "NO_COLOR": "1"}, None),
        ({"TERM": "xterm-256color"}, None),
        ({}, None),
    ],
)
def test_the_environment_decides_the_method(
    environment: dict[str, str], method: str | None
) -> None:
    assert display_method(environment, "utf-8") == method


def test_blocks_need_an_encoding_that_has_them() -> None:
    assert display_method({"COLORTERM": "truecolor"}, "ascii") is None


def test_a_pipe_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")
    stream = io.StringIO()
    show_picture(PICTURE, stream)
    assert stream.getvalue() == ""


def test_a_terminal_gets_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TERM", "TERM_PROGRAM", "KITTY_WINDOW_ID", "TMUX", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLORTERM", "truecolor")
    stream = Terminal()
    show_picture(PICTURE, stream)
    assert stream.getvalue().count("▀") == 40 * 20


def test_a_tall_picture_is_no_taller_than_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TERM", "TERM_PROGRAM", "KITTY_WINDOW_ID", "TMUX", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLORTERM", "truecolor")
    Image.new("RGB", (100, 400), "red").save(tmp_path / "tall.png")
    for picture in (tmp_path / "tall.png", (tmp_path / "tall.png").read_bytes()):
        stream = Terminal()
        show_picture(picture, stream)
        lines = stream.getvalue().splitlines()
        assert [line.count("▀") for line in lines] == [10] * 20


def test_iterm2_gets_the_whole_file() -> None:
    data = PICTURE.read_bytes()
    written = iterm2_sequence(data, 40)
    head, _, encoded = written.removesuffix("\a\n").partition(":")
    assert head.startswith("\033]1337;File=inline=1;")
    assert base64.b64decode(encoded) == data


@pytest.mark.parametrize("length", [1, 3072, 3073, 9000])
def test_kitty_gets_the_file_in_chunks(length: int) -> None:
    data = bytes(number % 251 for number in range(length))
    *commands, end = kitty_sequence(data, 40)
    assert end == "\n"
    parsed = [re.fullmatch("\033_G(.*?);(.*)\033\\\\", each) for each in commands]
    assert all(parsed)
    settings = [match[1] for match in parsed if match]
    payloads = [match[2] for match in parsed if match]
    assert base64.b64decode("".join(payloads)) == data
    assert all(len(payload) <= 4096 for payload in payloads)
    assert "a=T,f=100" in settings[0]
    more = [setting.endswith("m=1") for setting in settings]
    assert more == [True] * (len(settings) - 1) + [False]


def test_a_character_holds_the_pixel_above_and_the_one_below(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 2), "red")
    image.paste("blue", (0, 1, 2, 2))
    image.save(tmp_path / "two.png")
    (line,) = half_blocks((tmp_path / "two.png").read_bytes(), 2)
    cell = "\033[38;2;255;0;0;48;2;0;0;255m▀"
    assert line == f"{cell}{cell}\033[0m\n"
