"""What engine clients share that change only how another one answers requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mllama.requests.chat_prompt import ChatPrompt
from mllama.server.engine_client import EngineClient

if TYPE_CHECKING:
    from concurrent.futures import Future

    from mllama.images.load import ImageFile
    from mllama.images.preprocess import ImageTiles


class ForwardingEngineClient:
    """The calls of an :class:`EngineClient`, except ``generate``, to the one behind it.

    Args:
        engine: The engine client behind it.
    """

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine

    def prepare_image(self, image: ImageFile | bytes) -> Future[ImageTiles]:
        """Starts to decode an image and to split it into tiles, in another thread."""
        return self._engine.prepare_image(image)

    async def tokenize(self, prompt: ChatPrompt | str) -> list[int]:
        """Returns the ids of a prompt's tokens, in which each image is one."""
        return await self._engine.tokenize(prompt)

    async def count_tokens(
        self, prompt: ChatPrompt | str, images: Sequence[ImageTiles]
    ) -> int:
        """Returns the number of tokens that usage would count for a prompt."""
        return await self._engine.count_tokens(prompt, images)

    def token_bytes(self, token_id: int) -> bytes:
        """Returns what a token stands for; a special token's name for a special one."""
        return self._engine.token_bytes(token_id)
