"""The commands of a chat."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from mllama.cli.chat_session.backend import AnswerEnd
from mllama.cli.chat_session.commands import COMMANDS, Leave, run_command
from mllama.cli.chat_session.settings import CHAT_SETTINGS, AnswerSettings
from mllama.errors import MllamaError
from mllama.requests.messages import load_images

from .fake_backend import chat_with

END = AnswerEnd("stop")


def test_settings_reach_the_answer_and_the_request() -> None:
    chat, backend, written = chat_with()
    for line in ("temperature 0.5", "top-k 3", "stop END", "max_new_tokens 9"):
        assert run_command(chat, f"/set {line}")
    chat.ask("Hi")
    assert backend.fields == [
        {"temperature": 0.5, "top_k": 3, "stop": ["END"], "max_new_tokens": 9}
    ]
    assert chat.settings.request_fields == {
        "temperature": 0.5,
        "top_k": 3,
        "stop": ["END"],
        "max_tokens": 9,
    }
    run_command(chat, "/set top_k default")
    run_command(chat, "/set")
    assert "top_k" not in chat.settings.engine_fields
    shown = written.getvalue()
    assert all(name in shown for name in CHAT_SETTINGS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set", None),
        ("/set top_k", "takes a value"),
        ("/set top_k x", "must be an integer"),
        ("/set temperature 3", "from 0 to 2"),
        ("/set temperature nan", "finite|from 0 to 2"),
        ("/set color red", "no setting color; there are max_new_tokens"),
        ("/set verbose maybe", "on or off"),
        ("/clear all", "takes no argument"),
        ("/save", "takes the name"),
        ("/save x", "nothing to save"),
        ("/load", "takes the name"),
        ("/load missing.json", "can't be read"),
        ("/retry", "no question"),
        ("/nonsense", "/help lists them"),
        ("/image missing.png", "no image file"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(
    line: str, message: str | None
) -> None:
    chat, _, _ = chat_with()
    if message is None:
        assert run_command(chat, line)
    else:
        with pytest.raises(MllamaError, match=message):
            run_command(chat, line)
    assert chat.settings.engine_fields == {}
    assert not chat.transcript.messages


def test_defaults_of_the_command_line_are_not_sent() -> None:
    defaults = {name: option.default for name, option in CHAT_SETTINGS.items()}
    assert AnswerSettings(defaults).request_fields == {}
    with pytest.raises(MllamaError, match="temperature"):
        AnswerSettings({**defaults, "temperature": 9})


def test_a_conversation_is_saved_and_loaded_with_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("red.png", "red.bmp"):
        Image.new("RGB", (6, 4), "red").save(name)
    chat, _, _ = chat_with()
    run_command(chat, "/system Be brief.")
    chat.say("red.png red.bmp What?")
    run_command(chat, "/save talk.json")
    for name in ("red.png", "red.bmp"):
        Path(name).unlink()
    # As `mllama generate --messages` reads it.
    messages = load_images(json.loads(Path("talk.json").read_text()), tmp_path)
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    assert [part["type"] for part in messages[1]["content"]] == [
        "image",
        "image",
        "text",
    ]

    other, backend, _ = chat_with()
    run_command(other, "/load talk.json")
    assert other.transcript == chat.transcript
    other.say("More?")
    assert backend.asked[0][:3] == chat.transcript.messages
    run_command(other, "/save talk.json")  # its own file

    Path("mine.txt").write_text("mine")
    with pytest.raises(MllamaError, match="exists"):
        run_command(chat, "/save mine.txt")
    assert Path("mine.txt").read_text() == "mine"


def test_relative_pictures_of_a_loaded_file_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(os.sep)
    Image.new("RGB", (6, 4), "red").save(tmp_path / "red.png")
    part = {"type": "image_url", "image_url": {"url": "red.png"}}
    content = [part, {"type": "text", "text": "What?"}]
    (tmp_path / "in.json").write_text(
        json.dumps([{"role": "user", "content": content}])
    )
    chat, backend, _ = chat_with()
    run_command(chat, f"/load {tmp_path / 'in.json'}")
    assert chat.transcript.pictures == 1
    run_command(chat, "/retry")  # answers the question at its end
    url = backend.asked[0][0]["content"][0]["image_url"]["url"]
    assert url.startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    "content", ["nope", "{}", "[]", '[[{"role": "user", "content": "x"}]]', "[1]"]
)
def test_a_file_that_is_no_conversation_is_refused(
    content: str, tmp_path: Path
) -> None:
    (tmp_path / "in.json").write_text(content)
    chat, _, _ = chat_with()
    chat.ask("Hi")
    with pytest.raises(MllamaError, match=r"in\.json"):
        run_command(chat, f"/load {tmp_path / 'in.json'}")
    assert len(chat.transcript.turns) == 2


def test_retry_replaces_the_answer_unless_it_fails() -> None:
    chat, _, _ = chat_with(("One", END), ("Two", END), (MllamaError("bad"),))
    chat.ask("Hi")
    run_command(chat, "/retry")
    assert [turn["content"] for turn in chat.transcript.turns] == ["Hi", "Two"]
    with pytest.raises(MllamaError, match="bad"):
        run_command(chat, "/retry")
    assert [turn["content"] for turn in chat.transcript.turns] == ["Hi", "Two"]


def test_clear_keeps_the_system_prompt() -> None:
    chat, _, written = chat_with()
    run_command(chat, "/system Be brief.")
    chat.ask("Hi")
    run_command(chat, "/clear")
    assert chat.transcript.messages == [{"role": "system", "content": "Be brief."}]
    run_command(chat, "/system")
    assert chat.transcript.messages == []
    run_command(chat, "/show")
    assert "messages  0" in written.getvalue()


def test_help_lists_every_command_and_bye_leaves() -> None:
    chat, _, written = chat_with()
    run_command(chat, "/help")
    assert all(f"/{command.name}" in written.getvalue() for command in COMMANDS)
    for line in ("/bye", "/exit"):
        with pytest.raises(Leave):
            run_command(chat, line)


def test_a_line_that_begins_with_a_path_is_no_command(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4), "red").save(tmp_path / "red.png")
    chat, _, _ = chat_with()
    assert not run_command(chat, f"{tmp_path}/red.png What?")
    assert not run_command(chat, "Hello /help")
