"""``POST /tokenize`` and ``POST /detokenize``, in vLLM's form."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mllama.server.arrival.reading import read_body, read_json
from mllama.server.bodies.parsing import parse_body
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.capabilities import ServerCapabilities
from mllama.server.dialects.openai.chat_translation import chat_prompt, check_prompt
from mllama.server.dialects.openai.sampling_translation import check_tokens
from mllama.server.dialects.openai.token_bodies import (
    DetokenizeBody,
    TokenizeChatBody,
    TokenizeTextBody,
)
from mllama.server.engine_client import EngineClient
from mllama.server.json_response import json_response
from mllama.server.model_names import check_model
from mllama.server.token_text import token_string


class TokenRoutes:
    """Tokenizes and detokenizes.

    Args:
        engine: Has the tokenizer.
        capabilities: Features and limits of the server.
    """

    def __init__(self, engine: EngineClient, capabilities: ServerCapabilities) -> None:
        self._engine = engine
        self._capabilities = capabilities

    async def tokenize(self, request: Request) -> Response:
        """Returns the tokens of a text or a conversation."""
        content = await read_json(request)
        if content.get("messages") is not None and content.get("prompt") is not None:
            raise RequestRejected(
                "`prompt` and `messages` can't be combined: either is tokenized alone.",
                "prompt",
                code="invalid_value",
            )
        body: TokenizeChatBody | TokenizeTextBody
        if content.get("messages") is not None:
            body = parse_body(TokenizeChatBody, content)
        else:
            body = parse_body(TokenizeTextBody, content)
        check_model(body.model, self._capabilities.model_name)
        tokens = await self._tokens(body)
        answer: dict[str, Any] = {
            "count": len(tokens),
            "max_model_len": self._capabilities.max_length,
            "tokens": tokens,
        }
        if body.return_token_strs:
            answer["token_strs"] = await asyncio.to_thread(self._strings, tokens)
        return await json_response(answer)

    def _strings(self, tokens: Sequence[int]) -> list[str]:
        return [token_string(self._engine.token_bytes(token)) for token in tokens]

    async def _tokens(self, body: TokenizeChatBody | TokenizeTextBody) -> list[int]:
        if isinstance(body, TokenizeChatBody):
            check_prompt(body, self._capabilities)
            return await self._engine.tokenize(chat_prompt(body, self._capabilities))
        tokens = await self._engine.tokenize(body.prompt)
        if body.add_special_tokens is False:
            # What the tokenizer puts before every text.
            return tokens[len(await self._engine.tokenize("")) :]
        return tokens

    async def detokenize(self, request: Request) -> Response:
        """Returns the text of tokens, special ones included."""
        body = await read_body(request, DetokenizeBody)
        check_model(body.model, self._capabilities.model_name)
        check_tokens("tokens", body.tokens, self._capabilities)
        text = await asyncio.to_thread(self._text, body.tokens)
        return await json_response({"prompt": text})

    def _text(self, tokens: Sequence[int]) -> str:
        content = b"".join(map(self._engine.token_bytes, tokens))
        return content.decode(errors="replace")
