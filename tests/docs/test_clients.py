"""The table of clients has those that are tested, in their versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.environments import REQUIREMENTS
from tests.docs.markdown import ROOT


def pinned_clients() -> list[str]:
    """Returns the pinned clients as their package managers write them."""
    found = [
        line for file in REQUIREMENTS.glob("*.in") for line in file.read_text().split()
    ]
    for file in REQUIREMENTS.glob("*.json"):
        dependencies = json.loads(file.read_text())["dependencies"]
        found += [f"{name}@{version}" for name, version in dependencies.items()]
    return sorted(found)


@pytest.mark.parametrize("client", pinned_clients())
def test_a_tested_client_is_in_the_table(client: str) -> None:
    assert f"| `{client}` |" in (ROOT / "docs" / "api.md").read_text()


@pytest.mark.parametrize("direct", sorted(REQUIREMENTS.glob("*.in")))
def test_a_client_is_pinned_with_all_that_it_needs(direct: Path) -> None:
    pinned = direct.with_suffix(".txt").read_text().split()
    assert set(direct.read_text().split()) <= set(pinned)
