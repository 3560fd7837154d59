"""instructor: Pydantic models of answers, by forced calls of tools and by schemas."""

from typing import Any, Literal

import instructor
from openai import OpenAI
from picture import QUESTION, data_url
from pydantic import BaseModel, Field

MODEL = "meta-llama/Llama-3.2-11B-Vision-Instruct"
PICTURE: Any = [
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": data_url()}},
            {"type": "text", "text": QUESTION},
        ],
    }
]


class Shape(BaseModel, extra="forbid"):
    """A shape in the picture."""

    kind: Literal["circle", "square", "star"]
    color: str = Field(max_length=12)


class Picture(BaseModel, extra="forbid"):
    """What the picture shows."""

    shapes: list[Shape] = Field(min_length=1, max_length=2)
    is_drawn: bool
    confidence: int = Field(ge=0, le=100)


def ask(url: str, mode: instructor.Mode, **options: Any) -> Any:
    client = instructor.from_openai(
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0), mode=mode
    )
    return client.chat.completions.create(
        **{
            "model": MODEL,
            "messages": PICTURE,
            "response_model": Picture,
            "max_retries": 0,
            "max_tokens": 300,
            **options,
        }
    )


def check_a_model_by_a_forced_call(url: str) -> None:
    for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT):
        assert isinstance(ask(url, mode), Picture)


def check_a_model_by_a_schema(url: str) -> None:
    assert isinstance(ask(url, instructor.Mode.JSON_SCHEMA), Picture)


def check_a_model_that_grows_in_a_stream(url: str) -> None:
    client = instructor.from_openai(
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    )
    grown = list(
        client.chat.completions.create_partial(
            model=MODEL,
            messages=PICTURE,
            response_model=Picture,
            max_retries=0,
            max_tokens=300,
        )
    )
    assert len(grown) > 2
    Picture.model_validate(grown[-1].model_dump())


def check_sampled_models(url: str) -> None:
    for seed in range(3):
        answer = ask(url, instructor.Mode.TOOLS, temperature=1.5, seed=seed)
        assert isinstance(answer, Picture)
