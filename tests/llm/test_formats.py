"""Answers of the demo model in formats, through ``LLM``."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import jsonschema
import pytest
from PIL import Image
from pydantic import BaseModel, Field

from mllama import LLM
from mllama.errors import MllamaError, RequestError
from tests.grammars.walking import RUNAWAY_GRAMMAR, only_b

pytestmark = pytest.mark.compiles

QUESTION = "What is in the picture?"


class Shape(BaseModel):
    name: Literal["circle", "square"]
    color: str = Field(max_length=12)
    count: int = Field(ge=0, le=9)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 1.3, "seed": 7},
        {"top_k": 30, "seed": 8, "presence_penalty": 1.0, "logit_bias": {20: 2.0}},
        {"min_tokens": 40},
    ],
)
def test_a_class_of_pydantic_is_a_schema(
    llm: LLM, pictures: list[Image.Image], settings: Any
) -> None:
    output = llm.generate(
        QUESTION, pictures, guided_json=Shape, max_new_tokens=100, **settings
    )
    assert output.finish_reason == "stop"
    Shape.model_validate_json(output.text)


def test_several_answers_and_streams_have_the_format(
    llm: LLM, pictures: list[Image.Image]
) -> None:
    schema = Shape.model_json_schema()
    output = llm.generate(
        QUESTION, pictures, guided_json=schema, n=3, seed=1, max_new_tokens=100
    )
    assert len(output.choices) == 3
    for choice in output.choices:
        jsonschema.validate(json.loads(choice.text), schema)
    named = {"name": "shape", "schema": schema, "strict": True}
    response_format = {"type": "json_schema", "json_schema": named}
    text = ""
    for chunk in llm.generate(
        QUESTION,
        pictures,
        stream=True,
        response_format=response_format,
        logprobs=2,
        max_new_tokens=100,
    ):
        text += chunk.text
    Shape.model_validate_json(text)


def test_expressions_choices_and_grammars(llm: LLM) -> None:
    pattern = r"[A-Z][a-z]{2,9} (circle|square)\."
    output = llm.generate("Hi", guided_regex=pattern, max_new_tokens=60)
    assert re.fullmatch(pattern, output.text)
    output = llm.complete("Hi", guided_choice=["red", "blue"], max_new_tokens=60)
    assert output.text in ("red", "blue")
    for grammar in ('start: "<" /[0-9]{2}/ ">"', 'root ::= "<" [0-9] [0-9] ">"'):
        output = llm.generate("Hi", guided_grammar=grammar, max_new_tokens=60)
        assert re.fullmatch("<[0-9]{2}>", output.text)


def test_a_list_of_conversations_has_the_format(llm: LLM) -> None:
    conversations = [[{"role": "user", "content": f"Number {n}"}] for n in range(3)]
    outputs = llm.chat(conversations, guided_json=Shape, max_new_tokens=100)
    for output in outputs:
        Shape.model_validate_json(output.text)


def test_an_answer_is_cut_at_its_length(llm: LLM) -> None:
    output = llm.generate("Hi", guided_json=Shape, max_new_tokens=3)
    assert output.finish_reason == "length"


def test_a_grammar_may_exceed_a_limit_in_mid_answer(llm: LLM) -> None:
    bias = {int(token): value for token, value in only_b().items()}
    with pytest.raises(RequestError, match="guided_grammar exceeds a limit") as caught:
        llm.generate(
            "Hello",
            guided_grammar=RUNAWAY_GRAMMAR,
            logit_bias=bias,
            max_new_tokens=60,
        )
    assert caught.value.param == "guided_grammar"
    assert "\n" not in str(caught.value)
    # The engine goes on.
    assert llm.generate("Hello", guided_regex="[a-c]{3}").text.strip("abc") == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guided_json": {"not": {}}}, "guided_json.not is not supported"),
        ({"guided_json": "{"}, "guided_json is no JSON"),
        ({"guided_regex": "("}, "guided_regex is no regular expression"),
        ({"guided_grammar": "nonsense"}, "guided_grammar is no grammar"),
        ({"guided_choice": ["a"], "guided_regex": "a"}, "can't be combined"),
        ({"guided_json": Shape, "stop": "x"}, "stop can't be combined"),
        ({"response_format": {"type": "xml"}}, "response_format must have the type"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "schema"),
    ],
)
def test_what_can_not_be_honored_is_refused(
    llm: LLM, settings: Any, message: str
) -> None:
    with pytest.raises(MllamaError, match=re.escape(message)):
        llm.generate("Hi", **settings)
