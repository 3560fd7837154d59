"""Loads draft models with one session, whose graphs the cache keeps."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from max.driver import CPU
from max.engine import InferenceSession
from max.pipelines.lib import PipelineRuntimeConfig, ProfilingConfig

from mllama.compilation.graph_compiler import GraphCompiler
from mllama.compilation.manifest import Manifest
from mllama.compilation.settings import CompiledSettings
from mllama.config import MllamaConfig
from mllama.demo_model import MODEL_PATH
from mllama.launch.model_files import ModelFiles
from mllama.launch.resolve import resolve_model_files
from mllama.max_model.draft.model import DraftModel
from mllama.max_model.draft.settings import DraftSettings

PAGES = 24
MAX_LENGTH = 1024


@cache
def _session() -> InferenceSession:
    session = InferenceSession(devices=[CPU()])
    manifest = Manifest.for_this_machine(
        MllamaConfig.from_path(MODEL_PATH),
        encoding="float32",
        formats={},
        devices=("cpu",),
    )
    pipeline: Any = SimpleNamespace(
        runtime=PipelineRuntimeConfig(), profiling=ProfilingConfig()
    )
    compiler = GraphCompiler(session, pipeline, CompiledSettings.create(manifest))
    compiler.finish()
    return session


def load(settings: DraftSettings) -> DraftModel:
    """Loads a draft model."""
    return DraftModel.load(
        settings, _session(), CPU(), num_pages=PAGES, max_length=MAX_LENGTH
    )


def model_files() -> ModelFiles:
    """Returns the files of the demo model, which drafts are for."""
    return resolve_model_files(str(MODEL_PATH), device_type="cpu")


def random_tokens(count: int, seed: int) -> np.ndarray:
    """Returns tokens of the demo model's vocabulary that are no special ones."""
    return np.random.default_rng(seed).integers(0, 760, count)
