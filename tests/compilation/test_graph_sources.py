"""Compiled graphs stay valid as long as their sources don't change."""

from __future__ import annotations

import ast
from pathlib import Path

import mllama
from mllama.compilation.host import GRAPH_SOURCES, graph_source_files

PACKAGE = Path(mllama.__file__).parent

UNRELATED_TO_GRAPHS = {
    "utils/atomic_file.py",
    "utils/cache_dir.py",
    "__init__.py",
    "errors.py",
    "version.py",
    "kernels/__init__.py",
    "kernels/ops/__init__.py",
    "max_compat/__init__.py",
    # It builds packages whose sources are in the digest.
    "max_compat/mojo_packages.py",
    # The CPU features that it returns are a field of the manifest.
    "utils/cpu.py",
    "utils/__init__.py",
}


def imported_files(file: Path) -> set[Path]:
    """Returns the files of this package that a file imports, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        if node.module.split(".")[0] != "mllama":
            continue
        names = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
        for name in names:
            path = PACKAGE.joinpath(*name.split(".")[1:])
            found |= {path.with_suffix(".py"), path / "__init__.py"}
    return {path for path in found if path.is_file()}


def test_the_digest_covers_every_file_that_the_network_imports() -> None:
    digested = set(graph_source_files())
    # The model classes around the network only load weights and plan memory.
    waiting = list((PACKAGE / "nn").rglob("*.py"))
    reached: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file not in reached:
            reached.add(file)
            waiting += imported_files(file)
    missing = {str(file.relative_to(PACKAGE)) for file in reached - digested}
    assert missing <= UNRELATED_TO_GRAPHS


def test_every_graph_source_names_existing_files() -> None:
    for name in GRAPH_SOURCES:
        path = PACKAGE / name
        inside = [file for file in graph_source_files() if file.is_relative_to(path)]
        assert inside, name


def test_files_outside_the_graph_sources_are_not_in_the_digest() -> None:
    folders = {file.relative_to(PACKAGE).parts[0] for file in graph_source_files()}
    assert folders == {"config", "kernels", "max_compat", "max_model", "nn"}
    assert PACKAGE / "kernels" / "ops" / "gguf_quantize.py" not in graph_source_files()
