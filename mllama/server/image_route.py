"""The base of routes whose requests may have images."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mllama.server.capabilities import ServerCapabilities
from mllama.server.engine_client import EngineClient
from mllama.server.image_fetcher import ImageFetcher
from mllama.server.request_images import ImageReference, load_images

if TYPE_CHECKING:
    from mllama.images.preprocess import ImageTiles


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
        self, references: Sequence[ImageReference], strings: Mapping[str, memoryview]
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
        self, references: Sequence[ImageReference], strings: Mapping[str, memoryview]
    ) -> list[ImageTiles]:
        """Returns a request's images, ready for the model.

        Args:
            references: The images in order.
            strings: Strings that were detached from the body, by name.

        Raises:
            RequestImageError: If one can't be used.
        """
        return await load_images(
            references,
            strings,
            fetcher=self._fetcher,
            engine=self._engine,
            max_bytes=self._capabilities.max_image_bytes,
        )
