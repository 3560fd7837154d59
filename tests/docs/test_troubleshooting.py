"""Messages that ``docs/troubleshooting.md`` quotes are those of the sources."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.docs.markdown import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"

_QUOTED = re.compile(r"`([^`]+)`")


def quoted_messages() -> list[str]:
    """Returns the messages in the first column of the page's tables."""
    rows = [
        line.split("|")[1]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    return [message for row in rows for message in _QUOTED.findall(row)]


@cache
def source_texts() -> tuple[str, ...]:
    """Returns the strings in the package's sources, ``...`` for what is filled in.

    Docstrings are left out.
    """
    texts = []
    for file in sorted((ROOT / "mllama").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if node in docstrings:
                continue
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(_part(part) for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return tuple(texts)


def _part(node: ast.expr) -> str:
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return str(node.value) if is_text else "..."  # type: ignore[attr-defined]


def occurs(message: str, texts: tuple[str, ...]) -> bool:
    """Returns True if a message, with ``...`` for anything, is part of a text."""
    parts = [part for part in re.split(r"\s*\.\.\.\s*", message) if part]
    pattern = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
    return any(pattern.search(text) for text in texts)


@pytest.mark.parametrize("message", quoted_messages())
def test_a_quoted_message_is_in_the_sources(message: str) -> None:
    assert occurs(message, source_texts())


def test_the_page_quotes_messages() -> None:
    assert len(quoted_messages()) > 30


def test_another_message_is_not_found() -> None:
    assert not occurs("the ... can't run the decoding ...", source_texts())
