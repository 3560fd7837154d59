"""The commands of a chat: lines that begin with a slash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mllama.cli.chat_session.chat import Chat
from mllama.cli.chat_session.picture_paths import read_line
from mllama.cli.chat_session.settings import DEFAULT
from mllama.cli.chat_session.transcript_file import load, save
from mllama.errors import MllamaError, shortened


class Leave(Exception):
    """The user leaves the chat."""


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        name: Its name, without the slash.
        arguments: How its arguments are written.
        description: Its effect.
        run: Runs it with the text behind its name.
    """

    name: str
    arguments: str
    description: str
    run: Callable[[Chat, str], None]


def run_command(chat: Chat, line: str) -> bool:
    """Runs a line if it is a command.

    A line that begins with a path is none: "/tmp/photo.jpg What is it?".

    Returns:
        Whether it is one.

    Raises:
        Leave: If the user leaves.
        MllamaError: If there is no such command, or it fails.
    """
    if not line.startswith("/"):
        return False
    name, _, argument = line[1:].partition(" ")
    command = _BY_NAME.get(name)
    if command is None:
        if "/" in name or read_line(line).pictures:
            return False
        raise MllamaError(f"there is no command /{shortened(name)}; /help lists them")
    if argument.strip() and not command.arguments:
        raise MllamaError(f"/{name} takes no argument")
    command.run(chat, argument.strip())
    return True


def _image(chat: Chat, argument: str) -> None:
    if not argument:
        raise MllamaError("/image takes the path or the URL of a picture")
    is_url = argument.lower().startswith(("http://", "https://"))
    chat.attach([argument if is_url else _path(argument)])
    chat.note("attached: now ask a question")


def _path(argument: str) -> Path:
    """Returns the path that is typed, in whatever form a terminal pastes it."""
    path = Path(argument).expanduser()
    if path.exists():
        return path
    found = read_line(argument)
    if len(found.pictures) == 1 and not found.text:
        return Path(found.pictures[0])
    return Path(argument.strip("'\"")).expanduser()


def _system(chat: Chat, argument: str) -> None:
    chat.transcript.system = argument or None
    chat.note("system prompt set" if argument else "system prompt removed")


def _set(chat: Chat, argument: str) -> None:
    name, _, value = argument.partition(" ")
    value = value.strip()
    if not name:
        chat.note("\n".join(chat.settings.describe()))
        chat.note(f"verbose: {'on' if chat.is_verbose else 'off'}")
    elif name == "verbose":
        if value not in ("", "on", "off"):
            raise MllamaError(f"verbose is on or off, not {shortened(value)}")
        chat.is_verbose = value != "off"
        chat.note(f"verbose is {'on' if chat.is_verbose else 'off'}")
    elif not value:
        raise MllamaError(f"/set {shortened(name)} takes a value, or {DEFAULT!r}")
    else:
        chat.settings.set(name, value)
        chat.note(f"{name} is {value}")


def _clear(chat: Chat, argument: str) -> None:
    chat.transcript.clear()
    chat.waiting.clear()
    chat.note("cleared; the system prompt and the settings stay")


def _save(chat: Chat, argument: str) -> None:
    if not argument:
        raise MllamaError("/save takes the name of a file")
    if not chat.transcript.turns:
        raise MllamaError("there is nothing to save yet")
    file = Path(argument).expanduser()
    if file.exists() and not (chat.file is not None and _is_same(file, chat.file)):
        raise MllamaError(f"{shortened(argument)} exists; give another name")
    save(chat.transcript, file)
    chat.file = file
    chat.note(f"saved {len(chat.transcript.messages)} messages to {argument}")


def _is_same(file: Path, other: Path) -> bool:
    return file.resolve() == other.resolve()


def _load(chat: Chat, argument: str) -> None:
    if not argument:
        raise MllamaError("/load takes the name of a file")
    file = Path(argument).expanduser()
    chat.transcript = load(file)
    chat.file = file
    chat.waiting.clear()
    chat.note(f"loaded {len(chat.transcript.messages)} messages from {argument}")


def _retry(chat: Chat, argument: str) -> None:
    chat.retry()


def _show(chat: Chat, argument: str) -> None:
    chat.note("\n".join(chat.describe()))


def _help(chat: Chat, argument: str) -> None:
    lines = [(f"/{each.name} {each.arguments}", each.description) for each in COMMANDS]
    width = max(len(usage) for usage, _ in lines)
    chat.note("\n".join(f"{usage:{width}}  {text}" for usage, text in lines))
    chat.note(
        "\nA path or URL of a picture in a line attaches the picture.\n"
        'Alt+Enter begins another line, and a text within """ has several.\n'
        "Ctrl-C stops an answer, Ctrl-D leaves."
    )


def _leave(chat: Chat, argument: str) -> None:
    raise Leave


COMMANDS: Final = (
    Command("image", "PATH|URL", "Attach a picture to the next question.", _image),
    Command("system", "[TEXT]", "Set the system prompt, or remove it.", _system),
    Command("set", "[NAME VALUE]", "Change a setting, or show all.", _set),
    Command("retry", "", "Answer the last question again.", _retry),
    Command("clear", "", "Begin anew.", _clear),
    Command("save", "FILE", "Write the conversation and its pictures.", _save),
    Command("load", "FILE", "Go on with a conversation of a file.", _load),
    Command("show", "", "Show the model, the system prompt and the figures.", _show),
    Command("help", "", "Show this.", _help),
    Command("bye", "", "Leave.", _leave),
    Command("exit", "", "Leave.", _leave),
)
"""All commands, in the order of the help."""

_BY_NAME: Final = {each.name: each for each in COMMANDS} | {
    "?": Command("?", "", "Show this.", _help)
}
