"""What a loaded model answers: conversations, questions and raw prompts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, overload

from typing_extensions import Unpack

from mllama.engine.conversations import (
    answer_conversations,
    is_batch,
    submit_conversation,
    submit_prompt,
)
from mllama.engine.engine import Engine
from mllama.engine.generation import Generation
from mllama.engine.outputs import Output
from mllama.errors import MllamaError
from mllama.images.load import ImageSource
from mllama.llm.answer_settings import (
    ChatSettings,
    CompletionSettings,
    split_settings,
)
from mllama.requests.messages import Message, prompt_messages


# The descriptions of options in this file are written by `python -m docs.reference`.
class Answering:
    """The methods of ``LLM`` that ask its model.

    Args:
        engine: Runs the model.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        *,
        stream: Literal[True],
        **settings: Unpack[ChatSettings],
    ) -> Generation: ...

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        *,
        stream: Literal[False] = ...,
        **settings: Unpack[ChatSettings],
    ) -> Output: ...

    @overload
    def chat(
        self,
        messages: Sequence[Sequence[Message]],
        *,
        stream: Literal[False] = ...,
        **settings: Unpack[ChatSettings],
    ) -> list[Output]: ...

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        *,
        stream: bool = False,
        **settings: Unpack[ChatSettings],
    ) -> Output | list[Output] | Generation:
        """Answers one conversation, or a list of conversations together.

        Messages have OpenAI's form, and an image may be a PIL image or a file::

            image = {"type": "image", "image": "photo.jpg"}
            text = {"type": "text", "text": "What is in the picture?"}
            output = llm.chat([{"role": "user", "content": [image, text]}])

        An image part is ``{"type": "image", "image": PIL image, path, URL or bytes}``
        or ``{"type": "image_url", "image_url": {"url": URL or path}}``.  Text attends
        to the image, or the run of adjacent images, that most recently precedes it, so
        images belong before the question.

        The answer may call ``tools``; their results are the next messages::

            output = llm.chat(messages, tools=tools)
            messages.append(output.message)
            for call in output.tool_calls:
                result = functions[call.name](**json.loads(call.arguments))
                messages.append(
                    {"role": "tool", "tool_call_id": call.id, "content": str(result)}
                )

        Args:
            messages: A conversation, or a list of conversations.
            stream: Return the answer's chunks as they are generated. Only for one
                conversation.
            tools: Tools that the chat template describes to the model: a list in
                OpenAI's form. Default: none.
            tool_choice: Which tools the answer may or must call: none, auto, required,
                or the name of a tool. In Python also OpenAI's object. Only tools that
                may be called are described to the model. Default: auto.
            parallel_tool_calls: Let the answer call several tools. Otherwise it ends
                with its first call. Default: yes.
            chat_template_kwargs: Variables of the chat template by name, as plain data.
                Only names that the template reads. Default: none.
            add_generation_prompt: End the prompt in the header of the answer's turn.
                Default: yes; after a last message of the assistant, either this or
                continue_final_message must be given.
            continue_final_message: Go on with the last message, which is the
                assistant's, instead of a new turn.
            max_new_tokens: Longest answer in tokens; -1 continues until the context is
                full. 0 only reads the prompt. Default: -1.
            min_tokens: Tokens of the answer before which nothing but max_new_tokens
                ends it. Default: 0.
            n: Number of answers to the same prompt, from 1 to 128. The prompt and its
                images are computed once. Several answers are sampled, unless top_k or
                temperature makes them greedy. Default: 1.
            top_k: Sample from the K likeliest tokens; 1 is greedy, -1 means all.
                Default: 1, or -1 if temperature, top_p, min_p, seed or several answers
                are asked for.
            temperature: Divides the logits before sampling, from 0 (greedy) to 2.
                Default: the checkpoint's, or 1.
            top_p: Sample from the likeliest tokens whose probabilities add up to this,
                from 0 to 1. Default: the checkpoint's, or 1.
            min_p: Sample from tokens that are at least this likely, relative to the
                likeliest one, from 0 to 1. Default: 0.0.
            presence_penalty: Subtracted once from the logits of tokens that the answer
                has, from -2 to 2. Default: 0.0.
            frequency_penalty: Subtracted from a token's logit for each time that the
                answer has it, from -2 to 2. Default: 0.0.
            repetition_penalty: Makes tokens of prompt and answer less likely if it is
                greater than 1. Default: the checkpoint's, or 1.
            logit_bias: Added to a token's logit before sampling, from -100 to 100.
                Default: none.
            seed: Makes sampling repeatable. Of several answers, each has the seed of
                the one before it plus 1. Default: a random seed.
            stop: Text that ends the answer, which doesn't include it. Empty texts are
                ignored. Default: none.
            stop_token_ids: Token that ends the answer, beside the model's own. Default:
                none.
            ignore_eos: Don't let the model's own end tokens end the answer.
            logprobs: Log probabilities of the answer's tokens, and of the N likeliest
                in each one's place, from 0 to 20. -1, the whole vocabulary, is not for
                requests to the server. Default: none.
            prompt_logprobs: Log probabilities of the prompt's tokens, and of the N
                likeliest in each one's place, from 0 to 20. -1, the whole vocabulary,
                is not for requests to the server. Default: none.
            response_format: json_object makes the answer a JSON object. In Python also
                OpenAI's object with a type, which may be json_schema, or a class of
                pydantic. Default: any text.
            guided_json: JSON schema that the answer fits. In Python also its text, or a
                class of pydantic. An object has no properties but those that the schema
                names, unless it has additionalProperties. Default: none.
            guided_regex: Regular expression that matches the whole answer. Default:
                none.
            guided_choice: Text that the answer may be. Default: any text.
            guided_grammar: Grammar of the answer, in Lark as llguidance reads it or in
                llama.cpp's GBNF. Default: none.
            attention: Compute where in the images each token looked, after the answer:
                True, or an object with layers, heads and prompt, as
                ``AttentionOptions`` describes them. Only on a CPU; the first time, a
                graph is compiled. ``output.attention`` has the maps. Default: no.

        Returns:
            An ``Output`` for one conversation; a list of them, in the conversations'
            order, for a list; with ``stream`` a ``Generation``, which iterates over
            ``Chunk`` and can be abandoned at any time.

        Raises:
            MllamaError: If a conversation or a setting can't be used.  For a list, the
                message has the conversation's number, from 1, and none is answered.
            RuntimeError: If the model is closed.
        """
        parts = split_settings(settings, ChatSettings)
        if is_batch(messages):
            if stream:
                raise MllamaError("only one conversation at a time can be streamed")
            return list(self.answers(messages, **settings))  # type: ignore[arg-type]
        conversation: Any = messages
        generation = submit_conversation(self._engine, conversation, *parts)
        return generation if stream else generation.wait()

    def answers(
        self,
        conversations: Sequence[Sequence[Message]],
        **settings: Unpack[ChatSettings],
    ) -> Iterator[Output]:
        """Answers a list of conversations together, and yields each answer in turn.

        Unlike ``chat`` it doesn't wait for the whole list::

            for output in llm.answers(conversations, max_new_tokens=100):
                print(output.text)

        Args:
            conversations: Lists of messages in the form that ``chat`` takes.
            settings: Settings of ``chat``, such as ``max_new_tokens``.

        Returns:
            The outputs, in the conversations' order.  The following conversations run
            meanwhile; dropping the iterator cancels them.

        Raises:
            MllamaError: If a setting can't be used; from the iterator, if a
                conversation can't.
            RuntimeError: If the model is closed.
        """
        return answer_conversations(
            self._engine, conversations, *split_settings(settings, ChatSettings)
        )

    @overload
    def generate(
        self,
        prompt: str,
        images: ImageSource | Iterable[ImageSource] = ...,
        *,
        stream: Literal[True],
        system: str | None = ...,
        **settings: Unpack[ChatSettings],
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompt: str,
        images: ImageSource | Iterable[ImageSource] = ...,
        *,
        stream: Literal[False] = ...,
        system: str | None = ...,
        **settings: Unpack[ChatSettings],
    ) -> Output: ...

    def generate(
        self,
        prompt: str,
        images: ImageSource | Iterable[ImageSource] = (),
        *,
        stream: bool = False,
        system: str | None = None,
        **settings: Unpack[ChatSettings],
    ) -> Output | Generation:
        """Answers one question about images, which the model sees before the question.

        For example, with the answer as it is generated::

            for chunk in llm.generate("Describe it.", ["photo.jpg"], stream=True):
                print(chunk.text, end="", flush=True)

        Args:
            prompt: The question.
            images: PIL images, paths, http(s) URLs, data URLs, or bytes of image files;
                one of them, or several in a list.
            stream: Return the answer's chunks as they are generated.
            system: A system prompt.
            settings: Settings of ``chat``, such as ``max_new_tokens``.

        Returns:
            An ``Output``; with ``stream`` a ``Generation``, which iterates over
            ``Chunk`` and can be abandoned at any time.

        Raises:
            MllamaError: If an image or a setting can't be used.
            RuntimeError: If the model is closed.
        """
        messages = prompt_messages(prompt, images, system)
        if stream:
            return self.chat(messages, stream=True, **settings)
        return self.chat(messages, **settings)

    @overload
    def complete(
        self,
        prompt: str | Sequence[int],
        images: ImageSource | Iterable[ImageSource] = ...,
        *,
        stream: Literal[True],
        **settings: Unpack[CompletionSettings],
    ) -> Generation: ...

    @overload
    def complete(
        self,
        prompt: str | Sequence[int],
        images: ImageSource | Iterable[ImageSource] = ...,
        *,
        stream: Literal[False] = ...,
        **settings: Unpack[CompletionSettings],
    ) -> Output: ...

    def complete(
        self,
        prompt: str | Sequence[int],
        images: ImageSource | Iterable[ImageSource] = (),
        *,
        stream: bool = False,
        **settings: Unpack[CompletionSettings],
    ) -> Output | Generation:
        """Continues a raw prompt, without the chat template.

        For example, with log probabilities of the prompt's own tokens::

            output = llm.complete("A red circle", max_new_tokens=0, prompt_logprobs=0)
            print([each.logprob for each in output.prompt_logprobs[1:]])

        Args:
            prompt: A text in which special tokens such as ``<|image|>`` are special, or
                the ids of tokens, such as an output's ``prompt_token_ids``.
            images: One for each ``<|image|>`` of the prompt, as in ``generate``.
            stream: Return the answer's chunks as they are generated.
            settings: Settings of ``chat``, such as ``max_new_tokens``.

        Returns:
            An ``Output``; with ``stream`` a ``Generation``, which iterates over
            ``Chunk`` and can be abandoned at any time.

        Raises:
            MllamaError: If the prompt, an image or a setting can't be used.
            RuntimeError: If the model is closed.
        """
        parts = split_settings(settings, CompletionSettings)[1:]
        generation = submit_prompt(self._engine, prompt, images, *parts)
        return generation if stream else generation.wait()
