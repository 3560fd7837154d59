"""Telemetry is off by default, and users can turn it on."""

from __future__ import annotations

import os

import pytest

from mllama.utils.telemetry import SWITCH, disable_telemetry


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the environment by an empty one."""
    monkeypatch.setattr(os, "environ", {})


@pytest.mark.parametrize("server", [False, True])
def test_all_telemetry_is_off(server: bool) -> None:
    disable_telemetry(server=server)
    assert os.environ["MODULAR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
    # A server only stops sending: its own /metrics page stays.
    assert ("OTEL_SDK_DISABLED" in os.environ) == server
    assert ("MAX_SERVE_DISABLE_TELEMETRY" in os.environ) != server


def test_a_variable_that_the_user_sets_is_kept() -> None:
    os.environ["MODULAR_TELEMETRY_ENABLED"] = "1"
    disable_telemetry()
    assert os.environ["MODULAR_TELEMETRY_ENABLED"] == "1"


def test_the_switch_leaves_the_environment_alone() -> None:
    os.environ[SWITCH] = "1"
    disable_telemetry(server=True)
    assert not [name for name in os.environ if "TELEMETRY" in name and name != SWITCH]
    assert "OTEL_SDK_DISABLED" not in os.environ
