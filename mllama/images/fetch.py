"""Downloads of images, for the command line and the Python API.

The server doesn't use this module: MAX Serve fetches images itself and blocks requests
to its internal network.
"""

from __future__ import annotations

import time
from typing import Final

import httpx

from mllama.errors import ImageError

MAX_BYTES: Final = 64 * 1024 * 1024
"""The limit for the size of a download."""

MAX_SECONDS: Final = 30.0
"""The limit for the time of a download, redirects included."""

MAX_REDIRECTS: Final = 5


def fetch(url: str) -> bytes:
    """Returns the content of an ``http:`` or ``https:`` URL.

    Raises:
        ImageError: If it can't be downloaded within ``MAX_SECONDS``, ``MAX_BYTES`` and
            ``MAX_REDIRECTS``.
    """
    name = url if len(url) <= 120 else f"{url[:120]}..."
    deadline = time.monotonic() + MAX_SECONDS
    content = bytearray()
    try:
        with (
            httpx.Client(
                follow_redirects=True,
                max_redirects=MAX_REDIRECTS,
                timeout=MAX_SECONDS / 3,
            ) as client,
            client.stream("GET", url) as response,
        ):
            if response.is_error:
                raise ImageError(f"{name} answers with status {response.status_code}")
            for part in response.iter_bytes():
                content += part
                if len(content) > MAX_BYTES:
                    raise ImageError(
                        f"{name} is larger than {MAX_BYTES // 2**20} MiB; make the "
                        "image smaller"
                    )
                if time.monotonic() > deadline:
                    raise ImageError(f"{name} took longer than {MAX_SECONDS:g} s")
    except httpx.TooManyRedirects:
        raise ImageError(f"{name} redirects more than {MAX_REDIRECTS} times") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} can't be fetched: {reason}") from error
    return bytes(content)
