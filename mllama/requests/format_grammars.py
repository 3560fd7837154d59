"""The grammars of the formats that requests ask for, each made once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Final

import numpy as np

from mllama.errors import RequestError
from mllama.grammars.reader_process import GrammarReader, UnreadableGrammarError
from mllama.requests.answer_matcher import (
    GrammarError,
)
from mllama.requests.output_format import OutputFormat
from mllama.requests.token_grammars import (
    LIMITS,
    TokenGrammars,
)
from mllama.utils.fair_threads import FairThreads

MAX_KEPT_CHARACTERS: Final = 4 << 20
"""Characters of the grammars and formats that are kept."""

CHECKED_TOKENS: Final = 4
"""Tokens of an answer that a new grammar is tried with."""


class FormatGrammars:
    """Turns formats into grammars that are known to work.

    Args:
        token_grammars: Makes the reader of grammars, once a format is asked for.
    """

    def __init__(self, token_grammars: Callable[[], TokenGrammars]) -> None:
        self._make = token_grammars
        self._kept: OrderedDict[OutputFormat, str] = OrderedDict()
        self._kept_characters = 0

    async def grammar(self, output_format: OutputFormat) -> str:
        """Returns the grammar of a format; a new one is made in another
        process.

        Raises:
            RequestError: If the format can't be honored within the limits.
            EngineOverloadedError: If its client waits too long for its turn.
        """
        kept = self._kept.get(output_format)
        if kept is not None:
            return kept
        made = self._thread.submit(partial(self._made, output_format))
        return await asyncio.wrap_future(made)

    def _made(self, output_format: OutputFormat) -> str:
        kept = self._kept.get(output_format)
        if kept is not None:
            return kept
        path = output_format.path
        try:
            grammar = self._reader.read(
                output_format.kind,
                output_format.source,
                is_strict=output_format.is_strict,
                path=path,
            )
            self._token_grammars.check(grammar, CHECKED_TOKENS)
        except (GrammarError, UnreadableGrammarError) as error:
            raise RequestError(
                f"{path} is no grammar, or too large: {error}", path
            ) from error
        self._keep(output_format, grammar)
        return grammar

    def failure(self, grammar: str, answer: Sequence[int]) -> str | None:
        """Returns why a grammar can't go on after an answer so far.

        A grammar may exceed a limit after any number of tokens.

        Args:
            grammar: The grammar.
            answer: The answer's tokens.

        Returns:
            The reason in one line, or None if the grammar goes on.
        """
        try:
            self._token_grammars.matcher(grammar).bitmask(np.array(answer, np.int64))
        except GrammarError as error:
            return str(error)
        return None

    def close(self) -> None:
        """Gives up what is being made, at the end of a server, which would wait."""
        self._thread.shutdown()
        if "_reader" in vars(self):
            self._reader.close()

    @cached_property
    def _token_grammars(self) -> TokenGrammars:
        return self._make()

    @cached_property
    def _thread(self) -> FairThreads:
        # One at a time, so that hostile ones take no more than one core, and not one of
        # asyncio's threads, which others need meanwhile.
        return FairThreads(1, "mllama-formats")

    @cached_property
    def _reader(self) -> GrammarReader:
        return GrammarReader(self._token_grammars.vocabulary, LIMITS)

    def _keep(self, output_format: OutputFormat, grammar: str) -> None:
        self._kept[output_format] = grammar
        self._kept_characters += len(output_format.source) + len(grammar)
        while self._kept_characters > MAX_KEPT_CHARACTERS:
            oldest, text = self._kept.popitem(last=False)
            self._kept_characters -= len(oldest.source) + len(text)
