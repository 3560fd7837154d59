"""The engine client that the replicas of a cluster stand behind."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final, cast

from ray.serve.handle import DeploymentHandle

from mllama.cluster.affinity import affinity_key, current_affinity
from mllama.cluster.messages import (
    AnswerMessage,
    Failure,
    ImageContent,
    RemoteRequest,
    ReplicaFigures,
    ServedModel,
)
from mllama.cluster.replica_calls import ReplicaLostError, only, receiving
from mllama.cluster.replica_metrics import ReplicaMetrics
from mllama.cluster.replica_states import ReplicaStates
from mllama.errors import EngineUnavailableError, NumberedImageError
from mllama.images.load import ImageFile
from mllama.requests.chat_prompt import ChatPrompt
from mllama.requests.events import Accepted, Event
from mllama.requests.request import GenerationRequest, load_images
from mllama.server.engine_client import Turns
from mllama.server.image_route import ReferencedImages
from mllama.server.request_images import image_error_in_body
from mllama.server.request_origin import RequestOrigin

logger = logging.getLogger("mllama")

_TRIES: Final = 3
"""Replicas that are asked, if one dies before it has said anything of an answer."""

_HASHING_THREADS: Final = 2
"""Threads that compute the keys of images; hashing releases Python's lock."""


class RayEngineClient:
    """An :class:`~mllama.server.engine_client.EngineClient` over Ray Serve's replicas.

    Images stay files here, and are decoded by the replica that answers.

    Args:
        replicas: The handle of the deployment.
        model: What a replica has said about the model.
        states: Which replicas there are.
        metrics: Keeps what they tell about themselves.
    """

    def __init__(
        self,
        replicas: DeploymentHandle[Any],
        model: ServedModel,
        states: ReplicaStates,
        metrics: ReplicaMetrics,
    ) -> None:
        # By gRPC: Ray's objects take more than a millisecond for each token, and images
        # would pass through its object store, which may be full.
        replicas = replicas.options(_by_reference=False)
        self._answers = replicas.options(method_name="answer", stream=True)
        self._tokenize = replicas.options(method_name="tokenize")
        self._count_tokens = replicas.options(method_name="count_tokens")
        self._token_bytes = model.token_bytes
        self._states = states
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(
            _HASHING_THREADS, thread_name_prefix="mllama-keys"
        )

    async def generate(
        self,
        request: GenerationRequest,
        *,
        origin: RequestOrigin | None = None,
        turns: Turns | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Answers a request; see :class:`~mllama.server.engine_client.EngineClient`.

        Raises:
            ReplicaLostError: If the replica has died after it had begun to answer.
        """
        # Without a replica, a request is refused before its images are fetched.
        self._states.check()
        images = _contents(await load_images(request.images))
        affinity = current_affinity()
        affinity.key = affinity.given or affinity_key(request, images)
        remote = RemoteRequest(
            request=replace(request, images=()),
            images=[image.content for image in images],
            request_id=None if origin is None else origin.request_id,
        )
        if turns is not None:
            await turns.next()
        is_accepted, node = False, ""
        for attempt in range(1, _TRIES + 1):
            has_begun = False
            try:
                async with aclosing(self._stream(remote, affinity.key)) as messages:
                    async for message in messages:
                        for event in message:
                            if isinstance(event, ReplicaFigures):
                                self._metrics.note(event)
                                affinity.replica, node = event.replica, event.node
                            elif isinstance(event, Failure):
                                raise _error(event, request)
                            elif isinstance(event, Accepted):
                                # A stream's headers are sent once.
                                if not is_accepted:
                                    is_accepted = True
                                    yield event
                            else:
                                has_begun = True
                                yield event
                return
            except EngineUnavailableError as error:
                if has_begun or attempt == _TRIES or not self._states.is_ready:
                    if isinstance(error, ReplicaLostError):
                        raise ReplicaLostError(error.how, node) from None
                    raise
                logger.warning("a request is sent to another replica: %s", error)

    async def _stream(
        self, remote: RemoteRequest, key: str
    ) -> AsyncGenerator[AnswerMessage, None]:
        """Yields what one replica says about a request.

        Raises:
            EngineUnavailableError: If there is no replica.
            ReplicaLostError: If it has died.
            EngineError: If Ray can't pass the request on.
        """
        response = self._answers.options(session_id=key).remote(remote)
        async with receiving(response, response) as received:
            # While there is no replica at all, Ray would wait for one without an end.
            with self._states.waiting(received.put_nowait):
                message = await received.get()
            while message is not None:
                if isinstance(message, Exception):
                    raise message
                yield message
                message = await received.get()

    def prepare_image(self, image: ImageFile | bytes) -> Future[Any]:
        """Starts to compute the key of an image, in another thread.

        Returns:
            The image, which belongs in ``GenerationRequest.images`` as it is.
        """
        # The server's routes have the contents of files only.
        return self._threads.submit(ImageContent.of, cast(bytes, image))

    async def tokenize(self, prompt: ChatPrompt | str) -> list[int]:
        """Returns the ids of a prompt's tokens, in which each image is one.

        Raises:
            RequestError: If the chat template rejects the messages.
        """
        ids: list[int] = await self._ask(self._tokenize, prompt)
        return ids

    async def count_tokens(
        self, prompt: ChatPrompt | str, images: Sequence[Any]
    ) -> int:
        """Returns the number of tokens that usage would count for a prompt.

        Raises:
            RequestError: If the chat template rejects the messages, or the images don't
                match the prompt or can't fit.
            NumberedImageError: If an image can't be used.
        """
        contents = [image.content for image in _contents(images)]
        number: int = await self._ask(self._count_tokens, prompt, contents)
        return number

    async def _ask(self, method: DeploymentHandle[Any], *arguments: Any) -> Any:
        """Returns what a replica returns.

        Raises:
            EngineUnavailableError: If there is no replica.
            ReplicaLostError: If it has died.
        """
        self._states.check()
        response = method.remote(*arguments)
        async with receiving(response, only(response)) as received:
            # As a stream does, which may have no replica either.
            with self._states.waiting(received.put_nowait):
                answer = await received.get()
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Failure):
            raise answer.error()
        return answer

    def token_bytes(self, token_id: int) -> bytes:
        """Returns what a token stands for; a special token's name for a special one."""
        return (
            self._token_bytes[token_id]
            if 0 <= token_id < len(self._token_bytes)
            else b""
        )


def _contents(images: Sequence[Any]) -> list[ImageContent]:
    """Returns the images of a request that :meth:`RayEngineClient.prepare_image` made.

    Whatever carries them takes them for tiles and passes them on.
    """
    return [
        image.result() if isinstance(image, Future) else cast(ImageContent, image)
        for image in images
    ]


def _error(failure: Failure, request: GenerationRequest) -> Exception:
    """Returns the error that a replica reports, with the place of a wrong image."""
    error = failure.error()
    if isinstance(error, NumberedImageError) and isinstance(
        request.images, ReferencedImages
    ):
        return image_error_in_body(error, request.images.references)
    return error
