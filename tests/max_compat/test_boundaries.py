"""MAX is touched in one place: its private names, and changes of its objects."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mllama

PACKAGE = Path(mllama.__file__).parent
COMPAT = PACKAGE / "max_compat"

PUBLIC_MODULES = {
    "max.driver",
    "max.dtype",
    "max.engine",
    "max.graph",
    "max.graph.quantization",
    "max.graph.weights",
    "max.pipelines.context",
    "max.pipelines.context.exceptions",
    "max.pipelines.kv_cache",
    "max.pipelines.lib",
    "max.pipelines.modeling.types",
}
"""Modules that MAX documents; so is all of ``max.nn`` and ``max.tree``."""

OWN_OBJECTS = {
    ("cli/demo.py", "client"),
    ("cli/serve.py", "by_name"),
    ("cluster/engine_client.py", "affinity"),
    ("max_compat/kv_cache_ops.py", "stand_in"),
    ("max_model/graphs.py", "weight"),
    ("max_model/model.py", "config"),
    ("runtime/overlap.py", "step"),
    ("runtime/speculation/guess_budget.py", "pace"),
    ("runtime/speculation/guessing_context.py", "guessing"),
    ("server/arrival/tls_connections.py", "http"),
    ("server/batches/input_check.py", "batch"),
    ("server/batches/job.py", "batch"),
    ("server/batches/result_files.py", "batch"),
    ("server/batches/result_files.py", "counts"),
    ("server/batches/record_store.py", "record"),
    ("server/batches/upload.py", "upload"),
    ("server/batches/worker.py", "job"),
    ("server/dialects/openai/chat_answer.py", "choice"),
    ("server/dialects/openai/completion_answer.py", "answer"),
    ("server/dialects/openai/completion_answer.py", "answers"),
    ("server/metrics_page.py", "server"),
    ("server/observability/log_format.py", "sys"),
    ("server/observability/metrics.py", "record"),
    ("server/observed_engine.py", "record"),
    ("server/observability/tracing.py", "record"),
    ("server/request_middleware.py", "record"),
}
"""Files and variables whose attributes are assigned, and that are objects of this
package, of other libraries, or weights of ``max.nn``, which are made to be filled in.
So are the modules that ``nn/`` builds."""


def sources(*, compat: bool = False) -> Iterator[tuple[str, ast.Module]]:
    """Our files and their syntax trees."""
    for file in sorted(PACKAGE.rglob("*.py")):
        if compat or not file.is_relative_to(COMPAT):
            name = file.relative_to(PACKAGE).as_posix()
            yield name, ast.parse(file.read_text(encoding="utf-8"))


def private_imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{each.name}" for each in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] != "max":
                continue
            module = ".".join(parts[:-1]) if isinstance(node, ast.ImportFrom) else name
            is_public = (
                module in {"max", *PUBLIC_MODULES}
                or module.startswith(("max.nn", "max.tree"))
            ) and not any(part.startswith("_") for part in parts)
            if not is_public:
                yield name


def root(node: ast.expr) -> str:
    """The variable that an attribute belongs to in the end."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def own_private_names(tree: ast.Module) -> set[str]:
    """Private names that a file defines itself."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and root(node) in ("self", "cls"):
            names.add(node.attr)
        elif isinstance(node, ast.Name):
            names.add(node.id)
    return names


def private_attributes(tree: ast.Module) -> Iterator[str]:
    own = own_private_names(tree)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
            and root(node) not in ("self", "cls", "forkserver", "os", "util")
            and node.attr not in own
        ):
            yield f"{ast.unparse(node)} (line {node.lineno})"


def imports_max(tree: ast.Module) -> bool:
    """Whether a file may hold objects of MAX."""
    modules = {
        name
        for node in ast.walk(tree)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [each.name for each in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }
    return any(
        name.split(".")[0] == "max"
        or name.startswith(("mllama.max_compat", "mllama.runtime", "mllama.server"))
        for name in modules
    )


def assigned_objects(tree: ast.Module) -> Iterator[str]:
    """Variables whose attributes a file assigns."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
            targets = [node.target]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "setattr"
        ):
            yield root(node.args[0])
            continue
        else:
            continue
        for target in targets:
            for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(each, ast.Attribute) and root(each) not in ("self", ""):
                    yield root(each)


def test_private_names_of_max_are_imported_in_one_folder() -> None:
    found = {name: list(private_imports(tree)) for name, tree in sources()}
    assert {name: names for name, names in found.items() if names} == {}


def test_private_attributes_of_max_are_read_in_one_folder() -> None:
    found = {name: list(private_attributes(tree)) for name, tree in sources()}
    assert {name: names for name, names in found.items() if names} == {}


def test_objects_of_max_are_changed_in_one_file() -> None:
    found = {
        (name, variable)
        for name, tree in sources(compat=True)
        if name != "max_compat/patches.py"
        and not name.startswith("nn/")
        and imports_max(tree)
        for variable in assigned_objects(tree)
    }
    assert found <= OWN_OBJECTS


def test_patches_import_nothing_else_of_ours_and_say_what_they_are_for() -> None:
    text = (COMPAT / "patches.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    modules = {
        node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
    }
    assert not any(module.startswith("mllama") for module in modules)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert functions
    for function in functions:
        docstring = ast.get_docstring(function) or ""
        for heading in ("Why:", "Until:"):
            assert heading in docstring, function.name


@pytest.mark.parametrize(
    ("code", "finds"),
    [
        ("from max._mlir_context import ensure", private_imports),
        ("from max.serve.scheduler import load_scheduler", private_imports),
        ("from max.pipelines.lib import _hidden", private_imports),
        ("import max.serve", private_imports),
        ("pipeline._pipeline_model.image_cache", private_attributes),
        ("pipeline.execute = execute", assigned_objects),
        ("pipeline.kv_manager.alloc = alloc", assigned_objects),
        ("a.execute, b.release = execute, release", assigned_objects),
        ("setattr(session, 'init_all', init)", assigned_objects),
    ],
)
def test_a_violation_is_found(code: str, finds: object) -> None:
    assert callable(finds)
    assert list(finds(ast.parse(code)))
