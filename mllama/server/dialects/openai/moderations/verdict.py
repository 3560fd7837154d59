"""Reads a Llama Guard's verdict, and its scores, from log probabilities.

The model answers ``safe``, or ``unsafe`` and a line of hazards such as ``S1,S10``.  The
format of the answer always asks for the second form: the first token's log
probabilities say how likely ``safe`` would have been, and those of the hazards exist
for content that is safe, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from mllama.requests.events import TokenLogprob
from mllama.requests.output_format import OutputFormat

_SAFE: Final = b"safe"
_UNSAFE: Final = b"unsafe"
_NEWLINES: Final = b"\n"

_NEXT: Final = "next"
_END: Final = "end"

_Key = TypeVar("_Key")

TokenBytes = Callable[[int], bytes]
"""Returns what a token stands for."""


def verdict_format(hazards: Sequence[str]) -> OutputFormat:
    """Returns the format of an answer that lists hazards.

    Templates that end in the header of the answer's turn leave the empty line after it
    to the model.

    Args:
        hazards: The hazards that the model may list.
    """
    hazard = "(" + "|".join(map(re.escape, hazards)) + ")"
    more = f"(,{hazard}){{0,{len(hazards) - 1}}}"
    return OutputFormat.regex(f"\n{{0,2}}unsafe\n{hazard}{more}", path="input")


def longest_verdict(hazards: Sequence[str]) -> int:
    """Returns the most tokens of an answer: one for each byte, and the end."""
    return len("\n\nunsafe\n") + len(hazards) * (max(map(len, hazards)) + 1)


@dataclass(frozen=True)
class Verdict:
    """What a Llama Guard says of a conversation.

    Attributes:
        unsafe: The probability that it is unsafe, from 0 to 1.
        listed: The hazards that the model lists if it is.
        shares: For each hazard the probability that a list has it, from 0 to 1.
    """

    unsafe: float
    listed: tuple[str, ...]
    shares: Mapping[str, float]

    @property
    def is_unsafe(self) -> bool:
        """Returns True if unsafe is likelier than safe."""
        return self.unsafe > 0.5

    @property
    def hazards(self) -> dict[str, bool]:
        """Returns for each hazard whether the model finds it."""
        return {each: self.is_unsafe and each in self.listed for each in self.shares}

    @property
    def scores(self) -> dict[str, float]:
        """Returns for each hazard the probability that the model finds it."""
        return {each: self.unsafe * share for each, share in self.shares.items()}


class VerdictReader:
    """Reads verdicts.

    Args:
        hazards: The hazards that the model may list.
        token_bytes: Returns what a token stands for.
        is_special: Returns True for a special token, which ends an answer.
    """

    def __init__(
        self,
        hazards: Sequence[str],
        token_bytes: TokenBytes,
        is_special: Callable[[int], bool],
    ) -> None:
        self._hazards = tuple(hazards)
        self._token_bytes = token_bytes
        self._is_special = is_special

    def read(self, tokens: Sequence[TokenLogprob]) -> Verdict:
        """Returns the verdict of a whole answer of the format.

        Args:
            tokens: The answer's tokens.
        """
        listed, shares = self._read_list(tokens)
        return Verdict(self._unsafe(tokens), listed, shares)

    def _unsafe(self, tokens: Sequence[TokenLogprob]) -> float:
        """Returns the probability of ``unsafe`` where the model chooses the verdict.

        That is where a verdict is likelier than another empty line.
        """
        for token in tokens:
            logs: dict[bytes, list[float]] = {}
            for token_id, logprob in _options(token).items():
                content = self._token_bytes(token_id)
                for word in (_SAFE, _UNSAFE, _NEWLINES):
                    if not self._is_special(token_id) and _begins(word, content):
                        logs.setdefault(word, []).append(logprob)
            # What isn't among the likeliest tokens is at most as likely as the last.
            least = min(token.top.values(), default=-math.inf)
            for word in (_SAFE, _UNSAFE):
                logs.setdefault(word, [least])
            is_written = self._token_bytes(token.token_id).strip(_NEWLINES)
            if is_written or _normalized(logs).get(_NEWLINES, 0.0) < 0.5:
                return _normalized({word: logs[word] for word in (_SAFE, _UNSAFE)})[
                    _UNSAFE
                ]
        raise ValueError("the answer has no verdict")

    def _read_list(
        self, tokens: Sequence[TokenLogprob]
    ) -> tuple[tuple[str, ...], dict[str, float]]:
        """Returns the hazards of the list, and the probability of each.

        A hazard's probability is that of all lists that have it and that leave the
        written one in one token at most.
        """
        shares = dict.fromkeys(self._hazards, 0.0)
        listed: list[str] = []
        path, text = 1.0, b""
        for token in tokens:
            entry = _entry(text)
            written = self._outcome(token.token_id, text)
            if written is not None:
                found = self._outcomes(token, text, written)
                self._add(shares, listed, found, written, entry, path)
                path *= found[written]
            if written in (_NEXT, _END) and entry in shares:
                listed.append(entry)
            if written == _END:
                break
            text += self._token_bytes(token.token_id)
        else:
            # The end came without a token.
            entry = _entry(text)
            if entry in shares and entry not in listed:
                shares[entry] += path
                listed.append(entry)
        return tuple(dict.fromkeys(listed)), shares

    def _add(
        self,
        shares: dict[str, float],
        listed: Sequence[str],
        found: Mapping[str, float],
        written: str,
        entry: str | None,
        path: float,
    ) -> None:
        """Adds the probabilities of lists that are decided in one place.

        Args:
            shares: The probabilities by hazard.
            listed: Hazards that the list has already.
            found: The probabilities of what may follow.
            written: What does follow.
            entry: The list's last entry as far as it is written.
            path: The probability of what is written.
        """
        for outcome, probability in found.items():
            hazard = entry if outcome in (_NEXT, _END) else outcome
            is_open = outcome == written and outcome not in (_NEXT, _END)
            if hazard in shares and hazard not in listed and not is_open:
                shares[hazard] += path * probability

    def _outcomes(
        self, token: TokenLogprob, before: bytes, written: str
    ) -> dict[str, float]:
        """Returns the probabilities of what may follow in a list."""
        is_complete = _entry(before) in self._hazards
        logs: dict[str, list[float]] = {}
        for token_id, logprob in _options(token).items():
            outcome = self._outcome(token_id, before)
            is_possible = outcome in self._hazards or (
                is_complete and outcome in (_NEXT, _END)
            )
            if outcome is not None and (is_possible or outcome == written):
                logs.setdefault(outcome, []).append(logprob)
        return _normalized(logs)

    def _outcome(self, token_id: int, before: bytes) -> str | None:
        """Returns what a token makes of a list: its last entry, the next or the end.

        None is a token before the list.
        """
        if self._is_special(token_id):
            return _END
        content = self._token_bytes(token_id)
        if _entry(before) is not None and b"," in content:
            return _NEXT
        return _entry(before + content)


def _options(token: TokenLogprob) -> dict[int, float]:
    """Returns the log probabilities of the likeliest tokens and of the written one."""
    return {**token.top, token.token_id: token.logprob}


def _begins(word: bytes, content: bytes) -> bool:
    """Returns True if a token begins a word, or contains it and more."""
    if not content:
        return False
    return word.startswith(content) or content.startswith(word)


def _entry(text: bytes) -> str | None:
    """Returns the last entry of a list so far; None before the list begins."""
    head, newline, entries = text.lstrip(_NEWLINES).partition(_NEWLINES)
    if not newline or head != _UNSAFE:
        return None
    return entries.rpartition(b",")[2].decode(errors="replace")


def _normalized(logs: Mapping[_Key, list[float]]) -> dict[_Key, float]:
    """Returns probabilities whose sum is 1, from log probabilities of each key."""
    greatest = max(max(values) for values in logs.values())
    sums = {
        key: sum(math.exp(value - greatest) for value in values)
        for key, values in logs.items()
    }
    total = sum(sums.values())
    return {key: value / total for key, value in sums.items()}
