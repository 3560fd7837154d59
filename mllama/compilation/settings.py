"""The directories of compiled graphs, chosen before MAX is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllama.compilation.manifest import Manifest
from mllama.compilation.store import COMPILED_DIRECTORY, CompiledStore, check_target
from mllama.errors import CompiledModelError
from mllama.utils.cache_dir import cache_root


@dataclass(frozen=True, kw_only=True)
class CompiledSettings:
    """The directories that compiled graphs are loaded from and saved to.

    Attributes:
        manifest: Describes the graphs.
        cache: The directory of its graphs in the cache.
        saved: A saved model to load graphs from instead of compiling them.
        save_to: A directory to save the graphs to.
        compile_in_background: Whether graphs for this CPU are compiled in the
            background if graphs for any CPU are in use.
    """

    manifest: Manifest
    cache: Path
    saved: Path | None = None
    save_to: Path | None = None
    compile_in_background: bool = False

    @classmethod
    def create(
        cls,
        manifest: Manifest,
        *,
        saved: str | Path | None = None,
        save_to: str | Path | None = None,
        compile_in_background: bool = False,
    ) -> CompiledSettings:
        """Returns settings after checking that their directories fit.

        Args:
            manifest: Describes the graphs.
            saved: A saved model to load graphs from.
            save_to: A directory to save the graphs to.
            compile_in_background: See the attribute.

        Raises:
            CompiledModelError: If ``saved`` has no compiled model, is damaged or was
                compiled for something else, or if ``save_to`` can't be used.
        """
        if saved is not None:
            found, _ = CompiledStore.open_verified(Path(saved))
            if mismatches := found.mismatches(manifest):
                raise CompiledModelError(
                    f"{saved} was compiled for something else: "
                    f"{'; '.join(mismatches)}; use what it was compiled for, "
                    "or compile it again"
                )
        if save_to is not None:
            check_target(Path(save_to))
        return cls(
            manifest=manifest,
            cache=cache_root() / COMPILED_DIRECTORY / manifest.key(),
            saved=_absolute(saved),
            save_to=_absolute(save_to),
            compile_in_background=compile_in_background,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON values."""
        paths = {"cache": self.cache, "saved": self.saved, "save_to": self.save_to}
        return {
            "manifest": self.manifest.to_dict(),
            "compile_in_background": self.compile_in_background,
            **{name: str(path) for name, path in paths.items() if path is not None},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CompiledSettings:
        """Returns settings from the result of :meth:`to_dict`."""
        others = dict(values)
        manifest = Manifest.from_dict(others.pop("manifest"))
        compile_in_background = others.pop("compile_in_background")
        paths = {name: Path(value) for name, value in others.items()}
        return cls(
            manifest=manifest, compile_in_background=compile_in_background, **paths
        )


def _absolute(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).absolute()
