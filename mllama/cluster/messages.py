"""What the front of a cluster and its replicas tell each other.

All of it is plain data that pickles by this package's classes.  Errors are sent as
values: Ray would wrap them in ones of its own, with the traceback as their message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mllama.errors import (
    EngineError,
    EngineOverloadedError,
    EngineUnavailableError,
    ImageDecodeError,
    ImageError,
    MllamaError,
    NumberedImageError,
    PromptTooLongError,
    RequestError,
    TemporaryEngineError,
)
from mllama.image_cache.verdict import ImageVerdict
from mllama.requests.events import Event
from mllama.requests.request import GenerationRequest
from mllama.runtime.engine_stats import EngineStats
from mllama.server.capabilities import ServerCapabilities
from mllama.server.observability.process_memory import MemorySizes

_KINDS: Final = {
    kind.__name__: kind
    for kind in (
        MllamaError,
        ImageError,
        ImageDecodeError,
        RequestError,
        PromptTooLongError,
        EngineError,
        TemporaryEngineError,
        EngineOverloadedError,
        EngineUnavailableError,
    )
}
"""The errors that a replica reports, by their names."""


@dataclass(frozen=True)
class ImageContent:
    """An image as the front has it: the file, which a replica decodes.

    Attributes:
        content: The file's bytes.
        digest: Their SHA-256, in hexadecimal digits.
    """

    content: bytes
    digest: str

    @classmethod
    def of(cls, content: bytes) -> ImageContent:
        """Returns the image of a file."""
        return cls(content, hashlib.sha256(content).hexdigest())

    @property
    def memory_bytes(self) -> int:
        """Returns the memory that its file takes."""
        return len(self.content)


@dataclass(frozen=True, kw_only=True)
class RemoteRequest:
    """A request on its way to a replica.

    Attributes:
        request: The request, without its images.
        images: The files of its images, in order.
        request_id: The id of the HTTP request, for logs; None has none.
    """

    request: GenerationRequest
    images: Sequence[bytes]
    request_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An error that ends a request.

    Attributes:
        kind: Its class in ``mllama.errors``.
        message: One line for the user.
        param: The wrong field of a request, if there is one.
        retry_after: Seconds after which another try is worthwhile, of a temporary one.
        image: The image that can't be used, from 1.
    """

    kind: str
    message: str
    param: str | None = None
    retry_after: int | None = None
    image: int | None = None

    @classmethod
    def of(cls, error: Exception) -> Failure | None:
        """Returns the failure that an error is; None for one that nothing expects."""
        kind = next((each for each in type(error).__mro__ if each in _known), None)
        if kind is None:
            return None
        return cls(
            kind=kind.__name__,
            message=str(error),
            param=getattr(error, "param", None),
            retry_after=getattr(error, "retry_after", None),
            image=getattr(error, "number", None),
        )

    def error(self) -> Exception:
        """Returns the error."""
        kind: Any = _KINDS[self.kind]
        detail: tuple[Any, ...] = ()
        if self.image is not None:
            kind, detail = NumberedImageError, (self.image,)
        elif issubclass(kind, RequestError):
            detail = (self.param,)
        elif issubclass(kind, TemporaryEngineError) and self.retry_after is not None:
            detail = (self.retry_after,)
        error: Exception = kind(self.message, *detail)
        return error


_known: Final = frozenset(_KINDS.values())


@dataclass(frozen=True)
class ReplicaFigures:
    """What a replica tells about itself, also as it begins and ends an answer.

    Attributes:
        replica: Ray Serve's id of it.
        node: The address of its node.
        stats: Its engine's figures.
        verdict: How it serves images on a GPU.
        memory: The memory of its process.
    """

    replica: str
    node: str
    stats: EngineStats = field(default_factory=EngineStats)
    verdict: ImageVerdict = field(default_factory=ImageVerdict)
    memory: MemorySizes = field(default_factory=MemorySizes)


AnswerMessage = Sequence[Event | ReplicaFigures | Failure]
"""What is ready of an answer: figures first and last, events, a failure at the end."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What the front needs to know of the model, which it doesn't load.

    Attributes:
        capabilities: Features and limits, of the model's side.
        token_bytes: What each token stands for.
        batch_size: Answers that a replica generates at a time.
    """

    capabilities: ServerCapabilities
    token_bytes: Sequence[bytes]
    batch_size: int
