"""Turns messages and raw prompts into tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, NoReturn

from transformers import PreTrainedTokenizerBase

from mllama.max_model.chat_template import ChatTemplate, ChatTemplateError
from mllama.max_model.message_forms import (
    FORMS,
    Form,
    Message,
    count_images,
    read_messages,
)
from mllama.max_model.special_tokens import (
    SpecialTokens,
    escaped,
    strings_in,
    unused_characters,
)
from mllama.max_model.template_probe import TemplateProbe, wrong_images

_BEGUN_ANSWER: Final = (
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
)

_HAZARD: Final = re.compile(r"^[ \t]{0,8}(S[1-9][0-9]?):[ \t]", re.MULTILINE)
"""A line of the list of hazards in the prompt of a Llama Guard."""

_PIECE: Final = 1 << 16
"""Characters of a long text whose tokens are counted at once."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")

NO_TEMPLATE: Final = (
    "the checkpoint has no chat template, so it can't take messages; give one with "
    "--chat-template FILE, or send a raw prompt (generate --raw, LLM.complete, "
    "/v1/completions)"
)


class PromptEncoder:
    """Encodes messages with a chat template, and raw prompts without it.

    Args:
        tokenizer: The checkpoint's tokenizer.
        template: The checkpoint's chat template; None for base models, which have none.
        image_token_id: The token that stands for an image.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: ChatTemplate | None,
        image_token_id: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._image_token_id = image_token_id
        self._image_token = str(tokenizer.convert_ids_to_tokens(image_token_id))
        self._special_tokens = SpecialTokens(tokenizer.backend_tokenizer)

    def encode_prompt(self, text: str) -> list[int]:
        """Returns the tokens of a raw prompt, in which special tokens are tokens.

        The prompt begins with the token of its beginning, which is added unless the
        text has it.
        """
        tokens: list[int] = self._tokenizer.encode(
            _without_surrogates(text), add_special_tokens=False
        )
        begin = self._tokenizer.bos_token_id
        return tokens if begin is None or tokens[:1] == [begin] else [begin, *tokens]

    def has_more_tokens(self, texts: Iterable[str], most: int) -> bool:
        """Returns True if texts have more tokens than a number.

        They are tokenized piece by piece until that is known, each apart from the
        others.  So a text takes no more time and memory than it may.

        Args:
            texts: The texts; special tokens in them are text.
            most: The number of tokens.
        """
        count = 0
        for text in texts:
            for start in range(0, len(text), _PIECE):
                count += self._special_tokens.count(
                    _without_surrogates(text[start : start + _PIECE])
                )
                if count > most:
                    return True
        return False

    @property
    def template_source(self) -> str:
        """The source of the chat template; empty without one."""
        return "" if self._template is None else self._template.text

    @property
    def takes_tools(self) -> bool:
        """True if a request's tools reach the chat template."""
        return self._template is not None and self._template.takes_tools()

    @cached_property
    def continues_messages(self) -> bool:
        """True if the template lets an answer go on with the last message."""
        try:
            self.encode_chat(_BEGUN_ANSWER, continue_final_message=True)
        except ChatTemplateError:
            return False
        return True

    @cached_property
    def hazards(self) -> tuple[str, ...]:
        """The hazards that the template asks to look for, such as S1, in its order.

        Templates of Llama Guard list them in each prompt.  Others list none.
        """
        try:
            tokens = self.encode_chat(_BEGUN_ANSWER[:1])
        except ChatTemplateError:
            return ()
        return tuple(dict.fromkeys(_HAZARD.findall(self._tokenizer.decode(tokens))))

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> list[int]:
        """Returns the tokens of a chat prompt; special tokens in its texts are text.

        Args:
            messages: Messages with ``role``, and ``content`` as a string or a list of
                parts: ``{"type": "text", "text": ...}`` or ``{"type": "image"}``;
                ``tool_calls`` and more as in OpenAI's API.
            tools: Tools that the template describes to the model.
            template_variables: Variables that the template reads, as plain data.
            add_generation_prompt: Whether the prompt ends in the header of the answer's
                turn.
            continue_final_message: Whether the answer goes on with the last message,
                which must be the assistant's.  No header follows it then.

        Raises:
            ChatTemplateError: If there is no template, or it rejects the messages,
                leaves out a text or an image, or doesn't read a variable.
        """
        if self._template is None:
            raise ChatTemplateError(NO_TEMPLATE)
        variables = template_variables or {}
        try:
            self._template.check_variables(variables, bool(tools))
            read = read_messages(messages)
            if tools and not self._template.takes_tools():
                raise ChatTemplateError(
                    "this chat template describes no tools", "tools"
                )
            if continue_final_message:
                _check_final_message(read)
            strings = list(strings_in([read, tools, variables]))
            characters = unused_characters([*strings, self._template.text], 2)
            if characters is None:
                raise ChatTemplateError(
                    "the messages have too many private-use characters"
                )
            return self._encode(
                self._template,
                read,
                list(tools) if tools else None,
                variables,
                characters,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
            )
        except RecursionError as error:
            raise ChatTemplateError("the messages are nested too deeply") from error

    def _encode(
        self,
        template: ChatTemplate,
        messages: list[Message],
        tools: list[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
        characters: list[str],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool,
    ) -> list[int]:
        marker, end = characters
        marked, tools, variables = self._special_tokens.mark(
            (messages, tools, variables), marker
        )
        form = self._form(template, marked, tools, variables, marker)
        if continue_final_message:
            marked[-1]["content"][-1]["text"] += end
        rendered = template.render(
            form(marked, self._image_token),
            tools=tools,
            variables=variables,
            add_generation_prompt=add_generation_prompt and not continue_final_message,
        ).replace(escaped(marker), marker)
        if continue_final_message:
            rendered = self._cut(rendered, end, marker)
        tokens = self._special_tokens.encode(_without_surrogates(rendered), marker)
        images = count_images(messages)
        if (placeholders := tokens.count(self._image_token_id)) != images:
            raise wrong_images(placeholders, images)
        return tokens

    def _form(
        self,
        template: ChatTemplate,
        messages: list[Message],
        tools: list[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
        marker: str,
    ) -> Form:
        """Returns the form of marked messages in which the template shows all of them.

        Each form is tried with short texts in place of the messages' own.

        Raises:
            ChatTemplateError: If there is none.
        """
        probe = TemplateProbe(messages, tools)
        rejection: ChatTemplateError | None = None
        fewest: list[ChatTemplateError] | None = None
        for form in FORMS:
            try:
                rendered = template.render(
                    form(probe.messages, self._image_token),
                    tools=probe.tools,
                    variables=variables,
                    add_generation_prompt=True,
                )
            except ChatTemplateError as error:
                rejection = rejection or error
                continue
            pieces = self._special_tokens.split(rendered, marker)
            images = sum(token == self._image_token_id for _, token in pieces)
            problems = probe.problems(rendered, images)
            if not problems:
                return form
            if fewest is None or len(problems) < len(fewest):
                fewest = problems
        # A form that the template takes, but doesn't show whole, says more.
        if fewest is not None:
            raise fewest[0]
        assert rejection is not None
        raise rejection

    def _cut(self, rendered: str, end: str, marker: str) -> str:
        """Returns the prompt up to the end of the final message's text.

        Raises:
            ChatTemplateError: If more than the end of a turn would be left out.
        """
        before, found, after = rendered.replace(escaped(end), end).rpartition(end)
        if not found or any(
            piece.strip() for piece, _ in self._special_tokens.split(after, marker)
        ):
            raise ChatTemplateError(
                "the final message can't be continued: this chat template writes more "
                "after it than the end of a turn",
                "continue_final_message",
            )
        return before


def _without_surrogates(text: str) -> str:
    """Returns a text that tokenizers take; JSON may hold half of a surrogate pair."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def _check_final_message(messages: list[Message]) -> None:
    final = messages[-1]
    if final["role"] != "assistant":
        _cannot_continue("it is not the assistant's")
    if "tool_calls" in final:
        _cannot_continue("it calls tools")
    if not final["content"] or final["content"][-1]["type"] != "text":
        _cannot_continue("it doesn't end in text")


def _cannot_continue(reason: str) -> NoReturn:
    raise ChatTemplateError(
        f"the final message can't be continued: {reason}", "continue_final_message"
    )
