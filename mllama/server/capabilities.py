"""What requests need to know of the running server."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from mllama.requests.engine_settings import EngineSettings
from mllama.server.model_description import ModelDescription


@dataclass(frozen=True, kw_only=True)
class ServerCapabilities:
    """Features and limits of the running server.

    Attributes:
        model_name: Name of the served model.
        vocabulary: Size of the vocabulary; token ids are smaller.
        special_tokens: Ids of tokens that texts of answers leave out.
        max_length: Longest sequence, prompt and answer, in tokens; None if unknown.
        max_new_tokens: Maximum length of an answer to a request that sets no limit, in
            tokens; None allows answers up to the maximum length of a sequence.
        max_images: The most images of a request; None is any number.
        max_image_bytes: The limit for the files of a request's images together; None
            is no limit.
        continues_messages: Whether answers can go on with the last message.  The
            template of a model that judges messages, such as Llama Guard, has no place
            for that.
        hazards: The hazards by which the model judges messages, such as S1, as its
            chat template lists them; none if it isn't a Llama Guard.
        created: When the server began to serve the model, in seconds since 1970.
        description: The model's files and configuration.
        chat_template: The source of the chat template; may be empty.
        takes_tools: Whether the chat template describes tools.
        attention: Whether answers may come with attention maps.
    """

    model_name: str
    vocabulary: int
    special_tokens: frozenset[int] = frozenset()
    max_length: int | None = None
    max_new_tokens: int | None = None
    max_images: int | None = None
    max_image_bytes: int | None = None
    continues_messages: bool = True
    hazards: tuple[str, ...] = ()
    created: int = 0
    description: ModelDescription = field(default_factory=ModelDescription)
    chat_template: str = ""
    takes_tools: bool = True
    attention: bool = False

    @classmethod
    def of(
        cls,
        engine: EngineSettings,
        tokenizer: Any,
        *,
        model_name: str,
        max_images: int | None,
        max_image_bytes: int | None,
        description: ModelDescription,
        attention: bool = False,
    ) -> ServerCapabilities:
        """Returns the capabilities of an engine that is about to answer requests.

        Args:
            engine: The engine's limits and defaults.
            tokenizer: The model's tokenizer.
            model_name: Name of the served model.
            max_images: The most images of a request; None is any number.
            max_image_bytes: The limit for the files of a request's images together;
                None is no limit.
            description: The model's files and configuration.
            attention: Whether answers may come with attention maps.
        """
        encoder = tokenizer.prompt_encoder
        longest = engine.defaults.max_new_tokens
        added = tokenizer.delegate.added_tokens_decoder
        return cls(
            model_name=model_name,
            vocabulary=engine.vocabulary,
            special_tokens=frozenset(each for each in added if added[each].special),
            max_length=engine.max_length,
            max_new_tokens=None if longest == -1 else longest,
            max_images=max_images,
            max_image_bytes=max_image_bytes,
            continues_messages=encoder.continues_messages,
            hazards=encoder.hazards,
            created=int(time.time()),
            description=description,
            chat_template=encoder.template_source,
            takes_tools=encoder.takes_tools,
            attention=attention,
        )
