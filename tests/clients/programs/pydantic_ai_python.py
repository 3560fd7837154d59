"""Pydantic AI: agents with outputs that are Pydantic models, and with tools."""

from typing import Any, Literal

from picture import ANSWER, QUESTION, png
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput, ToolOutput
from pydantic_ai.direct import model_request_sync
from pydantic_ai.messages import (
    ModelRequest,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.tools import ToolDefinition

MODEL = "meta-llama/Llama-3.2-11B-Vision-Instruct"
PICTURE: Any = [BinaryContent(png(), media_type="image/png"), QUESTION]


class Shape(BaseModel):
    """A shape in the picture."""

    kind: Literal["circle", "square", "star"]
    color: Literal["red", "blue"]


class Picture(BaseModel):
    """What the picture shows.

    It has no lists and texts: of strict schemas Pydantic AI removes their limits, and
    the demo model doesn't end them by itself.
    """

    left: Shape
    right: Shape
    is_drawn: bool


def agent(url: str, **options: Any) -> Any:
    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="none")
    return Agent(
        OpenAIChatModel(MODEL, provider=provider),
        model_settings={"max_tokens": 300, "parallel_tool_calls": False},
        retries=0,
        **options,
    )


def check_a_text(url: str) -> None:
    assert agent(url).run_sync(PICTURE).output == ANSWER


def check_an_output_by_a_forced_call(url: str) -> None:
    for output in (Picture, ToolOutput(Picture, strict=True)):
        result = agent(url, output_type=output).run_sync(PICTURE)
        assert isinstance(result.output, Picture)
        assert result.usage.output_tokens > 1


def check_an_output_by_a_schema(url: str) -> None:
    result = agent(url, output_type=NativeOutput(Picture)).run_sync(PICTURE)
    assert isinstance(result.output, Picture)


def check_an_output_in_a_stream(url: str) -> None:
    with agent(url, output_type=Picture).run_stream_sync(PICTURE) as result:
        assert isinstance(result.get_output(), Picture)


def check_an_agent_with_tools(url: str) -> None:
    counting = agent(url)

    @counting.tool_plain
    def count_shapes(color: str) -> int:
        """Counts the shapes of a color."""
        return len(color)

    assert counting.run_sync(PICTURE).output


def check_the_responses_api(url: str) -> None:
    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="none")
    model = OpenAIResponsesModel(MODEL, provider=provider)
    options: Any = {"model_settings": {"max_tokens": 300}, "retries": 0}
    first = Agent(model, **options).run_sync(PICTURE)
    assert first.output == ANSWER
    again = Agent(model, **options).run_sync(
        QUESTION, message_history=first.all_messages()
    )
    assert again.output
    for output in (Picture, NativeOutput(Picture)):
        result = Agent(model, output_type=output, **options).run_sync(PICTURE)
        assert isinstance(result.output, Picture)


def check_a_forced_call_whose_result_goes_back(url: str) -> None:
    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="none")
    model = OpenAIChatModel(MODEL, provider=provider)
    tool = ToolDefinition(
        name="count_shapes",
        description="Counts the shapes of a color.",
        parameters_json_schema={
            "type": "object",
            "properties": {"color": {"enum": ["red", "blue"]}},
            "required": ["color"],
        },
    )
    parameters = ModelRequestParameters(function_tools=[tool])
    messages: Any = [ModelRequest([UserPromptPart(PICTURE)])]
    response = model_request_sync(
        model,
        messages,
        model_settings={
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "max_tokens": 300,
        },
        model_request_parameters=parameters,
    )
    (call,) = response.parts
    assert isinstance(call, ToolCallPart)
    assert call.tool_name == "count_shapes"
    assert call.args_as_dict()["color"] in ("red", "blue")
    assert response.finish_reason == "tool_call"
    result = ToolReturnPart(call.tool_name, 1, tool_call_id=call.tool_call_id)
    messages += [response, ModelRequest([result])]
    answer = model_request_sync(
        model,
        messages,
        model_settings={"tool_choice": "none", "max_tokens": 8},
        model_request_parameters=parameters,
    )
    assert answer.parts
