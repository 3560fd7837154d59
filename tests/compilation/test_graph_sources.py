"""Compiled graphs are kept as long as what they are made of stays the same."""

from __future__ import annotations

import ast
from pathlib import Path

import mllama
from mllama.compilation.host import GRAPH_SOURCES, graph_source_files

PACKAGE = Path(mllama.__file__).parent

NO_PART_OF_A_GRAPH = {
    "__init__.py",
    "errors.py",
    "version.py",
    "kernels/__init__.py",
    "kernels/ops/__init__.py",
    "max_compat/__init__.py",
    # What it finds is a field of the manifest.
    "utils/cpu.py",
    "utils/__init__.py",
}


def imported_files(file: Path) -> set[Path]:
    """The files of this package that one imports, also within functions."""
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


def test_every_source_that_a_graph_is_made_of_is_in_the_digest() -> None:
    digested = set(graph_source_files())
    # Of MAX's interface the network is a part; weights and memory are not.
    waiting = list((PACKAGE / "nn").rglob("*.py"))
    reached: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file not in reached:
            reached.add(file)
            waiting += imported_files(file)
    missing = {str(file.relative_to(PACKAGE)) for file in reached - digested}
    assert missing <= NO_PART_OF_A_GRAPH


def test_the_sources_of_graphs_exist() -> None:
    for name in GRAPH_SOURCES:
        path = PACKAGE / name
        inside = [file for file in graph_source_files() if file.is_relative_to(path)]
        assert inside, name


def test_a_change_elsewhere_compiles_nothing_anew() -> None:
    rooms = {file.relative_to(PACKAGE).parts[0] for file in graph_source_files()}
    assert rooms == {"config", "kernels", "max_compat", "max_model", "nn"}
    assert PACKAGE / "kernels" / "ops" / "gguf_quantize.py" not in graph_source_files()
