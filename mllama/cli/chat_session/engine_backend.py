"""Answers of a model in this process."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from mllama.cli.chat_session.backend import AnswerEnd
from mllama.cli.chat_session.interrupts import noted_interrupts
from mllama.cli.chat_session.settings import AnswerSettings

if TYPE_CHECKING:
    from mllama.llm import LLM


class EngineBackend:
    """A model in this process.

    Args:
        llm: The model.
        name: What the user calls it.
    """

    def __init__(self, llm: LLM, name: str) -> None:
        self._llm = llm
        self._name = name

    @property
    def name(self) -> str:
        """Returns the model's name."""
        return self._name

    def answer(
        self, messages: list[dict[str, Any]], settings: AnswerSettings
    ) -> Generator[str | AnswerEnd, None, None]:
        """Yields the pieces of an answer, and its end last; see :class:`Backend`.

        Raises:
            KeyboardInterrupt: If Ctrl-C was pressed, after the answer has been stopped.
        """
        hits = self._llm.image_cache.hits
        fields = settings.engine_fields
        with (
            noted_interrupts() as interrupts,
            self._llm.chat(messages, stream=True, **fields) as generation,
        ):
            interrupts.call(generation.stop)
            for chunk in generation:
                if chunk.text:
                    yield chunk.text
            if interrupts.happened:
                raise KeyboardInterrupt
            output = generation.output
        yield AnswerEnd(
            finish_reason=output.finish_reason,
            seconds_to_first_token=output.time_to_first_token_seconds,
            tokens_per_second=output.tokens_per_second,
            completion_tokens=output.completion_tokens,
            prompt_tokens=output.prompt_tokens,
            image_tokens=output.image_tokens,
            cached_tokens=output.cached_tokens,
            cached_images=self._llm.image_cache.hits - hits,
        )
