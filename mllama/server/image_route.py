"""The base of routes whose requests may have images."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from mllama.images.fetch import MAX_BYTES
from mllama.images.load import url_scheme
from mllama.server.arrival.strings import BodyStrings
from mllama.server.capabilities import ServerCapabilities
from mllama.server.engine_client import EngineClient
from mllama.server.image_fetcher import ImageFetcher
from mllama.server.request_images import ImageReference, load_images

if TYPE_CHECKING:
    from mllama.images.preprocess import ImageTiles


_FETCHED: Final = frozenset({"http", "https", "file"})
"""Schemes of URLs that don't tell how large their images are."""

MAX_TILES_BYTES: Final = 4 << 20
"""The most memory of an image that is ready for the model: four tiles of 560 x 560."""


@dataclass(frozen=True)
class ReferencedImages:
    """Images of a body, which the engine has loaded when it comes to need them.

    Attributes:
        references: The images in order.
        load: Returns them, ready for the model.
    """

    references: Sequence[ImageReference]
    load: Callable[[], Awaitable[Sequence[ImageTiles]]]

    def __len__(self) -> int:
        return len(self.references)


class ImageRoute:
    """What routes need to answer requests with images.

    Args:
        engine: Answers requests.
        capabilities: Features and limits of the server.
        fetcher: Gets images from URLs.
    """

    def __init__(
        self,
        engine: EngineClient,
        capabilities: ServerCapabilities,
        fetcher: ImageFetcher,
    ) -> None:
        self._engine = engine
        self._capabilities = capabilities
        self._fetcher = fetcher

    def _images(
        self, references: Sequence[ImageReference], strings: BodyStrings
    ) -> ReferencedImages:
        """Returns a request's images, which aren't loaded yet.

        Args:
            references: The images in order.
            strings: Strings that were detached from the body, by name.
        """
        return ReferencedImages(
            references, partial(self._load_images, references, strings)
        )

    async def _load_images(
        self, references: Sequence[ImageReference], strings: BodyStrings
    ) -> list[ImageTiles]:
        """Returns a request's images, ready for the model.

        Args:
            references: The images in order.
            strings: Strings that were detached from the body, by name.

        Raises:
            RequestImageError: If one can't be used.
        """
        if not references:
            return []
        memory = await strings.memory.take_images(self._most_bytes(references, strings))
        try:
            images = await load_images(
                references,
                strings,
                fetcher=self._fetcher,
                engine=self._engine,
                max_bytes=self._capabilities.max_image_bytes,
            )
        finally:
            # An error holds this frame for a while.
            strings.drop()
        used = sum(image.memory_bytes for image in images)
        memory.release(max(0, memory.weight - used))
        return images

    def _most_bytes(
        self, references: Sequence[ImageReference], strings: BodyStrings
    ) -> int:
        """Returns the most memory that a request's images take until they are ready."""
        fetched = sum(_file_bytes(each.source, strings) for each in references)
        most = self._capabilities.max_image_bytes or fetched
        return min(fetched, most) + MAX_TILES_BYTES * len(references)


def _file_bytes(source: str, strings: BodyStrings) -> int:
    """Returns the most memory that the file of an image takes."""
    if source in strings:
        return len(strings[source])
    return MAX_BYTES if url_scheme(source) in _FETCHED else len(source)
