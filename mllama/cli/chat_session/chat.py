"""A chat: its transcript, its settings, and one turn after the other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from mllama.cli.chat_session.backend import AnswerEnd, Backend
from mllama.cli.chat_session.control_characters import visible
from mllama.cli.chat_session.picture_paths import read_line
from mllama.cli.chat_session.pictures import Picture, read_picture
from mllama.cli.chat_session.settings import AnswerSettings
from mllama.cli.chat_session.transcript import Transcript
from mllama.errors import MllamaError, PromptTooLongError

WAY_OUT: Final = "/clear begins anew, and /save FILE keeps the conversation before that"
"""What to do if the context is full."""


@dataclass
class Chat:
    """A chat with a model.

    Attributes:
        backend: The model.
        settings: The settings of answers.
        stream: Where answers go.
        notes: Where everything else goes.
        transcript: The messages so far.
        waiting: Pictures that the next question is about.
        is_verbose: Whether figures follow each answer.
        file: The file that the conversation was saved to or loaded from.
    """

    backend: Backend
    settings: AnswerSettings
    stream: TextIO
    notes: TextIO
    transcript: Transcript = field(default_factory=Transcript)
    waiting: list[Picture] = field(default_factory=list)
    is_verbose: bool = False
    file: Path | None = None

    def note(self, text: str) -> None:
        """Writes a line that is no answer."""
        print(visible(text), file=self.notes, flush=True)

    def attach(self, sources: Sequence[str | Path]) -> None:
        """Reads pictures and shows them; the next question is about them.

        Raises:
            ImageError: If one can't be read; then none is attached.
        """
        pictures = [read_picture(source) for source in sources]
        for picture in pictures:
            picture.show(self.stream)
        self.waiting += pictures

    def say(self, line: str) -> None:
        """Asks what a line says; the pictures that it names are attached first.

        Raises:
            MllamaError: If a picture can't be read, or the question can't be answered.
            EngineError: If the engine failed.
        """
        found = read_line(line)
        self.attach(found.pictures)
        for name in found.missing:
            self.note(f"note: there is no image file {name}, so it is sent as text")
        if found.text:
            self.ask(found.text)
        elif found.pictures:
            self.note(f"{_pictures(len(self.waiting))} attached: now ask a question")

    def ask(self, text: str) -> None:
        """Asks a question about the pictures that wait, and writes the answer.

        An answer that Ctrl-C ends is kept as far as it is.  If there is none, the
        question is taken back, and its pictures wait again.

        Raises:
            MllamaError: If the question can't be answered.
            EngineError: If the engine failed.
            KeyboardInterrupt: If Ctrl-C ends the answer.
        """
        pictures, self.waiting = self.waiting, []
        turns = list(self.transcript.turns)
        self.transcript.add_question(text, pictures)
        try:
            self.answer()
        except BaseException:
            if self.transcript.turns[-1]["role"] == "user":
                self.transcript.turns = turns
                self.waiting = pictures
            raise

    def answer(self) -> None:
        """Writes the answer to the last message, and adds it to the transcript.

        Raises:
            MllamaError: If there is none.
            EngineError: If the engine failed.
            KeyboardInterrupt: If Ctrl-C ends it.
        """
        pieces: list[str] = []
        end: AnswerEnd | None = None
        answer = self.backend.answer(self.transcript.messages, self.settings)
        try:
            with closing(answer):
                for piece in answer:
                    if isinstance(piece, AnswerEnd):
                        end = piece
                        continue
                    pieces.append(piece)
                    self.stream.write(visible(piece))
                    self.stream.flush()
        except PromptTooLongError as error:
            raise MllamaError(f"{error}; {WAY_OUT}") from error
        finally:
            if pieces or end is not None:
                self.stream.write("\n")
                self.stream.flush()
                self.transcript.add_answer("".join(pieces))
        if end is not None:
            self._report(end)

    def _report(self, end: AnswerEnd) -> None:
        if end.finish_reason == "length":
            self.note(
                "note: the answer has reached max_new_tokens"
                if self.settings.limits_answers
                else f"note: the context is full; {WAY_OUT}"
            )
        elif end.finish_reason not in ("stop", "tool_calls"):
            self.note(f"note: the answer ended with {end.finish_reason!r}")
        if self.is_verbose:
            self.note(f"[{end.figures()}]")

    def retry(self) -> None:
        """Answers the last question again.

        If that fails, the earlier answer stays.

        Raises:
            MllamaError: If there is no question, or it can't be answered.
            EngineError: If the engine failed.
            KeyboardInterrupt: If Ctrl-C ends the answer.
        """
        turns = list(self.transcript.turns)
        question = list(turns)
        while question and question[-1]["role"] == "assistant":
            question.pop()
        if not question:
            raise MllamaError("there is no question to answer again")
        self.transcript.turns = list(question)
        try:
            self.answer()
        finally:
            if self.transcript.turns == question:
                self.transcript.turns = turns

    def describe(self) -> list[str]:
        """Returns lines that say what the chat is like."""
        turns = len(self.transcript.turns)
        pictures = self.transcript.pictures
        return [
            f"model     {self.backend.name}",
            f"system    {self.transcript.system or '(none)'}",
            f"messages  {turns}, with {_pictures(pictures)}",
            f"waiting   {_pictures(len(self.waiting))} for the next question",
            f"verbose   {'on' if self.is_verbose else 'off'}",
        ]


def _pictures(count: int) -> str:
    return f"{count} picture{'' if count == 1 else 's'}"
