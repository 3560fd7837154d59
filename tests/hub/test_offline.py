"""Without the hub, the copy in the cache is used."""

from __future__ import annotations

import pytest

from tests.hub.conftest import Machine
from tests.hub.stand_in import StandInHub


def test_an_unreachable_hub_falls_back_on_the_cache(
    hub: StandInHub, machine: Machine
) -> None:
    first = machine.download()
    hub.close()
    second = machine.download()
    assert second.model == first.model
    (line,) = second.stderr.splitlines()
    assert hub.endpoint in line
    assert "using the copy in the cache" in line


def test_offline_mode_sends_no_request(hub: StandInHub, machine: Machine) -> None:
    first = machine.download()
    hub.requests.clear()
    machine.environment["HF_HUB_OFFLINE"] = "1"
    second = machine.download()
    assert second.model == first.model
    assert second.stderr == ""
    assert not hub.requests


@pytest.mark.parametrize("status", [500, 503, 429])
def test_an_error_of_the_hub_falls_back_on_the_cache(
    hub: StandInHub, machine: Machine, status: int
) -> None:
    first = machine.download()
    hub.answer = status
    second = machine.download()
    assert second.model == first.model
    assert str(status) in second.stderr


def test_a_deleted_repository_is_still_in_the_cache(
    hub: StandInHub, machine: Machine
) -> None:
    first = machine.download()
    hub.repositories.clear()
    assert machine.download().model == first.model
