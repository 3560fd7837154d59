"""Conversations in files, in the form that ``mllama generate --messages`` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mllama.cli.chat_session.pictures import prepare_data_url
from mllama.cli.chat_session.transcript import Transcript
from mllama.errors import MllamaError, shortened
from mllama.utils.atomic_file import write_small_file


def save(transcript: Transcript, file: Path) -> None:
    """Writes a conversation; its pictures are in the file.

    Raises:
        MllamaError: If the file can't be written.
    """
    text = json.dumps(transcript.messages, ensure_ascii=False, indent=1)
    try:
        write_small_file(file, f"{text}\n".encode("utf-8", "replace"))
    except (OSError, ValueError) as error:
        raise _unusable(file, "written", error) from error


def load(file: Path) -> Transcript:
    """Reads a conversation and its pictures.

    Raises:
        MllamaError: If the file can't be read, is no conversation, or a picture of it
            can't be used.
    """
    from mllama.requests.messages import read_conversation

    name = shortened(str(file))
    try:
        messages = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise _unusable(file, "read", error) from error
    except (ValueError, RecursionError) as error:
        raise MllamaError(f"{name} is not JSON: {error}") from error
    if not isinstance(messages, list) or not messages:
        raise MllamaError(f"{name} is not a list of messages")
    if isinstance(messages[0], list):
        raise MllamaError(f"{name} has several conversations; a chat is one")
    try:
        read = read_conversation(messages, file.parent, prepare=prepare_data_url)
    except MllamaError as error:
        raise type(error)(f"{name}: {error}") from error
    urls = iter(read.images)
    turns = [_with_pictures(message, urls) for message in read.messages]
    system = None
    if turns[0]["role"] == "system" and isinstance(turns[0]["content"], str):
        system = turns.pop(0)["content"]
    return Transcript(system, turns)


def _with_pictures(message: dict[str, Any], urls: Any) -> dict[str, Any]:
    """Returns a message with the next pictures in the places of their parts."""
    if isinstance(message["content"], str):
        return message
    return {
        **message,
        "content": [
            {"type": "image_url", "image_url": {"url": next(urls)}}
            if part["type"] == "image"
            else part
            for part in message["content"]
        ],
    }


def _unusable(file: Path, verb: str, error: Exception) -> MllamaError:
    reason = getattr(error, "strerror", None) or error
    return MllamaError(f"{shortened(str(file))} can't be {verb}: {reason}")
