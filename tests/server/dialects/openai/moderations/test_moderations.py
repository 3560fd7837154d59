"""Bodies and answers of the moderation API."""

from __future__ import annotations

import asyncio
from typing import Any, get_args

import pytest
from openai.types import ModerationModel

from mllama.errors import RequestError
from mllama.requests.chat_prompt import ChatPrompt
from mllama.server.dialects.openai.moderations.hazards import CATEGORIES, HAZARDS
from mllama.server.dialects.openai.moderations.verdict import VerdictReader
from tests.server.dialects.openai.conftest import error_of

from .conftest import Moderations

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,b25l"}}
TEXT = {"type": "text", "text": "What is this?"}


def test_unsafe_content_is_flagged_by_the_hazards(api: Moderations) -> None:
    api.decide(0, {b"u": 0.9, b"s": 0.1})
    api.decide(8, {b"1": 0.8, b"2": 0.2})
    (result,) = api.results()
    assert result["flagged"]
    guard = result["llama_guard"]
    assert guard["unsafe_score"] == pytest.approx(0.9)
    assert guard["categories"] == {each: each == "S1" for each in HAZARDS}
    assert guard["category_scores"]["S1"] == pytest.approx(0.72)
    assert guard["category_scores"]["S2"] == pytest.approx(0.18)
    flagged = {name for name, value in result["categories"].items() if value}
    assert flagged == {"illicit", "illicit/violent", "violence"}
    assert result["category_scores"]["violence"] == pytest.approx(0.72)
    assert result["category_scores"]["hate"] == 0


def test_safe_content_is_not_flagged_and_has_scores(api: Moderations) -> None:
    api.decide(0, {b"u": 0.1, b"s": 0.9})
    (result,) = api.results()
    assert not result["flagged"]
    assert not any(result["categories"].values())
    assert not any(result["llama_guard"]["categories"].values())
    assert 0 < result["category_scores"]["violence"] <= 0.1


@pytest.mark.parametrize(
    ("hazards", "expected"),
    [
        ("S4", {"sexual", "sexual/minors"}),
        ("S5", {"harassment"}),
        ("S1,S5", {"harassment", "harassment/threatening"}),
        ("S10", {"hate"}),
        ("S10,S1", {"hate", "hate/threatening"}),
        ("S9", {"illicit", "illicit/violent"}),
        ("S11", {"self-harm", "self-harm/intent", "self-harm/instructions"}),
        ("S12", {"sexual"}),
        ("S6,S13", set()),
    ],
)
def test_hazards_are_openais_categories(hazards: str, expected: set[str]) -> None:
    (result,) = Moderations(f"unsafe\n{hazards}").results()
    assert result["flagged"]
    flagged = {name for name, value in result["categories"].items() if value}
    violent = {"illicit", "illicit/violent", "violence"}
    assert flagged == expected | (violent if "S1" in hazards.split(",") else set())


def test_all_hazards_in_the_table_exist() -> None:
    used = {each for category in CATEGORIES.values() for each in category.any_of}
    assert used == HAZARDS.keys() - {"S6", "S13"}


def test_one_message_of_the_user_is_judged(api: Moderations) -> None:
    api.results("Hi")
    (request,) = api.engine.requests
    assert isinstance(request.prompt, ChatPrompt)
    assert request.prompt.messages == [{"role": "user", "content": "Hi"}]
    assert request.output_format is not None
    assert (request.sampling.temperature, request.sampling.logprobs) == (0.0, 20)


def test_each_text_has_a_result_and_parts_have_one(api: Moderations) -> None:
    assert len(api.results(["a", "b", "c"])) == 3
    judged: list[Any] = [request.prompt for request in api.engine.requests]
    assert [each.messages[0]["content"] for each in judged] == ["a", "b", "c"]
    assert len(api.results([TEXT, TEXT])) == 1


def test_texts_are_judged_together(api: Moderations) -> None:
    running = 0

    async def wait() -> None:
        nonlocal running
        running = max(running, api.engine.running)
        await asyncio.sleep(0)

    api.engine.wait = wait
    assert len(api.results(["a"] * 40)) == 40
    assert running == 32
    assert api.engine.running == 0


