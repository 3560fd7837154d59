"""Gets the contents of a request's images, from wherever their URLs point."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from mllama.errors import ImageError, shortened
from mllama.images.data_urls import data_url_content
from mllama.images.fetch import fetch_async
from mllama.max_compat.server import (
    Settings,
    host_is_allowed,
    is_internal_address,
    make_media_ref,
    parse_allowed_hosts,
    resolve_image_from_url,
)
from mllama.server.host_lookups import HostLookups
from mllama.server.observability.metrics import METRICS
from mllama.utils.sizes import format_bytes
from mllama.utils.threads import in_thread

_FILE_ERRORS: Final = {
    "remote host": "it names another host; the server's own files are file:///PATH",
    "outside allowed roots": "it is outside of the directories in "
    "MAX_SERVE_ALLOWED_IMAGE_ROOTS, from which the server reads files",
    "File not found": "there is no such file",
    "is a directory": "it is a directory",
    "exceeds size limit": "it is larger than {limit} (MAX_SERVE_MAX_LOCAL_IMAGE_BYTES)",
}
"""Parts of MAX's messages about files, and what is wrong."""


class ImageFetcher:
    """Gets images from ``data:``, ``http:``, ``https:`` and ``file:`` URLs.

    Hosts inside the network are refused unless the settings list them, those of
    redirects too, and files unless they are in a directory that the settings list.

    Args:
        settings: The server's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lookups = HostLookups()
        self._networks, self._names = parse_allowed_hosts(
            settings.media_url_allowed_hosts
        )

    async def fetch(self, url: str, charge: Callable[[int], None]) -> bytes:
        """Returns the content of one image.

        Args:
            url: The image's URL.
            charge: Gets the numbers of bytes that arrive, and raises ImageError when
                those of the request are too many.

        Raises:
            ImageError: If it can't be had, or exceeds a limit.
        """
        scheme = url.partition(":")[0].lower()
        if scheme in ("http", "https"):
            guard = (
                self._address
                if self._settings.media_url_ssrf_protection_enabled
                else None
            )
            return await measured("url", fetch_async(url, guard=guard, charge=charge))
        if scheme == "data":
            content = await measured(
                "inline", in_thread(partial(data_url_content, url))
            )
        elif scheme == "file":
            content = await measured("file", self._read_file(url))
        else:
            METRICS.image_rejections.labels("bad_scheme").inc()
            raise ImageError(
                f"{shortened(url)} is not a data:, http: or https: URL, from which "
                "the server gets images"
            )
        charge(len(content))
        return content

    async def _read_file(self, url: str) -> bytes:
        if not self._settings.allowed_image_roots:
            METRICS.image_rejections.labels("bad_file").inc()
            raise ImageError(
                f"{shortened(url)} can't be read: the server reads files only from "
                "the directories in MAX_SERVE_ALLOWED_IMAGE_ROOTS, which are none"
            )
        try:
            content: bytes = await resolve_image_from_url(
                make_media_ref(url), self._settings
            )
        # Of any kind that MAX's own guard and the disk have.  Its messages tell where
        # links point.
        except (ValueError, OSError) as error:
            METRICS.image_rejections.labels("bad_file").inc()
            reason = next(
                (ours for maxs, ours in _FILE_ERRORS.items() if maxs in str(error)),
                "it is no file that the server can read",
            )
            limit = format_bytes(self._settings.max_local_image_bytes)
            reason = reason.format(limit=limit)
            raise ImageError(f"{shortened(url)} can't be read: {reason}") from error
        return content

    async def _address(self, host: str, port: int, is_proxied: bool) -> str | None:
        """Returns the address of a host that may be reached; see ``AddressGuard``."""
        if is_proxied and host_is_allowed(host, [], [], self._names):
            return None
        try:
            found = await self._lookups.addresses(host, port)
        except (OSError, UnicodeError):
            METRICS.image_rejections.labels("dns_failure").inc()
            hint = (
                ", which MAX_SERVE_MEDIA_URL_ALLOWED_HOSTS lets a proxy resolve"
                if is_proxied
                else ""
            )
            raise ImageError(f"the host {host!r} is not found{hint}") from None
        # The address may have a zone.
        addresses = [
            ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found
        ]
        if not host_is_allowed(host, addresses, self._networks, self._names) and any(
            map(is_internal_address, addresses)
        ):
            METRICS.image_rejections.labels("ssrf_blocked").inc()
            raise ImageError(
                f"the host {host!r} is inside the network, where the server gets "
                "images from the hosts in MAX_SERVE_MEDIA_URL_ALLOWED_HOSTS only"
            )
        # A proxy resolves names by itself.
        if is_proxied:
            return None
        return str(min(addresses, key=lambda address: address.version))


def over_budget(limit: int) -> ImageError:
    """Returns the error of a request whose images are too large, and counts it."""
    METRICS.image_rejections.labels("over_budget").inc()
    return ImageError(
        f"the files of the request's images exceed {format_bytes(limit)} together "
        "(MAX_SERVE_MAX_MEDIA_BYTES)"
    )


async def measured(source: str, content: Awaitable[bytes]) -> bytes:
    """Waits for an image's content, and records how long it took.

    Args:
        source: Where it comes from: ``url``, ``inline`` or ``file``.
        content: Returns the content.
    """
    started = time.perf_counter()
    result = await content
    METRICS.image_sources.labels(source).observe(time.perf_counter() - started)
    return result
