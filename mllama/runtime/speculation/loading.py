"""Makes what guesses the next tokens, as the model's settings say."""

from __future__ import annotations

from typing import Any

from mllama.max_compat.pipeline import pipeline_model
from mllama.max_model.settings import ModelSettings
from mllama.runtime.speculation.prompt_lookup import PromptLookup
from mllama.runtime.speculation.speculation import Speculation


def load_speculation(pipeline: Any) -> Speculation | None:
    """Returns what guesses the next tokens of a pipeline's requests.

    Args:
        pipeline: MAX's pipeline of an ``MllamaModel`` on a CPU.

    Returns:
        None if nothing is to be guessed.
    """
    model = pipeline_model(pipeline)
    if ModelSettings.from_max(model.pipeline_config.model).speculate == "off":
        return None
    vocabulary = model.arch_config.model.text_config.vocab_size
    return Speculation(
        PromptLookup(),
        pipeline.kv_manager,
        page_size=model.kv_params.page_size,
        vocab_size=min(vocabulary, pipeline.vocab_size or vocabulary),
        observes=True,
    )
