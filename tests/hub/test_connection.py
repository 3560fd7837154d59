"""A variable of the environment that the hub's client can't use is named."""

from __future__ import annotations

import importlib.util

import pytest

from mllama.errors import MllamaError
from mllama.hub.connection import check_connection

HUB = "https://hub.example"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("all_proxy", "http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTPS_PROXY", "foo://proxy:1"),
        ("https_proxy", "http://proxy:port"),
        ("ALL_PROXY", "http://"),
        ("SSL_CERT_FILE", "/no/such.pem"),
        ("SSL_CERT_DIR", "/no/such"),
        ("NO_PROXY", "localhost,[::1]"),
    ],
)
def test_a_variable_that_cant_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(MllamaError, match=variable):
        check_connection(HUB)


def test_socks_needs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy:1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MllamaError, match=r"ALL_PROXY.*mllama\[socks\]"):
        check_connection(HUB)


@pytest.mark.parametrize("no_proxy", ["localhost,::1", "*", ".example", "10.0.0.0/8"])
def test_others_are_fine(monkeypatch: pytest.MonkeyPatch, no_proxy: str) -> None:
    check_connection(HUB)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    check_connection(HUB)
    check_connection("http://localhost:8080")


def test_the_first_request_explains_an_address_that_is_none() -> None:
    check_connection("nonsense")
