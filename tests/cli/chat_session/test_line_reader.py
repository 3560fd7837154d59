"""Lines are edited in a terminal, and the history is its user's own."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from mllama.cli.chat_session.history import MAX_LENGTH, MAX_LINES, LineHistory
from mllama.cli.chat_session.line_reader import (
    ChatCompleter,
    LineReader,
    block_content,
    is_block,
)

ALT_ENTER = "\x1b\r"


def typed(keys: str, history: Path | None = None) -> str:
    with create_pipe_input() as keyboard:
        keyboard.send_text(keys)
        reader = LineReader(io.StringIO(), history, (keyboard, DummyOutput()))
        return reader.read()


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("Hello\r", "Hello"),
        (f"one{ALT_ENTER}two\r", "one\ntwo"),
        ('"""one\rtwo"""\r', '"""one\ntwo"""'),
        ('"""one"""\r', '"""one"""'),
        ("\x1b[200~pasted\nlines\x1b[201~\r", "pasted\nlines"),
        ("gone\x03kept\r", "kept"),
    ],
)
def test_keys(keys: str, text: str) -> None:
    assert typed(keys) == text


@pytest.mark.parametrize(
    ("keys", "error"), [("\x03", KeyboardInterrupt), ("\x04", EOFError)]
)
def test_keys_in_an_empty_line(keys: str, error: type[BaseException]) -> None:
    with pytest.raises(error):
        typed(keys)


def completions(line: str) -> list[str]:
    found = ChatCompleter().get_completions(Document(line), CompleteEvent())
    return [
        line[: len(line) + completion.start_position] + completion.text
        for completion in found
    ]


def test_tab_completes_commands_and_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.png").touch()
    assert completions("/ret") == ["/retry"]
    assert completions("/set tempe") == ["/set temperature"]
    assert completions("/image pho") == ["/image photo.png"]
    assert completions("see ./pho") == ["see ./photo.png"]
    assert completions("pho") == []


def test_blocks() -> None:
    assert is_block('"""a')
    assert not is_block('a"""')
    assert block_content('"""\na\n"b"\n"""') == 'a\n"b"'


def test_the_history_is_private_and_bounded(tmp_path: Path) -> None:
    file = tmp_path / "new" / "history"
    assert typed("first\r", file) == "first"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    # The next chat has it: up, and enter.
    assert typed("\x1b[A\r", file) == "first"

    history = LineHistory(file)
    history.store_string("x" * (MAX_LENGTH + 1))
    history.store_string("two\nlines")
    assert list(history.load_history_strings())[:2] == ["two\nlines", "first"]
    lines = [json.dumps(str(number)) for number in range(3 * MAX_LINES)]
    file.write_text("\n".join([*lines, "damaged", "1"]))
    loaded = list(history.load_history_strings())
    assert loaded[0] == str(3 * MAX_LINES - 1)
    assert len(file.read_text().splitlines()) == MAX_LINES


def test_a_history_that_cannot_be_kept_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    history = LineHistory(tmp_path / "file" / "history")
    history.store_string("line")
    assert list(history.load_history_strings()) == []
