"""Tokens as text, and their log probabilities in both forms of OpenAI's API."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from mllama.requests.events import TokenLogprob
from mllama.server.json_response import JsonText, json_text

TokenBytes = Callable[[int], bytes]
"""Returns what a token stands for."""

FEW_TOKENS: Final = 64
"""Tokens whose log probabilities are written at once, in about a millisecond."""


def token_string(content: bytes) -> str:
    """Returns a token's text; parts of characters are escaped, as ``\\\\xf0``."""
    return content.decode(errors="backslashreplace")


def chat_entry(token: TokenLogprob, token_bytes: TokenBytes) -> dict[str, Any]:
    """Returns an entry of a chat's log probabilities."""
    return {
        **_chat_token(token.token_id, token.logprob, token_bytes),
        "top_logprobs": [
            _chat_token(token_id, logprob, token_bytes)
            for token_id, logprob in token.top.items()
        ],
    }


def _chat_token(
    token_id: int, logprob: float, token_bytes: TokenBytes
) -> dict[str, Any]:
    content = token_bytes(token_id)
    return {
        "token": token_string(content),
        "logprob": logprob,
        "bytes": list(content),
    }


def limited(
    tokens: Sequence[TokenLogprob | None], most: int
) -> list[TokenLogprob | None]:
    """Returns log probabilities with at most so many likeliest tokens each."""
    return [
        token
        if token is None or len(token.top) <= most
        else replace(token, top=dict(islice(token.top.items(), most)))
        for token in tokens
    ]


def prompt_entries(
    tokens: Sequence[TokenLogprob | None], token_bytes: TokenBytes
) -> Generator[None, None, list[JsonText]]:
    """Returns log probabilities of a prompt's tokens by their ids, as vLLM does.

    Yields in between, because there may be many.
    """
    entries: list[JsonText] = []
    for start in range(0, len(tokens), FEW_TOKENS):
        if start:
            yield
        entries += [
            json_text(token and _prompt_entry(token, token_bytes))
            for token in tokens[start : start + FEW_TOKENS]
        ]
    return entries


def _prompt_entry(
    token: TokenLogprob, token_bytes: TokenBytes
) -> dict[str, dict[str, Any]]:
    return {
        str(token_id): {
            "logprob": logprob,
            "decoded_token": token_string(token_bytes(token_id)),
        }
        for token_id, logprob in _with_own(token).items()
    }


def _with_own(token: TokenLogprob) -> dict[int, float]:
    """Returns the log probabilities of the likeliest tokens and of the token itself."""
    return {**token.top, token.token_id: token.logprob}


class CompletionLogprobsWriter:
    """Writes the log probabilities of one text of a completion.

    Args:
        token_bytes: Returns what a token stands for.
        is_special: Returns True for a token that the text leaves out.
    """

    def __init__(
        self, token_bytes: TokenBytes, is_special: Callable[[int], bool]
    ) -> None:
        self._token_bytes = token_bytes
        self._is_special = is_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def write(
        self,
        token_ids: Sequence[int],
        logprobs: Sequence[TokenLogprob | None],
        prompt: str = "",
    ) -> dict[str, list[Any]]:
        """Returns the entries of the text's next tokens.

        Args:
            token_ids: The tokens.
            logprobs: Their log probabilities; None where there is none.
            prompt: The text so far, if these are a prompt's tokens: it may have
                special tokens, which answers leave out.
        """
        tokens, offsets = [], []
        for token_id in token_ids:
            content = self._token_bytes(token_id)
            tokens.append(_completion_string(content))
            offsets.append(self._offset)
            if not self._is_special(token_id) or (
                prompt.startswith(content.decode(errors="replace"), self._offset)
            ):
                self._offset += len(self._decoder.decode(content))
        return {
            "tokens": tokens,
            "token_logprobs": [each and each.logprob for each in logprobs],
            "top_logprobs": [each and self._by_string(each) for each in logprobs],
            "text_offset": offsets,
        }

    def _by_string(self, token: TokenLogprob) -> dict[str, float]:
        """Returns log probabilities by strings; of equal ones the likeliest counts."""
        found: dict[str, float] = {}
        for token_id, logprob in _with_own(token).items():
            found.setdefault(_completion_string(self._token_bytes(token_id)), logprob)
        return found


def _completion_string(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return f"bytes:{token_string(content)}"
