"""MAX's scheduler with the demo model, run one iteration at a time.

A test can do on purpose what happens to a server by chance: requests arrive between any
two steps, are cancelled or preempted at any stage, and prompts are prefilled in chunks
of any size.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from max.pipelines.context import SamplingParams
from max.pipelines.lib import PIPELINE_REGISTRY, PipelineConfig
from max.pipelines.modeling.types import RequestID, TextGenerationRequest
from max.serve.scheduler.batch_constructor.text_batch_constructor import (
    PreemptionReason,
)

from mllama.launch.options import EngineOptions
from mllama.max_compat.model import (
    SchedulerProgress,
    Settings,
    WorkerQueues,
    load_scheduler,
)
from mllama.max_model.sampling_context import (
    LogProbabilityCounts,
    max_logprobs,
    set_log_probabilities,
    set_logit_bias,
)
from mllama.requests.engine_settings import EngineSettings
from mllama.requests.format_grammars import FormatGrammars
from mllama.requests.messages import read_conversation
from mllama.requests.preparation import PreparedRequest, prepare_request
from mllama.requests.request import GenerationRequest
from mllama.requests.token_grammars import TokenGrammars
from mllama.runtime.fault_isolation import has_failed
from mllama.runtime.pipeline import load_pipeline

NEW_TOKENS = 6
WHOLE = 8192
"""A chunk that holds any prompt of these tests."""


@dataclass
class Request:
    """A request in the scheduler, with its result."""

    context: Any
    token_ids: list[int] = field(default_factory=list)
    log_probabilities: list[Any] = field(default_factory=list)
    status: str | None = None
    """The final status, or None while the request runs."""
    outputs: list[Any] = field(default_factory=list)
    """What the scheduler reported, of each step."""
    prompt_length: int = 0
    """The number of tokens of its own prompt."""

    def __post_init__(self) -> None:
        self.prompt_length = self.context.tokens.prompt_length

    @property
    def id(self) -> Any:
        """The request's id in MAX."""
        return self.context.request_id


