"""Telemetry is off by default, and users can turn it on."""

from __future__ import annotations

import os

import pytest

from mllama.utils.telemetry import (
    SWITCH,
    TRACES,
    are_traces_configured,
    disable_telemetry,
)


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


ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@pytest.mark.parametrize(
    ("given", "endpoint"),
    [
        ({ENDPOINT: "http://c:4318/"}, "http://c:4318/v1/traces"),
        (
            {ENDPOINT: "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "http://c:4317",
        ),
        ({TRACES_ENDPOINT: "http://c/t"}, "http://c/t"),
        ({ENDPOINT: "http://other", TRACES_ENDPOINT: "http://c/t"}, "http://c/t"),
    ],
)
def test_a_collector_gets_traces_and_nobody_anything_else(
    given: dict[str, str], endpoint: str
) -> None:
    os.environ.update(given)
    for _ in range(2):
        disable_telemetry(server=True)
        assert are_traces_configured()
        assert os.environ[TRACES_ENDPOINT] == endpoint
        assert os.environ["OTEL_SDK_DISABLED"] == "true"
        assert os.environ["MODULAR_TELEMETRY_ENABLED"] == "0"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {ENDPOINT: "http://c", "OTEL_SDK_DISABLED": "true"},
        {ENDPOINT: "http://c", TRACES: "0"},
        {TRACES: "1"},
    ],
)
def test_without_a_collector_nothing_is_exported(given: dict[str, str]) -> None:
    os.environ.update(given)
    disable_telemetry(server=True)
    assert not are_traces_configured()


def test_a_program_that_uses_the_library_keeps_its_own_traces() -> None:
    os.environ[ENDPOINT] = "http://c"
    disable_telemetry()
    assert TRACES not in os.environ
    assert TRACES_ENDPOINT not in os.environ
