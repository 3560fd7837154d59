"""Turns a request's messages and images into tokens and tiles."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt
from max.pipelines.context import TextAndVisionContext, TextContext
from max.pipelines.context.exceptions import InputError
from max.pipelines.lib import PipelineConfig, TextTokenizer
from max.pipelines.modeling.types import TextGenerationRequest
from PIL.Image import Image

from mllama.config import MllamaConfig
from mllama.errors import ImageError
from mllama.image_cache.context import ASPECT_RATIO_IDS, IMAGE_TOKENS
from mllama.images.load import ImageFile
from mllama.images.preparation import prepare_image
from mllama.images.preprocess import ImageProcessor, ImageTiles
from mllama.max_compat.model import (
    ImageMetadata,
)
from mllama.max_model.chat_template import ChatTemplate, ChatTemplateError
from mllama.max_model.chat_template_files import (
    DEFAULT,
    find_chat_templates,
    named_templates,
)
from mllama.max_model.checkpoint_files import local_directory
from mllama.max_model.image_limits import ImageLimits
from mllama.max_model.prompt_encoding import PromptEncoder
from mllama.max_model.sampling_context import PROMPT_LENGTH


class MllamaTokenizer(TextTokenizer):
    """The checkpoint's tokenizer, chat template and image processor.

    Args:
        model_path: A directory, or a repository of the Hugging Face hub.
        pipeline_config: MAX's configuration of the pipeline.
        revision: Revision of the repository.
        max_length: Longest sequence, prompt and answer, in tokens.
        trust_remote_code: Whether the repository's own code may run.
        chat_template: A template that replaces the checkpoint's.

    Raises:
        CheckpointError: If a file that the model needs is missing or contradicts
            the model's configuration.
    """

    def __init__(
        self,
        model_path: str,
        pipeline_config: PipelineConfig,
        *,
        revision: str | None = None,
        max_length: int | None = None,
        trust_remote_code: bool = False,
        chat_template: str | None = None,
        **unused: Any,
    ) -> None:
        directory = local_directory(model_path, revision)
        templates = (
            named_templates(chat_template)
            if chat_template is not None
            else find_chat_templates(directory)
        )
        super().__init__(
            str(directory),
            pipeline_config,
            max_length=max_length,
            trust_remote_code=trust_remote_code,
            chat_template=templates.get(DEFAULT),
            **unused,
        )
        config = MllamaConfig.from_dict(
            pipeline_config.model.huggingface_config.to_dict()
        )
        self.vision_config = config.vision_config
        self.text_config = config.text_config
        self._limits = ImageLimits(pipeline_config)
        self._image_token_id = config.image_token_index
        self._prompt_encoder = PromptEncoder(
            self.delegate,
            ChatTemplate(templates, self.delegate.special_tokens_map)
            if templates
            else None,
            self._image_token_id,
        )
        self._image_processor = ImageProcessor.from_pretrained(
            directory, config.vision_config
        )

    @property
    def prompt_encoder(self) -> PromptEncoder:
        """Returns the encoder of messages and raw prompts."""
        return self._prompt_encoder

    @property
    def image_limits(self) -> ImageLimits:
        """Returns the limits on a request's images."""
        return self._limits

    @property
    def expects_content_wrapping(self) -> bool:
        """Returns True: messages reach the template as lists of parts, so that images
        keep their position."""
        return True

    async def new_context(self, request: TextGenerationRequest) -> TextAndVisionContext:
        """Returns a request's tokens, images and MAX's own state.

        Raises:
            InputError: If an image can't be used, the prompt is too long, or images
                and placeholders don't match.
        """
        text_context = await super().new_context(
            dataclasses.replace(
                request,
                prompt=await asyncio.to_thread(self._prompt_tokens, request),
                messages=[],
                images=[],
                decoded_images=[],
            )
        )
        sources = request.images_for_processing()
        self.check_placeholders(text_context.tokens.all, len(sources))
        return self.with_images(text_context, await self._prepare_images(sources))

    def check_placeholders(self, tokens: npt.NDArray[np.int64], images: int) -> None:
        """Checks that a prompt has a placeholder for each of its images.

        Args:
            tokens: The prompt.
            images: The number of images.

        Raises:
            InputError: If it doesn't, or has more images than are allowed.
        """
        placeholders = int((tokens == self._image_token_id).sum())
        if placeholders != images:
            raise InputError(
                f"the prompt has {placeholders} image placeholders, but {images} "
                "images were sent"
            )
        self._limits.check_count(images)

    def image_tokens(
        self, tokens: npt.NDArray[np.int64], tiles: Sequence[ImageTiles]
    ) -> list[int]:
        """Returns the number of image tokens of each image of a prompt.

        Args:
            tokens: The prompt.
            tiles: Its images, in the order of their placeholders.

        Raises:
            InputError: If the images don't fit the image cache together.
        """
        image_tokens = [
            image.num_tiles * self.vision_config.num_patches for image in tiles
        ]
        self._limits.check_room(
            np.flatnonzero(tokens == self._image_token_id).tolist(),
            [image.hash for image in tiles],
            image_tokens,
        )
        return image_tokens

    def with_images(
        self, text_context: TextContext, tiles: Sequence[ImageTiles]
    ) -> TextAndVisionContext:
        """Returns the context of a request with images.

        Args:
            text_context: MAX's context of the request without its images.
            tiles: The images, in the order of their placeholders.

        Raises:
            InputError: If the images don't fit the image cache together.
        """
        tokens = text_context.tokens.all
        image_tokens = self.image_tokens(tokens, tiles)
        positions = np.flatnonzero(tokens == self._image_token_id)
        return TextAndVisionContext(
            **{
                field.name: getattr(text_context, field.name)
                for field in dataclasses.fields(text_context)
                if field.init
            },
            vision_token_ids=[self._image_token_id],
            images=[
                ImageMetadata(
                    start_idx=int(position),
                    end_idx=int(position) + 1,
                    pixel_values=image.pixel_values,
                    image_hash=image.hash,
                )
                for position, image in zip(positions, tiles, strict=True)
            ],
            extra_model_args={
                PROMPT_LENGTH: np.array([text_context.tokens.prompt_length]),
                ASPECT_RATIO_IDS: np.array(
                    [image.aspect_ratio_id for image in tiles], dtype=np.int64
                ),
                IMAGE_TOKENS: np.array(image_tokens, dtype=np.int64),
            },
        )

    def _prompt_tokens(self, request: TextGenerationRequest) -> list[int]:
        """Returns the tokens of a request's messages or raw prompt.

        Raises:
            InputError: If the template can't show the messages.
        """
        if isinstance(request.prompt, str):
            return self._prompt_encoder.encode_prompt(request.prompt)
        if request.prompt is not None:
            return list(request.prompt)
        try:
            return self._prompt_encoder.encode_chat(
                [message.model_dump(exclude_none=True) for message in request.messages],
                tools=request.tools,
                template_variables=request.chat_template_options,
            )
        except ChatTemplateError as error:
            raise InputError(str(error)) from error

    def prepare_image(self, image: ImageFile | Image | bytes) -> Future[ImageTiles]:
        """Starts to split an image into tiles.

        Args:
            image: An image file, a picture, or the content of a file.

        Returns:
            The tiles.  The future raises ImageError if the image can't be used.
        """
        return prepare_image(image, self._image_processor)

    async def _prepare_images(self, sources: Sequence[Any]) -> list[ImageTiles]:
        """Prepares images, several at a time, unless the caller has.

        Args:
            sources: Images as of :meth:`prepare_image`, or tiles.

        Raises:
            InputError: If one can't be used.
        """
        prepared = [
            source if isinstance(source, ImageTiles) else self.prepare_image(source)
            for source in sources
        ]
        try:
            return [
                image
                if isinstance(image, ImageTiles)
                else await self._prepared(number, image)
                for number, image in enumerate(prepared, 1)
            ]
        finally:
            # After an error, images that have not begun are not needed.
            for image in prepared:
                if isinstance(image, Future):
                    image.cancel()

    async def _prepared(self, number: int, future: Future[ImageTiles]) -> ImageTiles:
        try:
            return await asyncio.wrap_future(future)
        except ImageError as error:
            raise InputError(f"image {number}: {error}") from error
