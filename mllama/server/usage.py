"""Counts the tokens of a request."""

from __future__ import annotations

from mllama.requests.events import Event, Finished, Piece, PromptRead


class UsageCounter:
    """Counts the tokens of a request from its events."""

    def __init__(self) -> None:
        self._prompt = self._image = self._cached = 0
        self._completion: dict[tuple[int, int], int] = {}

    def add(self, event: Event, prompt: int = 0) -> None:
        """Counts an event.

        Args:
            event: The event.
            prompt: Which of the request's prompts it is about.
        """
        if isinstance(event, Piece):
            key = (prompt, event.choice)
            count = self._completion.get(key, 0)
            self._completion[key] = count + len(event.token_ids)
        elif isinstance(event, Finished):
            self._completion[prompt, event.choice] = event.completion_tokens
        elif isinstance(event, PromptRead):
            self._prompt += event.prompt_tokens
            self._image += event.image_tokens
            self._cached += event.cached_tokens

    @property
    def completion_tokens(self) -> int:
        """Returns the number of tokens of all answers so far."""
        return sum(self._completion.values())

    @property
    def prompt_tokens(self) -> int:
        """Returns the number of tokens of all prompts that have been read."""
        return self._prompt

    @property
    def image_tokens(self) -> int:
        """Returns the number of the prompts' tokens that are images'."""
        return self._image

    @property
    def cached_tokens(self) -> int:
        """Returns the number of the prompts' tokens that the caches had."""
        return self._cached
