"""Runs MAX's pipeline and records the logits of every step."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from max.driver import DeviceSpec
from max.pipelines.context import SamplingParams
from max.pipelines.lib import PIPELINE_REGISTRY, PipelineArgs, PipelineConfig
from max.pipelines.lib.generate import GenerateIterator
from max.pipelines.modeling.types import RequestID, TextGenerationRequest

from mllama.launch.options import ARCHITECTURES
from tests.reference.cases import Case, case
from tests.reference.compare import spread_error
from tests.reference.oracle import Reference

STEPS = 8
"""Decode steps after prefill."""


@dataclass
class Answer:
    """Greedy tokens, the first from prefill, and the logits that each is chosen by."""

    token_ids: list[int] = field(default_factory=list)
    logits: list[np.ndarray] = field(default_factory=list)


class Pipeline:
    """A checkpoint in MAX's text generation pipeline.

    It runs on the CPU in float32, unless ``options`` override this.
    """

    def __init__(self, checkpoint: Path, **options: Any) -> None:
        arguments = PipelineArgs.from_flat_kwargs(
            **{
                "model_path": str(checkpoint),
                "weight_path": [],
                "device_specs": [DeviceSpec.cpu()],
                "quantization_encoding": "float32",
                "custom_architectures": [ARCHITECTURES],
                **options,
            }
        )
        retrieved = PIPELINE_REGISTRY.retrieve_factory(
            PipelineConfig.from_args(arguments)
        )
        self.tokenizer: Any = retrieved.tokenizer
        self._pipeline: Any = retrieved.factory()
        self.model = self._pipeline._pipeline_model
        self._steps: list[np.ndarray] = []
        execute = self.model.execute

        def recording(model_inputs: Any) -> Any:
            outputs = execute(model_inputs=model_inputs)
            self._steps.append(outputs.logits.to_numpy().copy())
            return outputs

        self.model.execute = recording

    def context(self, case: Case) -> Any:
        """Returns the context of a case: its tokens, tiles and image positions."""
        request = TextGenerationRequest(
            request_id=RequestID(),
            model_name="test",
            messages=[_placeholders(message) for message in case.messages],
            images=[_png(image) for image in case.images],
            sampling_params=SamplingParams(
                max_new_tokens=STEPS + 1, top_k=1, ignore_eos=True
            ),
        )
        return asyncio.run(self.tokenizer.new_context(request))

    def decode(self, cases: Sequence[Case]) -> list[Answer]:
        """Decodes the cases in one batch."""
        answers = [Answer() for _ in cases]
        contexts = [self.context(case) for case in cases]
        self._steps.clear()
        with GenerateIterator.from_contexts(
            self._pipeline, contexts, caller="test"
        ) as batch:
            while not batch.done:
                for index, tokens in batch.step().items():
                    answers[index].token_ids += tokens
        for logits in self._steps:
            for answer, row in zip(answers, logits, strict=True):
                answer.logits.append(row)
        return answers


def rounding_error(pipeline: Pipeline, oracle: Reference, name: str) -> np.ndarray:
    """Returns the error of a case's logits, by token; its tokens must be equal."""
    sample = case(name, int(pipeline.model.arch_config.model.vision_config.image_size))
    (answer,) = pipeline.decode([sample])
    expected = oracle.decode(sample.messages, STEPS)
    assert answer.token_ids == expected.token_ids
    return spread_error(np.stack(answer.logits), expected.logits)


def _placeholders(message: dict[str, Any]) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return message
    parts = [
        {"type": "image"} if part["type"] == "image" else part
        for part in message["content"]
    ]
    return {**message, "content": parts}


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
