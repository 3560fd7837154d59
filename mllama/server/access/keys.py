"""Keys that clients send, and those that the server accepts."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from starlette.datastructures import Headers

from mllama.errors import MllamaError

_SCHEME = "bearer "


class KeyRing:
    """Keys, of which only the digests are kept.

    Args:
        keys: The keys.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(dict.fromkeys(map(key_digest, keys)))

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accepts(self, key: str | None) -> bool:
        """Returns True if a key is one of these.

        How long it takes doesn't tell which key is similar to it.
        """
        given = key_digest(key or "")
        matches = [hmac.compare_digest(given, each) for each in self._digests]
        return key is not None and any(matches)


def key_digest(key: str) -> bytes:
    """Returns the digest by which a key is known."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def key_of(headers: Headers) -> str | None:
    """Returns the key that a client sends, or None.

    OpenAI's and Ollama's clients send ``Authorization: Bearer KEY``, Anthropic's
    ``x-api-key: KEY``.
    """
    authorization = headers.get("authorization", "")
    if authorization[: len(_SCHEME)].lower() == _SCHEME:
        return authorization[len(_SCHEME) :].strip()
    return headers.get("x-api-key")


def read_keys(
    given: Iterable[str], file: str | None, variable: str | None
) -> tuple[str, ...]:
    """Returns the keys that a server is started with.

    Args:
        given: Keys of the command line.
        file: A file with a key in each line; empty lines and those that begin with
            ``#`` are none.
        variable: The value of an environment variable: keys with commas between them.

    Raises:
        MllamaError: If the file can't be read or has no key, or a key can't be sent.
    """
    keys = [
        *given,
        *(key.strip() for key in (variable or "").split(",") if key.strip()),
    ]
    if file is not None:
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise MllamaError(
                f"--api-key-file {file} can't be read: {error}"
            ) from error
        found = [line.strip() for line in lines]
        found = [line for line in found if line and not line.startswith("#")]
        if not found:
            raise MllamaError(f"--api-key-file {file} has no key")
        keys += found
    for key in keys:
        if not key.isascii() or not key.isprintable() or " " in key or not key:
            raise MllamaError(
                "a key must be printable ASCII characters without spaces, which "
                "clients can send in a header"
            )
    return tuple(keys)