class Scheduled:
    """The demo model behind MAX's scheduler.

    Args:
        options: Options of ``EngineOptions``.
        prefix_caching: Whether prompts share the KV cache of equal prefixes.
        overlaps: Whether the next step starts before the scheduler asks for it.
        gpu_options: Options of ``EngineOptions`` that it refuses on a CPU.
    """

    def __init__(
        self,
        *,
        prefix_caching: bool = True,
        overlaps: bool = True,
        gpu_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        engine_options = EngineOptions(devices="cpu", **options)
        files = engine_options.resolve()
        config = PipelineConfig.from_args(
            replace(engine_options, **(gpu_options or {})).pipeline_args(
                files,
                enable_prefix_caching=prefix_caching,
                # Keeps MAX from refusing them as well.
                force=gpu_options is not None,
            )
        )
        self.config = config
        retrieved = PIPELINE_REGISTRY.retrieve_factory(config)
        self.tokenizer: Any = retrieved.tokenizer
        loaded = load_pipeline(
            retrieved.factory, engine_options.max_ce_batch_size, overlaps=overlaps
        )
        self.pipeline = loaded.pipeline
        self.image_cache = loaded.image_cache
        self.overlap = loaded.overlap
        self.speculation = loaded.speculation
        self.admission = loaded.admission
        self.self_check = loaded.self_check
        self._arrivals: queue.Queue[Any] = queue.Queue()
        self._cancelled: queue.Queue[list[Any]] = queue.Queue()
        self._results: queue.Queue[dict[Any, Any]] = queue.Queue()
        self.scheduler: Any = load_scheduler(
            self.pipeline,
            config,
            Settings(offline_inference=True),
            WorkerQueues(self._arrivals, self._results, self._cancelled),
            retrieved.memory_plan,
        )
        self._running: dict[Any, Request] = {}

    @property
    def blocks(self) -> Any:
        """The manager of the image cache's pages."""
        return self.image_cache.blocks

    def forget(self) -> None:
        """Empties the prefix cache, so that prompts are prefilled from their start."""
        self.pipeline.kv_manager.reset_prefix_cache()

    def chunk_size(self, tokens: int) -> None:
        """Sets the maximum number of prompt tokens that one step prefills."""
        self.scheduler.scheduler_config.target_tokens_per_batch_ce = tokens

    def submit(
        self,
        messages: Sequence[Any],
        new_tokens: int = NEW_TOKENS,
        *,
        bias: Mapping[int, float] | None = None,
        logprobs: int = 0,
        counts: LogProbabilityCounts | None = None,
        **sampling: Any,
    ) -> Request:
        """Adds a request to the queue.

        Args:
            messages: The conversation.
            new_tokens: Tokens of the answer.
            bias: Values to add to the logits of tokens.
            logprobs: Likeliest tokens whose log probabilities are returned, as MAX
                counts them.
            counts: The same as this package counts them, and for the prompt.
            sampling: Other settings of ``SamplingParams``; the default is greedy.

        Raises:
            InputError: If the request is rejected.
        """
        conversation = read_conversation(messages)
        request = TextGenerationRequest(
            request_id=RequestID(),
            model_name="test",
            messages=conversation.messages,
            images=[b""] * len(conversation.images),
            decoded_images=list(conversation.images),
            sampling_params=SamplingParams(
                **{"top_k": 1, "ignore_eos": True, **sampling},
                max_new_tokens=new_tokens,
            ),
            logprobs=logprobs if counts is None else max_logprobs(counts),
        )
        submitted = Request(asyncio.run(self.tokenizer.new_context(request)))
        if counts is not None:
            set_log_probabilities(
                submitted.context, counts, len(self.tokenizer.delegate)
            )
        if bias is not None:
            set_logit_bias(submitted.context, bias)
        return self._enqueue(submitted)

    def prepare(self, request: GenerationRequest) -> PreparedRequest:
        """Returns a request of this package with its contexts."""
        settings = EngineSettings.of(self.config, self.tokenizer)
        ends = settings.end_tokens
        grammars = FormatGrammars(lambda: TokenGrammars(self.tokenizer.delegate, ends))
        return asyncio.run(
            prepare_request(request, self.tokenizer, settings, grammars=grammars)
        )

    def submit_context(self, context: Any) -> Request:
        """Adds a request to the queue that :meth:`prepare` has made."""
        return self._enqueue(Request(context))

    def _enqueue(self, request: Request) -> Request:
        self._running[request.id] = request
        self._arrivals.put(request.context)
        return request

    def cancel(self, request: Request) -> None:
        """Cancels a request, which ends in a later step."""
        self._cancelled.put([request.id])

    def restart(self, request: Request) -> None:
        """Starts the prefill of a request again, as MAX does if a step has no room."""
        constructor = self.scheduler.batch_constructor
        del constructor.replicas[0].ce_reqs[request.id]
        constructor._return_to_request_queue(request.context, 0)

    def preempt(self, request: Request) -> None:
        """Puts a running request back into the queue, as MAX does when it runs out of
        memory."""
        constructor = self.scheduler.batch_constructor
        if request.id in constructor.all_tg_reqs:
            constructor._preempt_request(
                request.context, 0, reason=PreemptionReason.KV_CACHE_MEMORY
            )

    def step(self) -> None:
        """Runs one iteration of the scheduler."""
        if self.scheduler.run_iteration() is SchedulerProgress.NO_PROGRESS:
            time.sleep(0.001)  # A thread may be reading a grammar.
        while not self._results.empty():
            for request_id, result in self._results.get().items():
                request = self._running[request_id]
                if result.result is not None:
                    request.outputs.append(result.result)
                    request.token_ids += result.result.tokens
                    request.log_probabilities += result.result.log_probabilities or []
                if result.is_done:
                    request.status = (
                        "cancelled"
                        if result.result is None
                        else "failed"
                        if has_failed(result.result.final_status)
                        else result.result.final_status.value
                    )
                    del self._running[request_id]

    def run(self, *, steps: int = 20_000) -> None:
        """Runs iterations until every request has ended."""
        for _ in range(steps):
            if not self._running:
                return
            self.step()
        raise AssertionError(f"{len(self._running)} requests never ended")

    def answers(self, conversations: Sequence[Sequence[Any]]) -> list[list[int]]:
        """Returns the answers' tokens to conversations that are submitted together."""
        requests = [self.submit(messages) for messages in conversations]
        self.run()
        return [request.token_ids for request in requests]

    def alone(self, messages: Sequence[Any]) -> list[int]:
        """Returns the answer's tokens with nothing else running or cached."""
        self.forget()
        (answer,) = self.answers([messages])
        return answer
