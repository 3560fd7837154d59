"""Answers of a server, over OpenAI's chat completions."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from mllama.cli.chat_session.backend import AnswerEnd
from mllama.cli.chat_session.settings import AnswerSettings
from mllama.errors import MllamaError, PromptTooLongError, shortened
from mllama.utils.proxies import proxy_for, ssl_context

_CONNECT_SECONDS: Final = 10.0
_SILENT_SECONDS: Final = 600.0
"""How long a server may be silent: a long prompt takes minutes on a CPU."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_MAX_ERROR: Final = 2000


class ServerBackend:
    """A server of OpenAI's API.

    Args:
        url: Its address, with or without ``/v1``.
        api_key: Sent as bearer token, if there is one.
        model: The model's name; None is the first that the server lists.
        transport: Replaces the network in tests.

    Raises:
        MllamaError: If the address is none, or the server doesn't answer.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        model: str | None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise MllamaError("the API key has characters that no key has")
        self._client = httpx.Client(
            base_url=f"{self._url}/v1",
            headers=headers,
            timeout=httpx.Timeout(_SILENT_SECONDS, connect=_CONNECT_SECONDS),
            verify=ssl_context(),
            proxy=_proxy(self._url),
            trust_env=False,
            transport=transport,
        )
        self._model = model or self._first_model()

    @property
    def name(self) -> str:
        """Returns the model's name and the server's address."""
        return f"{self._model} at {self._url}"

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _first_model(self) -> str:
        with self._explained():
            response = self._client.get("/models", timeout=_CONNECT_SECONDS)
            if response.is_error:
                raise _refused(response)
            try:
                name = response.json()["data"][0]["id"]
            except (ValueError, LookupError, TypeError):
                raise MllamaError(
                    f"{self._url} lists no models; name one with --model"
                ) from None
        return str(name)

    def answer(
        self, messages: list[dict[str, Any]], settings: AnswerSettings
    ) -> Generator[str | AnswerEnd, None, None]:
        """Yields the pieces of an answer, and its end last; see :class:`Backend`."""
        body = {
            "model": self._model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **settings.request_fields,
        }
        started = time.perf_counter()
        times: list[float] = []
        reason: str | None = None
        usage: dict[str, Any] = {}
        with (
            self._explained(),
            self._client.stream("POST", "/chat/completions", json=body) as response,
        ):
            if response.is_error:
                response.read()
                raise _refused(response)
            for event in _events(response):
                usage = event.get("usage") or usage
                for choice in event.get("choices") or ():
                    reason = choice.get("finish_reason") or reason
                    if piece := (choice.get("delta") or {}).get("content"):
                        times.append(time.perf_counter())
                        yield piece
        if reason is None:
            raise MllamaError("the server ended its answer in the middle")
        yield _end(reason, usage, [at - started for at in times])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Makes errors of the connection errors for users."""
        try:
            yield
        except httpx.InvalidURL as error:
            raise MllamaError(f"--url is not the URL of a server: {error}") from error
        except httpx.TimeoutException as error:
            raise MllamaError(f"{self._url} doesn't answer: it is silent") from error
        except httpx.HTTPError as error:
            raise MllamaError(
                f"{self._url} can't be reached: {error or type(error).__name__}; is "
                "the server running?"
            ) from error


def _proxy(url: str) -> str | None:
    """Checks a server's URL and returns the proxy that leads to it, if any."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or parts.scheme not in _DEFAULT_PORTS:
        raise MllamaError(
            f"--url must be a URL such as http://127.0.0.1:8000, not {shortened(url)}"
        )
    # A proxy can't reach this machine's loopback address.
    if host in _LOOPBACK:
        return None
    proxy = proxy_for(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme])
    return None if proxy is None else proxy.url


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yields the objects of a stream.

    Raises:
        MllamaError: If the server sends an error, or no JSON.
    """
    for line in response.iter_lines():
        name, _, data = line.partition(":")
        data = data.strip()
        if name != "data" or not data or data == "[DONE]":
            continue
        try:
            event = json.loads(data)
        except ValueError as error:
            raise MllamaError(f"the server's stream has no JSON: {error}") from error
        if not isinstance(event, dict):
            raise MllamaError("the server's stream has something else than objects")
        if event.get("error"):
            raise MllamaError(_message(event))
        yield event


def _refused(response: httpx.Response) -> MllamaError:
    """Returns the error of a response that is none."""
    code = None
    try:
        content = response.json()
        message, code = _message(content), _code(content)
    except ValueError:
        message = response.reason_phrase
    if response.status_code == httpx.codes.UNAUTHORIZED:
        message += "; give the key with --api-key or OPENAI_API_KEY"
    message = f"the server answers {response.status_code}: {message}"
    is_too_long = code == "context_length_exceeded"
    return PromptTooLongError(message) if is_too_long else MllamaError(message)


def _message(content: Any) -> str:
    error = content.get("error") if isinstance(content, dict) else content
    message = error.get("message") if isinstance(error, dict) else error
    return shortened(str(message), _MAX_ERROR)


def _code(content: Any) -> Any:
    error = content.get("error") if isinstance(content, dict) else None
    return error.get("code") if isinstance(error, dict) else None


def _end(reason: str, usage: dict[str, Any], times: list[float]) -> AnswerEnd:
    details = usage.get("prompt_tokens_details") or {}
    tokens = usage.get("completion_tokens")
    elapsed = times[-1] - times[0] if times else 0
    return AnswerEnd(
        finish_reason=reason,
        seconds_to_first_token=times[0] if times else None,
        tokens_per_second=(tokens - 1) / elapsed if tokens and elapsed > 0 else None,
        completion_tokens=tokens,
        prompt_tokens=usage.get("prompt_tokens"),
        image_tokens=details.get("image_tokens"),
        cached_tokens=details.get("cached_tokens"),
    )
