"""Compiled graphs that ship with this package, or in the package ``mllama-graphs``.

A form of a model is a directory of graphs for one kind of device, such as every CPU
with AVX2.  Its manifest lists the graphs as :mod:`mllama.compilation.store` does, and
each file is compressed with xz.  A graph is unpacked into the cache at its first use.
"""

from __future__ import annotations

import importlib.util
import logging
import lzma
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from mllama.compilation.host import versions
from mllama.compilation.manifest import RUNNABLE_KERNELS, Manifest
from mllama.compilation.store import COMPILED_DIRECTORY, CompiledStore, GraphKey
from mllama.demo_model import GRAPHS_PATH
from mllama.errors import CompiledModelError
from mllama.utils.cache_dir import cache_root

logger = logging.getLogger("mllama")

GRAPHS_PACKAGE = "mllama_graphs"
"""The package of graphs for the published models, each form a subdirectory."""

SUFFIX = ".xz"

_MAX_GRAPH_BYTES = 256 << 20
"""A larger graph is damaged: 90B's have 40 MB."""


class ShippedForm:
    """A form that ships, whose graphs are unpacked into the cache.

    Args:
        directory: The directory of the form.

    Attributes:
        manifest: What the graphs were compiled for.

    Raises:
        CompiledModelError: If the directory has no readable manifest.
    """

    def __init__(self, directory: Path) -> None:
        self.manifest, self._packed = CompiledStore.open(directory)
        self._unpacked: CompiledStore | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def find(self, key: GraphKey) -> Path | None:
        """Returns the file of a graph, unpacked, or None if it can't be used.

        A damaged graph is reported and counts as missing.
        """
        name = self._packed.file_name(key)
        if name is None:
            return None
        file = self._packed.directory / f"{name}{SUFFIX}"
        try:
            return self._unpack(key, name, file)
        except (OSError, EOFError, lzma.LZMAError, CompiledModelError) as error:
            reason = " ".join(str(error).split())
            logger.warning("%s is not used: %s", file, reason)
            return None

    def _unpack(self, key: GraphKey, name: str, file: Path) -> Path:
        store = self._unpacked or CompiledStore(
            cache_root() / COMPILED_DIRECTORY / self.manifest.key()
        )
        if (found := store.find_added(key)) is not None and found.name == name:
            return found
        graph = _decompressed(file)
        try:
            unpacked = store.add(key, lambda part: _write(part, graph))
        except OSError:
            # The cache can't be written.
            self._temporary = tempfile.TemporaryDirectory(prefix="mllama-graphs-")
            store = CompiledStore(Path(self._temporary.name))
            unpacked = store.add(key, lambda part: _write(part, graph))
        if unpacked.name != name:
            unpacked.unlink()
            raise CompiledModelError("its digest is another: it is damaged")
        self._unpacked = store
        store.write_manifest(self.manifest)
        return unpacked


def shipped_forms(requested: Manifest) -> tuple[list[ShippedForm], list[str]]:
    """Returns the forms that can be used here, the fastest first.

    Args:
        requested: Describes the graphs that would be compiled here.

    Returns:
        The forms, and for each form of the same model that can't be used a line that
        says why.
    """
    forms, obstacles = [], []
    for directory in _directories():
        try:
            form = ShippedForm(directory)
        except CompiledModelError as error:
            obstacles.append(str(error))
            continue
        if not form.manifest.is_for(requested):
            continue
        if mismatches := form.manifest.mismatches(requested):
            obstacles.append(f"{directory}: {'; '.join(mismatches)}")
        else:
            forms.append(form)
    return sorted(forms, key=_slowness(requested)), obstacles


def staleness(directory: Path) -> str | None:
    """Returns why a form is not of these versions and sources; None if it is."""
    try:
        manifest = ShippedForm(directory).manifest
    except CompiledModelError as error:
        return str(error)
    for name, value in versions().items():
        if (found := getattr(manifest, name)) != value:
            return f"{name} {found}, now {value}"
    return None


def _slowness(requested: Manifest) -> Callable[[ShippedForm], tuple[int, int]]:
    """Returns a sort key: the kernels first, then how many CPU features are used."""
    order = RUNNABLE_KERNELS[requested.kernels]
    return lambda form: (
        order.index(form.manifest.kernels),
        -len(form.manifest.cpu),
    )


def _directories() -> Iterator[Path]:
    """Yields the directories of all forms on this machine."""
    roots = [GRAPHS_PATH]
    spec = importlib.util.find_spec(GRAPHS_PACKAGE)
    if spec is not None:
        roots += [Path(each) for each in spec.submodule_search_locations or ()]
    for root in roots:
        if root.is_dir():
            yield from sorted(
                path
                for path in root.iterdir()
                if path.is_dir() and path.name != "__pycache__"
            )


def pack(directory: Path) -> None:
    """Compresses the graphs of a saved model in place, which makes it a form."""
    for file in directory.glob("*.mef"):
        packed = file.with_name(file.name + SUFFIX)
        preset = 9 | lzma.PRESET_EXTREME
        packed.write_bytes(lzma.compress(file.read_bytes(), preset=preset))
        file.unlink()


def _decompressed(file: Path) -> bytes:
    """Returns the content of a compressed file.

    Raises:
        CompiledModelError: If it is larger than any graph.
        lzma.LZMAError: If it is damaged.
    """
    decompressor = lzma.LZMADecompressor()
    graph = decompressor.decompress(file.read_bytes(), max_length=_MAX_GRAPH_BYTES)
    if not decompressor.eof:
        raise CompiledModelError("it is cut short, or too large for a graph")
    return graph


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
