"""Checks what the environment says about the connection to the hub."""

from __future__ import annotations

from urllib.parse import urlsplit

from mllama.errors import HubError
from mllama.utils.proxies import proxy_for, ssl_context

_PORTS = {"http": 80, "https": 443}


def check_connection(endpoint: str) -> None:
    """Checks the proxy and the certificates for requests to the hub.

    The hub's client reads the same variables, but its errors don't name them.

    Args:
        endpoint: The hub's address, ``HF_ENDPOINT``.

    Raises:
        MllamaError: If a variable's value can't be used.
    """
    import httpx

    parts = urlsplit(endpoint)
    if parts.scheme not in _PORTS or not parts.hostname:
        return  # The first request explains what is wrong with it.
    proxy_for(parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme])
    if parts.scheme == "https":
        ssl_context()
    try:
        httpx.Client(verify=False).close()
    except (httpx.InvalidURL, ValueError) as error:
        raise HubError(
            "the hub's client can't use a proxy variable or NO_PROXY "
            f"({error}); write IPv6 addresses in NO_PROXY without brackets"
        ) from error