def test_verdicts_are_read_one_by_one(
    api: Moderations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand of them at once would hold the event loop."""
    begun: list[int] = []
    read = VerdictReader.read

    def note(reader: Any, tokens: Any) -> Any:
        begun.append(len(api.engine.requests))
        return read(reader, tokens)

    monkeypatch.setattr(VerdictReader, "read", note)
    results = api.results([str(number) for number in range(100)])
    assert len(results) == len(begun) == 100
    # Long before the last text is asked about.
    assert begun[0] < 50


def test_a_picture_is_judged_with_its_text(api: Moderations) -> None:
    (result,) = api.results([TEXT, IMAGE])
    assert api.engine.images == [b"one"]
    prompt: Any = api.engine.requests[0].prompt
    assert prompt.messages[0]["content"] == [TEXT, {"type": "image"}]
    types = result["category_applied_input_types"]
    assert types["violence"] == ["text", "image"]
    assert types["hate"] == ["text"]
    assert types["violence/graphic"] == []


def test_a_picture_alone_and_by_its_url(api: Moderations) -> None:
    image = {"type": "image_url", "image_url": "http://pictures/one.png"}
    (result,) = api.results([image])
    assert api.engine.images == [b"one"]
    assert result["category_applied_input_types"]["sexual"] == ["image"]
    assert result["category_applied_input_types"]["hate"] == []


@pytest.mark.parametrize(
    "name",
    [
        None,
        "served",
        *get_args(ModerationModel),
        "meta-llama/Llama-Guard-3-11B-Vision",
    ],
)
def test_names_of_moderation_models_are_accepted(
    api: Moderations, name: str | None
) -> None:
    api.results(model=name)


def test_other_models_are_not_there(api: Moderations) -> None:
    error = error_of(api.ask(model="gpt-4o"), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")


def test_a_model_that_judges_nothing_says_how_to_serve_one() -> None:
    error = error_of(Moderations(hazards=()).ask(), 404)
    assert "no Llama Guard" in error["message"]
    assert "--model-path meta-llama/Llama-Guard-3-11B-Vision" in error["message"]
    assert error["param"] == "model"


def test_hazards_are_those_of_the_template() -> None:
    (result,) = Moderations("unsafe\nS2", hazards=("S2", "S14")).results()
    assert result["llama_guard"]["categories"] == {"S2": True, "S14": False}
    assert result["categories"]["illicit"]


@pytest.mark.parametrize(
    ("judged", "param", "message"),
    [
        (None, "input", "required"),
        (5, "input", "must be a text, a list of texts or a list of parts"),
        ([], "input", "must not be empty"),
        (["a", 5], "input[1]", "must be a string"),
        (["a"] * 1001, "input", "at most 1000 entries"),
        (["a", TEXT], "input[1]", "must be a string"),
        ([TEXT, "a"], "input[1]", "a list has texts only, or parts only"),
        ([{"type": "audio"}], "input[0]", "of type text or image_url"),
        ([{**TEXT, "size": 1}], "input[0].size", "not a field"),
        ([IMAGE] * 5, "input", "at most 4"),
    ],
)
def test_what_is_wrong_is_named(
    api: Moderations, judged: Any, param: str, message: str
) -> None:
    error = error_of(api.ask(judged))
    assert error["param"] == param
    assert message in error["message"]
    assert not api.engine.requests


def test_a_broken_picture_is_named(api: Moderations) -> None:
    broken = {"type": "image_url", "image_url": {"url": "data:;base64,YnJva2Vu"}}
    error = error_of(api.ask([TEXT, IMAGE, broken]))
    assert error["param"] == "input[2].image_url"
    assert "image 2" in error["message"]


def test_what_the_template_refuses_is_about_the_input(api: Moderations) -> None:
    api.engine.error = RequestError("shows 1 of 2 images", "messages")
    assert error_of(api.ask())["param"] == "input"


def test_an_input_that_leaves_no_room_for_a_verdict_is_an_error() -> None:
    api = Moderations("unsafe\n" + "S1," * 100)
    error = error_of(api.ask())
    assert error["code"] == "context_length_exceeded"


def test_the_requests_of_a_failed_one_end(api: Moderations) -> None:
    api.engine.error_after = 3, RuntimeError("failed")
    error_of(api.ask(["a", "b"]), 500)
    assert api.engine.running == 0
