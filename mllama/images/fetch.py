"""Downloads of images, within limits of time, size and redirects.

Proxies and certificates come from the environment (:mod:`mllama.utils.proxies`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx

from mllama.errors import ImageError, MllamaError, shortened
from mllama.utils.event_loops import run_coroutine
from mllama.utils.proxies import (
    Proxy,
    certificate_variable,
    proxy_for,
    ssl_context,
)
from mllama.version import __version__

MAX_BYTES: Final = 64 * 1024 * 1024
"""The limit for the size of a download."""

MAX_SECONDS: Final = 30.0
"""The limit for the time of a download, redirects included."""

_MAX_WAIT: Final = 10.0
"""The limit for the time in which nothing arrives, in seconds."""

MAX_REDIRECTS: Final = 5

USER_AGENT: Final = f"mllama/{__version__}"

_HEADERS: Final = {
    "User-Agent": USER_AGENT,
    "Accept": "image/*, */*;q=0.8",
    "Accept-Encoding": "identity",
}

_ENCODINGS: Final = ("", "identity", "gzip", "x-gzip", "deflate")
"""Encodings of a content: those whose pieces don't unpack to any size."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_LAST_PORT: Final = 65535

AddressGuard = Callable[[str, int, bool], Awaitable["str | None"]]
"""Checks a host before it is connected to.

It gets the host, the port and whether a proxy resolves the host's name.  It returns the
address to connect to, or None for the host as it is, and raises ImageError for a host
that must not be reached.
"""


def fetch(url: str) -> bytes:
    """Returns the content of an ``http:`` or ``https:`` URL.

    Raises:
        ImageError: As :func:`fetch_async`.
    """
    return run_coroutine(fetch_async(url))


async def fetch_async(
    url: str,
    *,
    guard: AddressGuard | None = None,
    charge: Callable[[int], None] | None = None,
) -> bytes:
    """Returns the content of an ``http:`` or ``https:`` URL.

    Args:
        url: The URL.
        guard: Checks each host, those of redirects too.  A server must give one.
        charge: Gets the number of bytes of each piece that arrives, and may raise
            ImageError to end the download.

    Raises:
        ImageError: If it can't be downloaded within ``MAX_SECONDS``, ``MAX_BYTES`` and
            ``MAX_REDIRECTS``, or the environment names a proxy or certificates that
            can't be used.
    """
    name = shortened(url)
    try:
        return await asyncio.wait_for(_follow(url, name, guard, charge), MAX_SECONDS)
    # Python 3.10 has two classes of that name.
    except (asyncio.TimeoutError, TimeoutError):
        raise ImageError(f"{name} took longer than {MAX_SECONDS:g} s") from None


async def _follow(
    url: str,
    name: str,
    guard: AddressGuard | None,
    charge: Callable[[int], None] | None,
) -> bytes:
    """Downloads a URL, or that to which it redirects."""
    proxy = None
    try:
        target = httpx.URL(url)
        for _ in range(MAX_REDIRECTS + 1):
            port = _port(target, name)
            proxy = proxy_for(target.scheme, target.host, port)
            address = guard and await guard(target.host, port, proxy is not None)
            async with (
                _client(target, proxy) as client,
                client.stream("GET", **_pinned(target, address)) as response,
            ):
                if not response.has_redirect_location:
                    return await _content(response, name, charge)
                target = target.join(response.headers["location"])
    except ImageError:
        raise
    except MllamaError as error:
        raise ImageError(f"{name} can't be fetched: {error}") from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
        raise ImageError(f"{name} can't be fetched: {_reason(error, proxy)}") from error
    raise ImageError(f"{name} redirects more than {MAX_REDIRECTS} times")


def _port(target: httpx.URL, name: str) -> int:
    """Returns a URL's port, and refuses what is no address on the web."""
    if target.scheme not in _DEFAULT_PORTS:
        raise ImageError(
            f"{name} leads to a URL of scheme {target.scheme!r}, not http or https"
        )
    if not target.host:
        raise ImageError(f"{name} can't be fetched: it names no host")
    port = target.port or _DEFAULT_PORTS[target.scheme]
    if port > _LAST_PORT:
        raise ImageError(f"{name} can't be fetched: there is no port {port}")
    return port


def _client(target: httpx.URL, proxy: Proxy | None) -> httpx.AsyncClient:
    """Returns a client for one request."""
    is_secure_proxy = proxy is not None and proxy.url.startswith("https:")
    # A request without TLS has nothing to verify.
    needs_tls = target.scheme == "https" or is_secure_proxy
    certificates = ssl_context() if needs_tls else None
    return httpx.AsyncClient(
        headers=_HEADERS,
        timeout=_MAX_WAIT,
        trust_env=False,
        verify=certificates or False,
        proxy=None
        if proxy is None
        else httpx.Proxy(
            proxy.url, ssl_context=certificates if is_secure_proxy else None
        ),
    )


def _pinned(target: httpx.URL, address: str | None) -> dict[str, Any]:
    """Returns the arguments of a request that connects to a host's checked address.

    The name isn't resolved a second time, by which it could lead elsewhere.
    """
    if address is None or address == target.host:
        return {"url": target}
    return {
        "url": target.copy_with(host=address),
        "headers": {"Host": target.netloc.decode()},
        "extensions": {"sni_hostname": target.host},
    }


async def _content(
    response: httpx.Response, name: str, charge: Callable[[int], None] | None
) -> bytes:
    if response.is_error:
        raise ImageError(f"{name} answers with status {response.status_code}")
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
        raise ImageError(f"{name} answers in the encoding {encoding[:40]!r}")
    content = bytearray()
    try:
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > MAX_BYTES:
                raise ImageError(
                    f"{name} is larger than {MAX_BYTES // 2**20} MiB; make the image "
                    "smaller"
                )
            if charge is not None:
                charge(len(piece))
        return bytes(content)
    finally:
        # The traceback of an error, which lives for a while, holds it.
        content.clear()


def _reason(error: Exception, proxy: Proxy | None) -> str:
    """Returns what is wrong, with the variable that may be the cause."""
    if isinstance(error, httpx.TimeoutException):
        reason = f"nothing arrived for {_MAX_WAIT:g} s"
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
    if proxy is not None:
        reason += f" (through the proxy in {proxy.variable})"
    variable = certificate_variable()
    if variable is not None and "CERTIFICATE_VERIFY_FAILED" in reason:
        reason += f" (with the certificates in {variable})"
    return reason
