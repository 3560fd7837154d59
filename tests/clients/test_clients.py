"""Unmodified clients get from the server what they expect of OpenAI's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from tests.server.conftest import Server, running

from .checks import CLIENTS, NODE_CLIENTS, checks_of, outcomes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("clients") / "log"
    with running(log) as started:
        yield started


@pytest.fixture(scope="module")
def outcome_of(server: Server) -> Any:
    """Returns the outcomes of a client's checks, which run once."""
    return cache(lambda client: outcomes(client, server.url))


@pytest.mark.parametrize(
    ("client", "check"),
    [(client, check) for client in CLIENTS for check in checks_of(client)],
)
def test_a_client_works(outcome_of: Any, client: str, check: str) -> None:
    if client in NODE_CLIENTS and not shutil.which("node"):
        pytest.skip("Node is missing")
    failure = outcome_of(client)[check]
    assert failure is None, failure


def test_every_client_has_checks() -> None:
    assert CLIENTS
    assert all(map(checks_of, CLIENTS))
