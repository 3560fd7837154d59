"""Turns of a chat: what is asked, written and kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mllama.cli.chat_session.backend import AnswerEnd
from mllama.cli.chat_session.conversation_loop import converse
from mllama.errors import EngineError, MllamaError, PromptTooLongError

from .fake_backend import chat_with

END = AnswerEnd("stop")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (6, 4), "red").save(tmp_path / "red.png")
    return tmp_path / "red.png"


class Typed:
    """Lines that are typed; an exception stands for Ctrl-C."""

    def __init__(self, *lines: str | BaseException) -> None:
        self.lines = list(lines)

    def read(self) -> str:
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line


def test_turns_follow_each_other_with_pictures_before_the_text(picture: Path) -> None:
    chat, backend, written = chat_with(("Re", "d.", END), ("No.", END))
    converse(chat, Typed(f"{picture} What?", "Blue?"))
    first, second = backend.asked
    assert [part["type"] for part in first[0]["content"]] == ["image_url", "text"]
    assert [message["role"] for message in second] == ["user", "assistant", "user"]
    assert second[1]["content"] == "Red."
    assert written.getvalue() == "Red.\nNo.\n"


def test_a_picture_alone_waits_for_its_question(picture: Path) -> None:
    chat, backend, written = chat_with()
    converse(chat, Typed(str(picture), f"/image '{picture}'", "Which?"))
    (asked,) = backend.asked
    assert len(asked[0]["content"]) == 3
    assert "1 picture attached" in written.getvalue()
    assert not chat.waiting


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), MllamaError("gone away")])
def test_an_answer_that_stops_is_kept_as_far_as_it_is(stop: BaseException) -> None:
    chat, backend, written = chat_with(("Once upon", stop), ("Fine.", END))
    converse(chat, Typed("Tell.", "Go on."))
    assert [each["content"] for each in backend.asked[1]] == [
        "Tell.",
        "Once upon",
        "Go on.",
    ]
    expected = "(stopped)" if isinstance(stop, KeyboardInterrupt) else "error: gone"
    assert f"Once upon\n{expected}" in written.getvalue()


@pytest.mark.parametrize(
    "stop", [KeyboardInterrupt(), MllamaError("bad"), EngineError("dead")]
)
def test_a_question_without_an_answer_is_taken_back(
    stop: BaseException, picture: Path
) -> None:
    chat, backend, _ = chat_with((stop,), ("Fine.", END))
    converse(chat, Typed(f"{picture} What?", "Again?"))
    assert len(backend.asked[1]) == 1
    # Its picture waited for the next question.
    assert backend.asked[1][0]["content"][0]["type"] == "image_url"


def test_errors_are_one_line_and_the_chat_goes_on(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    chat, backend, written = chat_with()
    lines = (f"{tmp_path}/no.png What?", f"{tmp_path}/text.png What?", "/image", "/fly")
    converse(chat, Typed(*lines, "Hello"))
    errors = written.getvalue().splitlines()[:-1]
    assert len(errors) == len(lines)
    assert all(line.startswith("error: ") for line in errors)
    assert len(backend.asked) == 1


def test_a_full_context_names_the_way_out() -> None:
    too_long = PromptTooLongError("the prompt is too long: it has 9 tokens")
    chat, _, written = chat_with(("a", AnswerEnd("length")), (too_long,))
    converse(chat, Typed("One", "Two"))
    assert "the context is full; /clear" in written.getvalue()
    assert "error: the prompt is too long: it has 9 tokens; /clear" in (
        written.getvalue()
    )
    assert [turn["content"] for turn in chat.transcript.turns] == ["One", "a"]


def test_a_limit_of_the_answer_is_no_full_context() -> None:
    chat, _, written = chat_with(("a", AnswerEnd("length")))
    converse(chat, Typed("/set max-new-tokens 1", "One"))
    assert "reached max_new_tokens" in written.getvalue()


def test_answers_cannot_command_the_terminal() -> None:
    chat, _, written = chat_with(("a\x1b]0;title\x07\x9b2Jb\r\n\tc", END))
    converse(chat, Typed("Hi"))
    text = written.getvalue()
    assert text == "a␛]0;title␇\ufffd2Jb\n\tc\n"
    assert chat.transcript.turns[1]["content"].startswith("a\x1b]0;")


def test_ctrl_c_at_the_prompt_says_how_to_leave() -> None:
    chat, backend, written = chat_with()
    converse(chat, Typed(KeyboardInterrupt(), "Hi", "/bye", "Never"))
    assert "Ctrl-D or /bye leaves" in written.getvalue()
    assert len(backend.asked) == 1


def test_figures_follow_if_they_are_asked_for() -> None:
    end = AnswerEnd("stop", 0.25, 12.5, 7, 1600, 1590, 3, 1)
    chat, _, written = chat_with(("a", end), ("b", end))
    converse(chat, Typed("/set verbose", "One", "/set verbose off", "Two"))
    (line,) = [each for each in written.getvalue().splitlines() if each[0] == "["]
    assert line == (
        "[7 tokens, 12.5 tokens/s, first token after 0.25 s, prompt 1600 tokens, "
        "1590 of images, prefix cache hits 3 tokens, image cache hits 1]"
    )


def test_a_text_of_several_lines_is_no_command() -> None:
    chat, backend, _ = chat_with()
    converse(chat, Typed('"""/bye\nsecond line\n"""'))
    assert backend.asked[0][0]["content"] == "/bye\nsecond line"
