"""Many replicas of the model on a Ray cluster, with the extra ``mllama[cluster]``.

``mllama cluster serve`` starts them.  :func:`build_app` is the same application for
``serve run mllama.cluster:build_app`` and Ray Serve's configuration files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mllama.cluster.serve_app import build_app

__all__ = ["build_app"]


def __getattr__(name: str) -> Any:
    # Imported on first use: it loads Ray.
    if name == "build_app":
        from mllama.cluster.ray_import import import_ray

        import_ray()
        from mllama.cluster.serve_app import build_app

        return build_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
