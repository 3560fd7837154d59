"""Proxies and certificates of the environment are used, or refused by name."""

from __future__ import annotations

import importlib.util
import os
import ssl
from pathlib import Path
from typing import Any

import certifi
import pytest

from mllama.errors import MllamaError
from mllama.utils.proxies import Proxy, certificate_variable, proxy_for, ssl_context


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("SSL_CERT_"):
            monkeypatch.delenv(name)


def test_without_variables_there_is_no_proxy() -> None:
    assert proxy_for("https", "example.com", 443) is None


def test_the_scheme_s_own_proxy_precedes_that_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5h://all:1080")
    monkeypatch.setenv("HTTPS_PROXY", "secure:3128")
    assert proxy_for("https", "a", 443) == Proxy("http://secure:3128", "HTTPS_PROXY")
    assert proxy_for("http", "a", 80) == Proxy("socks5h://all:1080", "ALL_PROXY")
    monkeypatch.setenv("https_proxy", "http://lower:1")
    assert proxy_for("https", "a", 443) == Proxy("http://lower:1", "https_proxy")


@pytest.mark.parametrize(
    ("value", "host", "port", "is_excluded"),
    [
        ("*", "a.com", 80, True),
        ("b.com, a.com", "a.com", 80, True),
        ("a.com b.com", "x.a.com", 80, True),
        (".a.com", "x.a.com", 80, True),
        (".a.com", "a.com", 80, True),
        ("*.a.com", "x.a.com", 80, True),
        ("A.com", "a.COM", 80, True),
        ("a.com", "aa.com", 80, False),
        ("a.com:80", "a.com", 80, True),
        ("a.com:81", "a.com", 80, False),
        ("https://a.com", "a.com", 443, True),
        ("::1", "::1", 80, True),
        ("localhost,127.0.0.1,::1", "::1", 80, True),
        ("[::1]", "::1", 80, True),
        ("[::1]:80", "::1", 80, True),
        ("[::1]:81", "::1", 80, False),
        ("::1/128", "::1", 80, True),
        ("fe80::/10", "fe81::2", 80, True),
        ("10.0.0.0/8", "10.1.2.3", 80, True),
        ("10.0.0.0/8", "11.1.2.3", 80, False),
        ("10.0.0.0/8", "a.com", 80, False),
        ("127.0.0.1", "::1", 80, False),
        (",, :, [, *.", "a.com", 80, False),
    ],
)
def test_no_proxy_lists_names_addresses_and_networks(
    value: str, host: str, port: int, is_excluded: bool, monkeypatch: Any
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy:1")
    monkeypatch.setenv("NO_PROXY", value)
    assert (proxy_for("http", host, port) is None) == is_excluded


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("http://a:b", "not the URL"),
        ("http://", "not the URL"),
        ("http://[::1", "not the URL"),
        ("http://a b:1", "not the URL"),
        ("http://a:99999", "not the URL"),
        ("socks4://a:1", "'socks4'"),
        ("ftp://a", "'ftp'"),
    ],
)
def test_a_proxy_that_can_not_be_used_is_refused_by_its_variable(
    value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises(MllamaError, match=reason) as caught:
        proxy_for("http", "example.com", 80)
    assert str(caught.value).startswith("ALL_PROXY ")


def test_a_password_of_a_proxy_is_not_in_the_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://user:secret@a:b")
    with pytest.raises(MllamaError) as caught:
        proxy_for("http", "example.com", 80)
    assert "secret" not in str(caught.value)


def test_without_its_package_a_socks_proxy_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://a:1")
    assert proxy_for("http", "b", 80)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MllamaError, match=r"ALL_PROXY .*mllama\[socks\]"):
        proxy_for("http", "b", 80)


def test_certificates_are_certifi_s_or_the_environment_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody = ssl_context().cert_store_stats()["x509_ca"]
    assert everybody > 50
    assert certificate_variable() is None
    first, end, _ = Path(certifi.where()).read_text().partition("-----END CERT")
    (tmp_path / "one.pem").write_text(first + end + "IFICATE-----\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "one.pem"))
    assert ssl_context().cert_store_stats()["x509_ca"] == 1
    assert certificate_variable() == "SSL_CERT_FILE"
    assert ssl_context().verify_mode == ssl.CERT_REQUIRED
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert ssl_context().check_hostname


def test_certificates_that_can_not_be_read_are_refused_by_their_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").write_text("text")
    for variable, value, reason in (
        ("SSL_CERT_DIR", str(tmp_path / "no"), "no directory"),
        ("SSL_CERT_FILE", "/nosuch.pem", "can't be read"),
        ("SSL_CERT_FILE", str(tmp_path / "text"), "no certificates"),
        ("SSL_CERT_FILE", str(tmp_path), "can't be read|no certificates"),
    ):
        monkeypatch.setenv(variable, value)
        with pytest.raises(MllamaError, match=reason) as caught:
            ssl_context()
        assert str(caught.value).startswith(f"{variable} names '{value}'")
