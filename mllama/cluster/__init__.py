"""Many replicas of the model on a Ray cluster, with the extra ``mllama[cluster]``.

``mllama cluster serve`` starts them.  :func:`build_app` is the same application for
``serve run mllama.cluster:build_app`` and Ray Serve's configuration files.
:func:`answer` and :func:`answer_into` ask about the rows of a dataset of Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mllama.cluster.dataset import answer, answer_into
    from mllama.cluster.serve_app import build_app

__all__ = ["answer", "answer_into", "build_app"]

_MODULES = {"answer": "dataset", "answer_into": "dataset", "build_app": "serve_app"}


def __getattr__(name: str) -> Any:
    # Imported on first use: it loads Ray.
    if name in _MODULES:
        from mllama.cluster.ray_import import import_ray

        import_ray()
        return getattr(import_module(f"mllama.cluster.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
