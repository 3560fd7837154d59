"""The settings of one answer, each described once, as in ``option.py``."""

from __future__ import annotations

from functools import partial
from typing import Final

from mllama.launch.option import ANSWER, Option

_setting = partial(Option, section=ANSWER, takers=("generate", "batch", "LLM"))
_chat_setting = partial(_setting, takers=("generate", "chat", "batch", "LLM"))
"""A setting that ``mllama chat`` has as well, where ``/set`` changes it."""

SAMPLING_OPTIONS: Final = (
    _setting(
        name="max_new_tokens",
        takers=("generate", "chat", "batch", "explain", "LLM"),
        kind="integer",
        metavar="N",
        default=-1,
        description="Longest answer in tokens; -1 continues until the context is full.",
        details="0 only reads the prompt.",
        request_field="max_tokens",
    ),
    _chat_setting(
        name="min_tokens",
        kind="integer",
        metavar="N",
        default=0,
        description="Tokens of the answer before which nothing but max_new_tokens ends "
        "it.",
        request_field="min_tokens",
    ),
    _setting(
        name="n",
        kind="integer",
        metavar="N",
        default=1,
        description="Number of answers to the same prompt, from 1 to 128.",
        details="The prompt and its images are computed once. Several answers are "
        "sampled, unless top_k or temperature makes them greedy.",
        request_field="n",
    ),
    _chat_setting(
        name="top_k",
        kind="integer",
        metavar="K",
        description="Sample from the K likeliest tokens; 1 is greedy, -1 means all.",
        default_text="1, or -1 if temperature, top_p, min_p, seed or several answers "
        "are asked for",
        request_field="top_k",
    ),
    _chat_setting(
        name="temperature",
        kind="number",
        metavar="T",
        description="Divides the logits before sampling, from 0 (greedy) to 2.",
        default_text="the checkpoint's, or 1",
        request_field="temperature",
    ),
    _chat_setting(
        name="top_p",
        kind="number",
        metavar="P",
        description="Sample from the likeliest tokens whose probabilities add up to "
        "this, from 0 to 1.",
        default_text="the checkpoint's, or 1",
        request_field="top_p",
    ),
    _chat_setting(
        name="min_p",
        kind="number",
        metavar="P",
        default=0.0,
        description="Sample from tokens that are at least this likely, relative to the "
        "likeliest one, from 0 to 1.",
        request_field="min_p",
    ),
    _chat_setting(
        name="presence_penalty",
        kind="number",
        metavar="X",
        default=0.0,
        description="Subtracted once from the logits of tokens that the answer has, "
        "from -2 to 2.",
        request_field="presence_penalty",
    ),
    _chat_setting(
        name="frequency_penalty",
        kind="number",
        metavar="X",
        default=0.0,
        description="Subtracted from a token's logit for each time that the answer has "
        "it, from -2 to 2.",
        request_field="frequency_penalty",
    ),
    _chat_setting(
        name="repetition_penalty",
        kind="number",
        metavar="X",
        description="Makes tokens of prompt and answer less likely if it is greater "
        "than 1.",
        default_text="the checkpoint's, or 1",
        request_field="repetition_penalty",
    ),
    _setting(
        name="logit_bias",
        kind="bias",
        metavar="TOKEN=BIAS",
        repeatable=True,
        description="Added to a token's logit before sampling, from -100 to 100.",
        default_text="none",
        request_field="logit_bias",
    ),
    _chat_setting(
        name="seed",
        kind="integer",
        metavar="N",
        description="Makes sampling repeatable.",
        details="Of several answers, each has the seed of the one before it plus 1.",
        default_text="a random seed",
        request_field="seed",
    ),
    _chat_setting(
        name="stop",
        kind="text",
        metavar="TEXT",
        repeatable=True,
        description="Text that ends the answer, which doesn't include it.",
        details="Empty texts are ignored.",
        default_text="none",
        request_field="stop",
    ),
    _setting(
        name="stop_token_ids",
        kind="integer",
        metavar="TOKEN",
        flag="--stop-token-id",
        repeatable=True,
        default=(),
        description="Token that ends the answer, beside the model's own.",
        default_text="none",
        request_field="stop_token_ids",
    ),
    _setting(
        name="ignore_eos",
        kind="flag",
        default=False,
        description="Don't let the model's own end tokens end the answer.",
        default_text="",
        request_field="ignore_eos",
    ),
    _setting(
        name="logprobs",
        kind="integer",
        metavar="N",
        description="Log probabilities of the answer's tokens, and of the N likeliest "
        "in each one's place, from 0 to 20. -1, the whole vocabulary, is not for "
        "requests to the server.",
        default_text="none",
        request_field="top_logprobs",
    ),
    _setting(
        name="prompt_logprobs",
        kind="integer",
        metavar="N",
        description="Log probabilities of the prompt's tokens, and of the N likeliest "
        "in each one's place, from 0 to 20. -1, the whole vocabulary, is not for "
        "requests to the server.",
        default_text="none",
        request_field="prompt_logprobs",
    ),
    _setting(
        name="response_format",
        kind="text",
        choices=("text", "json_object"),
        description="json_object makes the answer a JSON object.",
        details="In Python also OpenAI's object with a type, which may be json_schema, "
        "or a class of pydantic.",
        default_text="any text",
        request_field="response_format",
    ),
    _setting(
        name="guided_json",
        kind="json",
        metavar="SCHEMA",
        description="JSON schema that the answer fits.",
        details="In Python also its text, or a class of pydantic. An object has "
        "no properties but those that the schema names, unless it has "
        "additionalProperties.",
        default_text="none",
        request_field="guided_json",
    ),
    _setting(
        name="guided_regex",
        kind="text",
        metavar="REGEX",
        description="Regular expression that matches the whole answer.",
        default_text="none",
        request_field="guided_regex",
    ),
    _setting(
        name="guided_choice",
        kind="text",
        metavar="TEXT",
        repeatable=True,
        description="Text that the answer may be.",
        default_text="any text",
        request_field="guided_choice",
    ),
    _setting(
        name="guided_grammar",
        kind="text",
        metavar="GRAMMAR",
        description="Grammar of the answer, in Lark as llguidance reads it or in "
        "llama.cpp's GBNF.",
        default_text="none",
        request_field="guided_grammar",
    ),
)
"""Settings of one answer."""
