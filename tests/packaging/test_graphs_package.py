"""The companion package has the forms that are compiled, and they are found in it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from graphs import build
from graphs.forms import MODELS, Form, all_forms
from mllama.compilation import shipped
from mllama.compilation.host import CPU_TARGETS
from mllama.compilation.manifest import Manifest
from mllama.compilation.store import CompiledStore, GraphKey
from mllama.utils import cpu
from mllama.version import __version__

FORM = Form("11b", "q4_k", "cpu:x86-64-v3")
KEY = GraphKey.of("text", "what it computes")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the forms that a build compiles, into an empty folder."""
    monkeypatch.setattr(build, "BUILD", tmp_path)
    monkeypatch.setattr(build, "PACKAGE", tmp_path / shipped.GRAPHS_PACKAGE)
    monkeypatch.setattr(build, "PARTIAL", tmp_path / "partial")
    monkeypatch.setattr(cpu, "_assumed", CPU_TARGETS["x86-64-v3"])
    names: list[str] = []

    def compile_for_target(compilation: object, directory: Path) -> None:
        store = CompiledStore(directory)
        store.add(KEY, lambda part: part.write_text("code") and None)
        store.write_manifest(FORM.compilation.manifest)
        names.append(directory.name)

    monkeypatch.setattr(build, "compile_for_target", compile_for_target)
    return names


def test_a_build_goes_on_where_it_ended(compiled: list[str]) -> None:
    build.build_form(FORM)
    build.build_form(FORM)
    assert compiled == ["11b-q4_k-x86-64-v3"]


def test_forms_from_other_sources_are_compiled_again_or_removed(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build.build_form(FORM)
    versions = {"sources": "another"}
    monkeypatch.setattr(shipped, "versions", lambda: versions)
    assert shipped.staleness(build.PACKAGE / FORM.name) is not None
    build.remove_stale_forms()
    assert not (build.PACKAGE / FORM.name).exists()


def test_the_wheel_has_the_compiled_forms(compiled: list[str], tmp_path: Path) -> None:
    build.build_form(FORM)
    build.build_wheel(tmp_path / "dist")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert wheel.name.startswith(f"mllama_graphs-{__version__}-")
    names = zipfile.ZipFile(wheel).namelist()
    (graph,) = [name for name in names if name.endswith(".mef.xz")]
    assert graph.startswith("mllama_graphs/11b-q4_k-x86-64-v3/text-")
    assert "mllama_graphs/11b-q4_k-x86-64-v3/manifest.json" in names


def test_the_extra_is_pinned_to_this_version() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'graphs = ["mllama-graphs=={__version__}"]' in text


def test_forms_have_distinct_names_and_known_targets() -> None:
    forms = list(all_forms())
    assert len({form.name for form in forms}) == len(forms) == 20
    for form in forms:
        assert form.compilation.config is MODELS[form.model]


def test_a_start_of_the_published_model_finds_its_form(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build.build_form(FORM)
    monkeypatch.setattr(shipped, "GRAPHS_PATH", build.PACKAGE)
    (form,), _ = shipped.shipped_forms(
        Manifest.for_this_machine(
            MODELS["11b"],
            encoding="q4_k",
            formats=FORM.compilation.formats,
            devices=("cpu",),
        )
    )
    assert form.find(KEY) is not None
