"""The Python API: a model in this process, without a server.

from mllama import LLM

with LLM() as llm:
    print(llm.generate("What is in the picture?", images=["scene.png"]).text)
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, overload

from mllama.engine.engine import Engine
from mllama.engine.generation import Chunk, Generation, Output, stop_strings
from mllama.errors import MllamaError
from mllama.image_cache.stats import ImageCacheStats
from mllama.launch.defaults import DEFAULT_CE_BATCH_SIZE
from mllama.launch.options import EngineOptions
from mllama.requests.messages import Message, prompt_messages, read_conversation
from mllama.requests.sampling_params import Sampling
from mllama.utils.telemetry import disable_telemetry

__all__ = ["LLM", "Chunk", "Generation", "Output"]

_WAITING_PER_ROW = 2
"""Requests prepared per row of a batch: enough that a row that ends is refilled at
once, and few, as each prepared request holds its images' pixels."""


class LLM:
    """A loaded model that answers conversations about images.

    Requests from several threads and lists of conversations are worked on together.

    Args:
        model_path: A directory in Hugging Face layout, a GGUF file, ``ollama:NAME`` of
            Ollama's store, or a repository of the hub, which is downloaded; None is the
            small demo model that ships with this package.
        max_batch_size: Requests worked on together; None chooses by device.
        max_ce_batch_size: Of these, most whose prompts are read in one step.
        max_length: Longest sequence, prompt and answer, in tokens; None is the
            model's own limit.
        devices: "cpu", "gpu" or "gpu:N"; None takes the first GPU, or the CPU.
        num_threads: Threads that the CPU computes with; None is one for each core.
            MAX makes them once in a process, so that a second model has the first's.
        quantization_encoding: Element type or block format of the weights; None takes
            bfloat16 on a GPU; on a CPU a GGUF file's own, q4_k for a checkpoint of
            bfloat16, float32 for one of float32.
        vision_encoding: ``int8`` has the vision side multiply in bytes and, on a CPU
            with AVX512-BF16, attend in bfloat16; None leaves it in floats.
        weight_path: Files to read the weights from instead of the checkpoint's own:
            paths, names of files in the model's repository, or ``owner/name/FILE``.
        lora_path: Directory of a LoRA adapter in PEFT's files, which is merged into the
            weights.
        image_cache_size: Memory for the keys and values of images, which are encoded
            once and kept: bytes, "4GiB", or "0.2" of the device's; None chooses.
        max_images_per_request: Most images of one conversation; None is 32.
        huggingface_model_revision: Branch, tag or commit of a repository of the hub;
            None is its main branch.
        force_download: Whether to download what the hub's cache has already.
        trust_remote_code: Whether the checkpoint's own Python code may run, if its
            tokenizer has any.
        serialized_model_path: Directory of a compiled model to start from without
            compiling; it must have been compiled for the same options.
        save_to_serialized_model_path: Directory to write the compiled model to.
        quiet: Whether to keep silent on stderr while the model is being loaded.

    Raises:
        MllamaError: If the checkpoint can't be served.
    """

    def __init__(
        self,
        model_path: str | Path | None = None,
        *,
        max_batch_size: int | None = None,
        max_ce_batch_size: int = DEFAULT_CE_BATCH_SIZE,
        max_length: int | None = None,
        devices: str | None = None,
        num_threads: int | None = None,
        quantization_encoding: str | None = None,
        vision_encoding: str | None = None,
        weight_path: str | Path | Sequence[str | Path] = (),
        lora_path: str | Path | None = None,
        image_cache_size: str | int | None = None,
        max_images_per_request: int | None = None,
        huggingface_model_revision: str | None = None,
        force_download: bool = False,
        trust_remote_code: bool = False,
        serialized_model_path: str | Path | None = None,
        save_to_serialized_model_path: str | Path | None = None,
        quiet: bool = False,
    ) -> None:
        disable_telemetry()
        if isinstance(weight_path, (str, Path)):
            weight_path = [weight_path]
        options = EngineOptions(
            model_path=model_path,
            weight_path=weight_path,
            lora_path=lora_path,
            quantization_encoding=quantization_encoding,
            vision_encoding=vision_encoding,
            devices=devices,
            num_threads=num_threads,
            max_batch_size=max_batch_size,
            max_ce_batch_size=max_ce_batch_size,
            max_length=max_length,
            image_cache_size=image_cache_size,
            max_images_per_request=max_images_per_request,
            huggingface_model_revision=huggingface_model_revision,
            force_download=force_download,
            trust_remote_code=trust_remote_code,
            serialized_model_path=serialized_model_path,
            save_to_serialized_model_path=save_to_serialized_model_path,
        )
        self._engine = Engine(options, quiet=quiet)
        # Also at the end of the program, before the threads are torn down.
        self._close = weakref.finalize(self, self._engine.close)

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends running requests and frees the model.  May be called twice."""
        self._close()

    @property
    def image_cache(self) -> ImageCacheStats:
        """What the image cache holds and has done so far.

        Raises:
            RuntimeError: If the model is closed.
        """
        return self._engine.image_stats()

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        *,
        stream: Literal[True],
        max_new_tokens: int = ...,
        temperature: float | None = ...,
        top_k: int | None = ...,
        top_p: float = ...,
        seed: int | None = ...,
        stop: str | Sequence[str] | None = ...,
    ) -> Generation: ...

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        *,
        stream: Literal[False] = ...,
        max_new_tokens: int = ...,
        temperature: float | None = ...,
        top_k: int | None = ...,
        top_p: float = ...,
        seed: int | None = ...,
        stop: str | Sequence[str] | None = ...,
    ) -> Output: ...

    @overload
    def chat(
        self,
        messages: Sequence[Sequence[Message]],
        *,
        stream: Literal[False] = ...,
        max_new_tokens: int = ...,
        temperature: float | None = ...,
        top_k: int | None = ...,
        top_p: float = ...,
        seed: int | None = ...,
        stop: str | Sequence[str] | None = ...,
    ) -> list[Output]: ...

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        *,
        stream: bool = False,
        max_new_tokens: int = -1,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
    ) -> Output | list[Output] | Generation:
        """Answers one conversation, or a list of conversations together.

        Messages are OpenAI's: ``{"role": ..., "content": string or list of parts}``.
        A part is ``{"type": "text", "text": ...}``, ``{"type": "image", "image": PIL
        image, path, URL or bytes}`` or ``{"type": "image_url", "image_url": {"url":
        URL or path}}``.  Text attends to the image, or the run of adjacent images,
        that most recently precedes it, so images belong before the question.

        Args:
            messages: The conversation, or a list of conversations.
            stream: Whether to return chunks as they come (one conversation only).
            max_new_tokens: Longest answer; -1 goes on until the context is full.
            temperature: Divides the logits before sampling; None is the checkpoint's
                own default.
            top_k: How many of the likeliest tokens to choose from; 1 is greedy, -1
                is all; None is greedy unless ``temperature``, ``top_p`` or ``seed``
                asks for sampling, which is then from all.
            top_p: Share of the probability to choose from, from 0 to 1.
            seed: Makes sampling repeatable; None draws one.
            stop: Strings that end the answer; they are not part of it.

        Returns:
            An ``Output``, a list of them in the conversations' order, or an iterator
            of ``Chunk`` that can be abandoned at any time.

        Raises:
            MllamaError: If a conversation or a setting can't be used.  Of a list, the
                conversation is named by its number, from 1, and none is answered.
            RuntimeError: If the model is closed.
        """
        settings = Sampling(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
        )
        stops = stop_strings(stop)
        if not _is_batch(messages):
            generation = self._submit(messages, settings, stops)
            return generation if stream else generation.wait()
        if stream:
            raise MllamaError("only one conversation at a time can be streamed")
        return list(self._answers(messages, settings, stops))

    def answers(
        self, conversations: Sequence[Sequence[Message]], **settings: Any
    ) -> Iterator[Output]:
        """Answers a list of conversations together, each as soon as its turn is there.

        Args:
            conversations: As for ``chat``.
            settings: As for ``chat``, without ``stream``.

        Returns:
            Their outputs, in the conversations' order; the others are worked on
            meanwhile.  Dropping the iterator ends them.

        Raises:
            MllamaError: As ``chat``, but when the conversation's turn comes.
        """
        stop = stop_strings(settings.pop("stop", None))
        return self._answers(conversations, Sampling(**settings), stop)

    @overload
    def generate(
        self,
        prompt: str,
        images: Iterable[Any] = ...,
        *,
        stream: Literal[True],
        system: str | None = ...,
        **settings: Any,
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompt: str,
        images: Iterable[Any] = ...,
        *,
        stream: Literal[False] = ...,
        system: str | None = ...,
        **settings: Any,
    ) -> Output: ...

    def generate(
        self,
        prompt: str,
        images: Iterable[Any] = (),
        *,
        stream: bool = False,
        system: str | None = None,
        **settings: Any,
    ) -> Output | Generation:
        """Answers one question about images, which are shown before it.

        Args:
            prompt: The question.
            images: PIL images, paths, http(s) or data URLs, or bytes.
            stream: Whether to return chunks as they come.
            system: A system prompt.
            settings: As for ``chat``.

        Raises:
            MllamaError: If an image or a setting can't be used.
        """
        messages = prompt_messages(prompt, images, system)
        if stream:
            return self.chat(messages, stream=True, **settings)
        return self.chat(messages, **settings)

    def _submit(self, messages: Any, settings: Sampling, stop: list[str]) -> Generation:
        from max.pipelines.modeling.types import RequestID, TextGenerationRequest

        conversation = read_conversation(messages)
        request = TextGenerationRequest(
            request_id=RequestID(),
            model_name="mllama",
            messages=conversation.messages,
            # The tokenizer takes the decoded images; MAX wants as many entries here.
            images=[b""] * len(conversation.images),
            decoded_images=list(conversation.images),
            sampling_params=self._engine.sampling_params(settings),
        )
        return self._engine.submit(request, stop)

    def _answers(
        self, conversations: Any, settings: Sampling, stop: list[str]
    ) -> Iterator[Output]:
        running: list[Generation] = []

        def answer(number: int, messages: Any) -> Output:
            try:
                generation = self._submit(messages, settings, stop)
            except MllamaError as error:
                raise type(error)(f"conversation {number}: {error}") from error
            running.append(generation)
            return generation.wait()

        rows = _WAITING_PER_ROW * self._engine.max_batch_size
        with ThreadPoolExecutor(rows, thread_name_prefix="mllama-batch") as pool:
            answers = [
                pool.submit(answer, number, messages)
                for number, messages in enumerate(conversations, 1)
            ]
            try:
                for each in answers:
                    yield each.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for generation in running:
                    generation.close()
                raise


def _is_batch(messages: Any) -> bool:
    """Whether this is a list of conversations rather than one."""
    return (
        isinstance(messages, Sequence)
        and bool(messages)
        and all(
            isinstance(entry, Sequence) and not isinstance(entry, (str, bytes))
            for entry in messages
        )
    )
