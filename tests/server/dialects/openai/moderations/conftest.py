"""The moderation API over an engine that lists given hazards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest
from openai.types import ModerationCreateResponse

from mllama.server.dialects.openai.moderations.answers import Moderation
from mllama.server.dialects.openai.moderations.hazards import HAZARDS
from tests.server.dialects.fake_engine import FakeEngine
from tests.server.dialects.in_process import InProcessServer


class Moderations(InProcessServer):
    """A server in this process, of a Llama Guard that gives one verdict."""

    def __init__(self, text: str = "unsafe\nS1", **capabilities: Any) -> None:
        super().__init__(FakeEngine(text))
        self.capabilities = replace(
            self.capabilities, **{"hazards": tuple(HAZARDS), **capabilities}
        )

    def ask(self, judged: Any = "Hi", **fields: Any) -> httpx.Response:
        return self.post("/v1/moderations", {"input": judged, **fields})

    def results(self, judged: Any = "Hi", **fields: Any) -> list[Any]:
        """The results of a request, which must be valid for OpenAI's SDK too."""
        response = self.ask(judged, **fields)
        assert response.status_code == 200, response.text
        answer = response.json()
        Moderation.model_validate(answer, strict=True)
        ModerationCreateResponse.model_validate(answer, strict=True)
        assert answer["id"].startswith("modr-")
        assert answer["model"] == "served"
        return list(answer["results"])

    def decide(self, place: int, probabilities: Mapping[bytes, float]) -> None:
        """Sets the probabilities of tokens in a place of the answer."""
        tops = {token[0]: math.log(p) for token, p in probabilities.items()}
        self.engine.likeliest = {**self.engine.likeliest, place: tops}


@pytest.fixture
def api() -> Moderations:
    return Moderations()
