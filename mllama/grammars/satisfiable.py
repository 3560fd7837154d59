"""Finds out whether a regular expression with several conditions matches anything."""

from __future__ import annotations

from functools import cache
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from mllama.grammars.lark import lark_of
from mllama.grammars.nodes import ROOT, Node


class _Bytes:
    """A vocabulary of all bytes and an end."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = 256

    def __init__(self) -> None:
        self.tokens = [bytes([byte]) for byte in range(256)] + [b"<end>"]
        self.special_token_ids = [self.eos_token_id]

    def __call__(self, text: bytes | str) -> list[int]:
        """Returns the tokens of a text."""
        return list(text.encode() if isinstance(text, str) else text)


@cache
def _byte_tokenizer() -> Any:
    return LLTokenizer(_Bytes(), n_vocab=257, eos_token=[256], slices=[])


def is_satisfiable(node: Node) -> bool:
    """Returns True if a terminal has a text.

    One that is too complex counts as one that has: whoever reads the grammar refuses
    it.
    """
    matcher = LLMatcher(_byte_tokenizer(), lark_of({ROOT: node}), log_level=0)
    if matcher.is_error():
        return True
    matcher.compute_bitmask()
    return bool(matcher.is_accepting() or not matcher.is_stopped())
