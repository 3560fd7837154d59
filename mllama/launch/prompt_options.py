"""What shapes a chat's prompt beside its messages, as in ``option.py``."""

from __future__ import annotations

from functools import partial
from typing import Final

from mllama.launch.option import QUESTION, Option

_setting = partial(Option, section=QUESTION, takers=("generate", "LLM"))

PROMPT_OPTIONS: Final = (
    _setting(
        name="tools",
        kind="json",
        metavar="JSON|FILE",
        description="Tools that the chat template describes to the model: a list in "
        "OpenAI's form.",
        default_text="none",
        request_field="tools",
    ),
    _setting(
        name="tool_choice",
        kind="text",
        metavar="CHOICE",
        description="Which tools the answer may or must call: none, auto, required, or "
        "the name of a tool.",
        details="In Python also OpenAI's object. Only tools that may be called are "
        "described to the model.",
        default_text="auto",
        request_field="tool_choice",
    ),
    _setting(
        name="parallel_tool_calls",
        kind="switch",
        description="Let the answer call several tools. Otherwise it ends with its "
        "first call.",
        default_text="yes",
        request_field="parallel_tool_calls",
    ),
    _setting(
        name="chat_template_kwargs",
        kind="json",
        metavar="JSON|FILE",
        description="Variables of the chat template by name, as plain data.",
        details="Only names that the template reads.",
        default_text="none",
        request_field="chat_template_kwargs",
    ),
    _setting(
        name="add_generation_prompt",
        kind="switch",
        description="End the prompt in the header of the answer's turn.",
        default_text="yes; after a last message of the assistant, either this or "
        "continue_final_message must be given",
        request_field="add_generation_prompt",
    ),
    _setting(
        name="continue_final_message",
        kind="flag",
        default=False,
        description="Go on with the last message, which is the assistant's, instead of "
        "a new turn.",
        default_text="",
        request_field="continue_final_message",
    ),
)
"""What shapes a prompt."""
