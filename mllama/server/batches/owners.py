"""Whose files and batches a request may see."""

from __future__ import annotations

import hashlib

from starlette.requests import Request

from mllama.server.clients import ClientId, client_of

EVERYBODY = "everybody"
"""The owner of everything on a server that asks for no keys."""


def owner_of(request: Request) -> str:
    """Returns the owner that a request's key is; the key can't be told from it."""
    key = client_of(request.scope).key
    return hashlib.sha256(f"owner:{key}".encode()).hexdigest() if key else EVERYBODY


def client_of_owner(owner: str) -> ClientId:
    """Returns the client that an owner's batches are, which isn't that of its requests.

    Args:
        owner: What :func:`owner_of` returns.
    """
    return ClientId(key=f"batches of {owner}")
