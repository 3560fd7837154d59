"""What an engine can do, and its defaults for what a request leaves open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mllama.errors import RequestError
from mllama.requests.max_sampling_params import SamplingDefaults
from mllama.requests.output_format import OutputFormat
from mllama.requests.sampling_params import Sampling
from mllama.requests.tool_calls.parser import ToolForm


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Limits, features and defaults of a running engine.

    Attributes:
        vocabulary: Number of tokens in the vocabulary.
        max_length: Longest sequence in tokens, prompt and answer together.
        end_tokens: Tokens by which the model ends an answer.
        defaults: What a request that leaves a setting open gets.
        penalties: Whether penalties are possible.
        min_tokens: Whether an answer can be kept from ending.
        logit_bias: Whether logits can be biased.
        tool_parser: The form in which the model calls tools.
        output_formats: Whether answers can be kept to a format.
        log_probabilities: Whether log probabilities can be reported.
    """

    vocabulary: int
    max_length: int
    end_tokens: frozenset[int] = frozenset()
    defaults: SamplingDefaults = field(default_factory=SamplingDefaults)
    penalties: bool = True
    min_tokens: bool = True
    logit_bias: bool = True
    tool_parser: ToolForm = "auto"
    output_formats: bool = True
    log_probabilities: bool = True

    @classmethod
    def of(
        cls,
        config: Any,
        tokenizer: Any,
        *,
        top_k: int | None = 1,
        max_new_tokens: int = -1,
        tool_parser: ToolForm = "auto",
    ) -> EngineSettings:
        """Returns the settings of an engine that is about to run.

        Args:
            config: MAX's ``PipelineConfig``.
            tokenizer: The model's tokenizer.
            top_k: The default; None is the checkpoint's.
            max_new_tokens: The default.
            tool_parser: The form in which the model calls tools.
        """
        checkpoint = config.model.sampling_params_defaults
        on_cpu = all(spec.device_type == "cpu" for spec in config.model.device_specs)
        samples_on_host = on_cpu or config.sampling.sample_on_host
        # MAX then starts a step before the host knows the last token.
        is_overlapped = bool(config.runtime.enable_overlap_scheduler)

        def first(*values: Any) -> Any:
            return next((value for value in values if value is not None), None)

        return cls(
            vocabulary=len(tokenizer.delegate),
            max_length=tokenizer.max_length,
            end_tokens=frozenset(tokenizer.eos_token_ids),
            defaults=SamplingDefaults(
                temperature=first(
                    config.runtime.temperature, checkpoint.temperature, 1.0
                ),
                top_k=first(top_k, checkpoint.top_k, -1),
                top_p=first(checkpoint.top_p, 1.0),
                repetition_penalty=first(checkpoint.repetition_penalty, 1.0),
                max_new_tokens=max_new_tokens,
            ),
            penalties=samples_on_host or config.sampling.enable_penalties,
            min_tokens=samples_on_host or config.sampling.enable_min_tokens,
            logit_bias=samples_on_host,
            tool_parser=tool_parser,
            output_formats=samples_on_host and not is_overlapped,
            log_probabilities=not is_overlapped,
        )

    def check_format(self, output_format: OutputFormat) -> None:
        """Checks that the engine can keep answers to a format.

        Raises:
            RequestError: If it can't.
        """
        if not self.output_formats:
            path = output_format.path
            raise RequestError(
                f"{path} on a GPU needs a server started with --sample-on-host and "
                "without --enable-overlap-scheduler and --device-graph-capture",
                path,
            )

    def check(self, sampling: Sampling) -> None:
        """Checks that the engine can do what a request asks for.

        Raises:
            RequestError: If it can't.
        """
        sampling.check_vocabulary(self.vocabulary)
        for name, is_possible, way_out in (
            ("presence_penalty", self.penalties, "--enable-penalties"),
            ("frequency_penalty", self.penalties, "--enable-penalties"),
            ("repetition_penalty", self.penalties, "--enable-penalties"),
            ("min_tokens", self.min_tokens, "--enable-min-tokens"),
            ("logit_bias", self.logit_bias, "--sample-on-host"),
        ):
            neutral = 1 if name == "repetition_penalty" else 0
            if not is_possible and (getattr(sampling, name) or neutral) != neutral:
                raise RequestError(
                    f"{name} on a GPU needs a server started with {way_out}", name
                )
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(sampling, name) is not None and not self.log_probabilities:
                raise RequestError(
                    f"{name} needs a server started without --enable-overlap-scheduler "
                    "and --device-graph-capture",
                    name,
                )
