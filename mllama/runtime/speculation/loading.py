"""Makes what guesses the next tokens, as the model's settings say."""

from __future__ import annotations

import logging
from typing import Any

from mllama.max_compat.pipeline import pipeline_model
from mllama.max_model.draft.memory import draft_summary
from mllama.max_model.draft.model import DraftModel
from mllama.max_model.memory_planner import draft_pages
from mllama.max_model.settings import ModelSettings
from mllama.runtime.speculation.draft_proposer import DraftProposer
from mllama.runtime.speculation.prompt_lookup import PromptLookup
from mllama.runtime.speculation.speculation import Speculation

logger = logging.getLogger("mllama")


def load_draft_model(pipeline: Any) -> DraftModel | None:
    """Loads the draft model of a pipeline; None if it has none.

    Its graph becomes part of a compiled model that is saved.

    Args:
        pipeline: MAX's pipeline of an ``MllamaModel`` on a CPU.

    Raises:
        CheckpointError: If a file is damaged or of another model.
    """
    model = pipeline_model(pipeline)
    config, pipeline_config = model.arch_config, model.pipeline_config
    settings = ModelSettings.from_max(pipeline_config.model).draft
    if settings is None:
        return None
    pages = draft_pages(settings, config, pipeline_config)
    draft = DraftModel.load(
        settings,
        pipeline.session,
        model.devices[0],
        num_pages=pages,
        max_length=config.max_seq_len,
    )
    logger.info(draft_summary(settings, pages))
    return draft


def load_speculation(pipeline: Any, draft: DraftModel | None) -> Speculation | None:
    """Returns what guesses the next tokens of a pipeline's requests.

    Args:
        pipeline: MAX's pipeline of an ``MllamaModel`` on a CPU.
        draft: The draft model, which guesses them if there is one.

    Returns:
        None if nothing is to be guessed.
    """
    model = pipeline_model(pipeline)
    if ModelSettings.from_max(model.pipeline_config.model).speculate == "off":
        return None
    vocabulary = model.arch_config.model.text_config.vocab_size
    return Speculation(
        PromptLookup() if draft is None else DraftProposer(draft),
        pipeline.kv_manager,
        page_size=model.kv_params.page_size,
        vocab_size=min(vocabulary, pipeline.vocab_size or vocabulary),
        observes=draft is None,
    )
