"""Gets the images of batches that run on the machine of whoever asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from mllama.batch.local_files import read_picture
from mllama.errors import ImageError
from mllama.max_compat.server import Settings
from mllama.server.image_fetcher import ImageFetcher
from mllama.utils.threads import in_thread


class LocalImages(ImageFetcher):
    """Gets images from URLs of any host, from files, and from what came with a line.

    Args:
        folder: Where relative ``file:`` URLs begin.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(Settings(media_url_ssrf_protection_enabled=False))
        self._folder = folder
        self._attached: dict[str, bytes | ImageError] = {}
        # Several lines may come with the same file.
        self._uses: Counter[str] = Counter()

    def attach(self, contents: Mapping[str, bytes | ImageError]) -> None:
        """Makes contents, or why there are none, known by their URLs."""
        self._attached.update(contents)
        self._uses.update(contents.keys())

    def detach(self, contents: Mapping[str, bytes | ImageError]) -> None:
        """Forgets contents."""
        for url in contents:
            self._uses[url] -= 1
            if not self._uses[url]:
                del self._uses[url], self._attached[url]

    async def fetch(self, url: str, charge: Callable[[int], None]) -> bytes:
        """Returns the content of one image.

        Args:
            url: The image's URL.
            charge: Gets the number of its bytes.

        Raises:
            ImageError: If it can't be had, or exceeds a limit.
        """
        content = self._attached.get(url)
        if content is None and url[:5].lower() == "file:":
            content = await in_thread(partial(read_picture, url, self._folder))
        if content is None:
            return await super().fetch(url, charge)
        if isinstance(content, ImageError):
            # Another one each time: its traceback grows.
            raise ImageError(str(content))
        charge(len(content))
        return content
