"""A response's body to a request of this package."""

from __future__ import annotations

from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.sampling_params import Sampling
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.openai.responses.body import LOGPROBS, ResponsesBody
from mllama.server.dialects.openai.responses.conversation import (
    ends_in_answer,
    goes_on,
    image_references,
    messages_of,
)
from mllama.server.dialects.openai.responses.tool_fields import (
    nested_choice,
    nested_tools,
)
from mllama.server.dialects.openai.sampling_translation import (
    check_sampling,
    sampling_of,
)
from mllama.server.model_names import check_model
from mllama.server.request_images import check_image_count


def check_response(body: ResponsesBody, capabilities: ServerCapabilities) -> None:
    """Checks what the model of a body alone can't know.

    Raises:
        RequestRejected: If fields contradict each other, or exceed the server's limits.
    """
    check_model(body.model, capabilities.model_name)
    check_sampling(body, capabilities)
    if body.stream_options is not None and not body.stream:
        raise RequestRejected(
            "`stream_options` needs `stream` to be true.",
            "stream_options",
            code="invalid_value",
        )
    if body.top_logprobs and not body.has_logprobs:
        raise RequestRejected(
            f"`top_logprobs` needs `{LOGPROBS}` in `include`.",
            "top_logprobs",
            code="invalid_value",
        )
    images = image_references(body)
    check_image_count(len(images), capabilities.max_images, "input")


def response_prompt(
    body: ResponsesBody, capabilities: ServerCapabilities
) -> ChatPrompt:
    """Returns the prompt of a valid body.

    An answer begins a new turn after a complete message of the assistant, as in
    OpenAI's API, and goes on with one that was cut short.

    Raises:
        RequestRejected: If calls and their results don't match.
        RequestError: If a call's arguments are no JSON object, or a chosen function is
            none of the request's.
    """
    is_open = not goes_on(body) and ends_in_answer(body)
    return ChatPrompt(
        messages=messages_of(body),
        tools=nested_tools(body.tools),
        tool_choice=nested_choice(body.tool_choice),
        parallel_tool_calls=body.parallel_tool_calls,
        add_generation_prompt=True
        if is_open and capabilities.continues_messages
        else None,
        continue_final_message=goes_on(body) and capabilities.continues_messages,
    )


def response_sampling(
    body: ResponsesBody, capabilities: ServerCapabilities
) -> Sampling:
    """Returns how the answer's tokens are chosen.

    Raises:
        RequestError: If values are wrong together.
    """
    longest = body.max_output_tokens
    return sampling_of(
        body,
        capabilities,
        max_new_tokens=capabilities.max_new_tokens if longest is None else longest,
        logprobs=(body.top_logprobs or 0) if body.has_logprobs else None,
        prompt_logprobs=None,
    )
