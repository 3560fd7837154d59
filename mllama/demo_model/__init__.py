"""The demo: a small trained vision model, its scenes, training and evaluation.

The model answers questions about simple drawn scenes (colored shapes and printed
digits).  It is a genuine ``MllamaForConditionalGeneration`` in Hugging Face layout,
small enough to ship with the package, so that the server can be tried and tested
without downloading Meta's weights.

Importing this package is cheap: it loads neither torch nor the inference engine.
"""

from __future__ import annotations

from pathlib import Path

MODEL_PATH: Path = Path(__file__).resolve().parent / "checkpoint"
"""Directory of the shipped demo model, in Hugging Face layout."""

__all__ = ["MODEL_PATH"]
