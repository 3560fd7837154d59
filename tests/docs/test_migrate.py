"""What docs/migrate.md names on this package's side exists."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from mllama import LLM
from mllama.cli.main import COMMANDS, group
from mllama.launch.options import EngineOptions

PAGE = Path(__file__).resolve().parents[2] / "docs" / "migrate.md"

_ROW = re.compile(r"^\| (?P<theirs>.*?) \| (?P<ours>.*) \|$", re.MULTILINE)
_CODE = re.compile(r"`([^`]+)`")


def ours() -> list[str]:
    """The code in the second column of all tables."""
    text = PAGE.read_text(encoding="utf-8").replace("\\|", "/")
    rows = [match for match in _ROW.finditer(text) if match["ours"] != "here"]
    assert len(rows) > 50
    return [code for row in rows for code in _CODE.findall(row["ours"])]


@pytest.fixture(scope="module")
def options() -> set[str]:
    """All options of the commands, MAX's too."""
    names: set[str] = set()
    for command in COMMANDS:
        found = group.get_command(click.Context(group), command)
        assert found is not None
        context = click.Context(found)
        for parameter in found.get_params(context):
            names.update(parameter.opts, parameter.secondary_opts)
    return names


def test_the_options_exist(options: set[str]) -> None:
    named = {
        word.partition("=")[0]
        for code in ours()
        for word in code.split()
        if word.startswith("--")
    }
    assert len(named) > 25
    assert named - options == set()


def test_the_commands_exist() -> None:
    named = {code.split()[1] for code in ours() if code.startswith("mllama ")}
    assert named - set(COMMANDS) == set()


def test_the_arguments_of_llm_exist() -> None:
    named = {name for code in ours() for name in re.findall(r"\b(\w+)=", code)}
    fields = set(EngineOptions.__dataclass_fields__)
    settings = {"images", "max_new_tokens", "stream", "lora_path"}
    assert named - fields - settings == set()
    assert all(hasattr(LLM, name) for name in ("chat", "generate", "complete"))
