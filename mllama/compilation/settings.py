"""The directories of a start's compiled graphs, chosen before MAX is loaded."""

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
    """The directories that a start loads compiled graphs from and saves them to.

    Attributes:
        manifest: Describes the start.
        cache: The directory of its graphs in the cache.
        saved: A saved model to load graphs from instead of compiling them.
        save_to: A directory to save the graphs to.
    """

    manifest: Manifest
    cache: Path
    saved: Path | None = None
    save_to: Path | None = None

    @classmethod
    def create(
        cls,
        manifest: Manifest,
        *,
        saved: str | Path | None = None,
        save_to: str | Path | None = None,
    ) -> CompiledSettings:
        """Returns settings after checking that their directories fit the start.

        Args:
            manifest: Describes the start.
            saved: A saved model to load graphs from.
            save_to: A directory to save the graphs to.

        Raises:
            CompiledModelError: If ``saved`` holds no compiled model, is damaged or was
                compiled for another start, or if ``save_to`` can't be used.
        """
        if saved is not None:
            found, _ = CompiledStore.open_verified(Path(saved))
            if mismatches := found.mismatches(manifest):
                raise CompiledModelError(
                    f"{saved} was compiled for another start: "
                    f"{'; '.join(mismatches)}; start with what it was compiled for, "
                    "or compile it again"
                )
        if save_to is not None:
            check_target(Path(save_to))
        return cls(
            manifest=manifest,
            cache=cache_root() / COMPILED_DIRECTORY / manifest.key(),
            saved=_absolute(saved),
            save_to=_absolute(save_to),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON values."""
        paths = {"cache": self.cache, "saved": self.saved, "save_to": self.save_to}
        return {
            "manifest": self.manifest.to_dict(),
            **{name: str(path) for name, path in paths.items() if path is not None},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CompiledSettings:
        """Returns settings from the result of :meth:`to_dict`."""
        paths = {n: Path(value) for n, value in values.items() if n != "manifest"}
        return cls(manifest=Manifest.from_dict(values["manifest"]), **paths)


def _absolute(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).absolute()
