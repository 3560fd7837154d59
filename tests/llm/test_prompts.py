"""What shapes a prompt beside its messages reaches the model."""

from __future__ import annotations

from typing import Any

import pytest

from mllama import LLM
from mllama.errors import MllamaError
from tests.reference.prompts import GUARD, prompt_encoder

pytestmark = pytest.mark.compiles

USER = {"role": "user", "content": "Look"}
TOOL = {
    "type": "function",
    "function": {"name": "look_around", "parameters": {"type": "object"}},
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "look_around", "arguments": '{"at": "the sky"}'},
}


@pytest.fixture
def template(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives the model another chat template."""
    tokenizer = llm._engine._tokenizer

    def use(source: str) -> None:
        encoder = prompt_encoder(tokenizer.delegate, source)
        monkeypatch.setattr(tokenizer, "_prompt_encoder", encoder)

    return use


def prompt_of(llm: LLM, messages: Any, **settings: Any) -> str:
    """Returns the text of the prompt that the model reads."""
    output = llm.chat(messages, max_new_tokens=0, **settings)
    text: str = llm._engine._tokenizer.delegate.decode(output.prompt_token_ids)
    return text


def test_tools_their_calls_and_results_are_in_the_prompt(llm: LLM) -> None:
    result = {"role": "tool", "tool_call_id": "call_1", "content": "blue"}
    answer = {
        "role": "assistant",
        "content": None,
        "tool_calls": [CALL],
        "refusal": None,
    }
    text = prompt_of(llm, [USER, answer, result], tools=[TOOL])
    assert '"parameters": {"type": "object"}' in text
    assert '"parameters": {"at": "the sky"}' in text
    assert "blue" in text
    assert '"object"' not in prompt_of(llm, [USER, answer, result])


def test_variables_of_the_template_are_in_the_prompt(llm: LLM, template: Any) -> None:
    template(GUARD)
    variables = {"categories": {"S9": "Noise."}}
    assert "S9: Noise." in prompt_of(llm, [USER], chat_template_kwargs=variables)
    (output,) = llm.answers([[USER]], max_new_tokens=0, chat_template_kwargs=variables)
    asked = llm.generate("Look", max_new_tokens=0, chat_template_kwargs=variables)
    assert output.prompt_token_ids == asked.prompt_token_ids
    # A template that judges messages takes the assistant's as the last.
    assert "of Agent" in prompt_of(llm, [USER, {"role": "assistant", "content": "Oh"}])


def test_an_answer_goes_on_with_the_last_message(llm: LLM) -> None:
    question = [{"role": "user", "content": "What is in the picture?"}]
    whole = llm.chat(question, max_new_tokens=12).text
    # Between two tokens.
    begun = " ".join(whole.split(" ")[:2])
    messages = [*question, {"role": "assistant", "content": begun}]
    text = prompt_of(llm, messages, continue_final_message=True)
    assert text.endswith(begun)
    output = llm.chat(messages, continue_final_message=True, max_new_tokens=12)
    assert (begun + output.text).startswith(whole)
    again = prompt_of(llm, messages, add_generation_prompt=True)
    assert again.endswith("assistant<|end_header_id|>\n\n")
    bare = prompt_of(llm, question, add_generation_prompt=False)
    assert bare.endswith("What is in the picture?<|eot_id|>")
    together = llm.chat([messages] * 2, continue_final_message=True, max_new_tokens=12)
    assert [each.text for each in together] == [output.text] * 2


@pytest.mark.parametrize(
    ("messages", "settings", "complaint"),
    [
        ([USER, {"role": "assistant", "content": "Oh"}], {}, "the last message is"),
        ([USER], {"continue_final_message": True}, "role assistant"),
        ([USER], {"tools": "look_around"}, "must be a list of tools"),
        ([USER], {"chat_template_kwargs": {"nonsense": 1}}, "'nonsense' is not a"),
        (
            [USER, {"role": "assistant", "tool_calls": [CALL]}, USER],
            {},
            "no message of the role tool",
        ),
    ],
)
def test_what_can_not_be_honored_is_refused(
    llm: LLM, messages: Any, settings: Any, complaint: str
) -> None:
    with pytest.raises(MllamaError, match=complaint):
        llm.chat(messages, max_new_tokens=1, **settings)
    with pytest.raises(MllamaError, match=complaint):
        list(llm.answers([messages], max_new_tokens=1, **settings))


def test_tools_for_a_template_without_them_are_refused(llm: LLM, template: Any) -> None:
    template(GUARD)
    with pytest.raises(MllamaError, match="describes no tools"):
        llm.chat([USER], tools=[TOOL])


def test_settings_that_do_not_exist_are_errors(llm: LLM) -> None:
    ask: Any = llm.generate
    with pytest.raises(TypeError, match="'max_tokens'"):
        ask("Look", max_tokens=3)
    complete: Any = llm.complete
    with pytest.raises(TypeError, match="'tools'"):
        complete("Look", tools=[TOOL])
