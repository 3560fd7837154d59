"""Proxies and certificates that the environment names for HTTP requests.

httpx reads the same variables, but raises errors of any kind for values that it can't
use, and misses some forms of ``NO_PROXY``.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from mllama.errors import MllamaError

_SCHEMES: Final = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True)
class Proxy:
    """A proxy, and the environment variable that names it.

    Attributes:
        url: The proxy's URL, which may have a password.
        variable: The variable, such as ``HTTPS_PROXY``.
    """

    url: str
    variable: str


def proxy_for(scheme: str, host: str, port: int) -> Proxy | None:
    """Returns the proxy for requests to a host, or None.

    ``http_proxy`` or ``https_proxy`` has precedence over ``all_proxy``, and lower case
    over upper case.  ``no_proxy`` lists hosts that are reached without a proxy: names
    with their subdomains, addresses and networks, with or without a port, or ``*``.

    Args:
        scheme: ``http`` or ``https``.
        host: A host name, or an address without brackets.
        port: The port.

    Raises:
        MllamaError: If the proxy's variable can't be used.
    """
    for name in (f"{scheme}_proxy", "all_proxy"):
        variable = _set_variable(name)
        if variable is None:
            continue
        if _is_excluded(host, port):
            return None
        return _checked_proxy(os.environ[variable].strip(), variable)
    return None


def ssl_context() -> ssl.SSLContext:
    """Returns the settings of TLS, with the certificates to trust.

    ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` replaces the authorities that certifi has.

    Raises:
        MllamaError: If such a variable can't be used.
    """
    variable = certificate_variable()
    return _ssl_context(variable, os.environ[variable] if variable else "")


def certificate_variable() -> str | None:
    """Returns the variable that names the certificates to trust, or None."""
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if os.environ.get(variable):
            return variable
    return None


@cache
def _ssl_context(variable: str | None, value: str) -> ssl.SSLContext:
    """Returns a context, which takes milliseconds to make."""
    if variable is None:
        import certifi

        return ssl.create_default_context(cafile=certifi.where())
    if variable == "SSL_CERT_DIR":
        # OpenSSL ignores directories that don't exist.
        for directory in value.split(os.pathsep):
            if not Path(directory).is_dir():
                raise MllamaError(f"{variable} names {directory!r}, no directory")
        return ssl.create_default_context(capath=value)
    try:
        return ssl.create_default_context(cafile=value)
    except ssl.SSLError:
        raise MllamaError(
            f"{variable} names {value!r}, which has no certificates in PEM format"
        ) from None
    except OSError as error:
        raise MllamaError(
            f"{variable} names {value!r}, which can't be read: {error.strerror}"
        ) from None


def _set_variable(name: str) -> str | None:
    for variable in (name, name.upper()):
        if os.environ.get(variable, "").strip():
            return variable
    return None


def _checked_proxy(value: str, variable: str) -> Proxy:
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        is_valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid or not url.isprintable() or " " in url:
        raise MllamaError(
            f"{variable} is not the URL of a proxy, such as http://HOST:PORT"
        )
    if parts.scheme not in _SCHEMES:
        raise MllamaError(
            f"{variable} names a proxy of scheme {parts.scheme!r}; use one of "
            f"{', '.join(_SCHEMES)}"
        )
    if parts.scheme.startswith("socks") and not importlib.util.find_spec("socksio"):
        raise MllamaError(
            f"{variable} names a SOCKS proxy, which needs pip install 'mllama[socks]'"
        )
    return Proxy(url, variable)


def _is_excluded(host: str, port: int) -> bool:
    variable = _set_variable("no_proxy")
    entries = os.environ[variable].replace(",", " ").split() if variable else ()
    return any(_covers(entry.lower(), host.lower(), port) for entry in entries)


def _covers(entry: str, host: str, port: int) -> bool:
    """Returns True if an entry of ``no_proxy`` covers a host."""
    if entry == "*":
        return True
    entry = entry.partition("://")[2] or entry
    if entry.startswith("["):
        name, _, entry_port = entry[1:].partition("]")
        entry_port = entry_port.lstrip(":")
    elif entry.count(":") == 1:
        name, _, entry_port = entry.partition(":")
    else:
        name, entry_port = entry, ""
    if entry_port and entry_port != str(port):
        return False
    try:
        network = ipaddress.ip_network(name, strict=False)
    except ValueError:
        name = name.lstrip("*.")
        return bool(name) and (host == name or host.endswith(f".{name}"))
    try:
        return ipaddress.ip_address(host) in network
    except ValueError:
        return False
