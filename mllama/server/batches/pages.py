"""Pages of lists, as OpenAI's API has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from starlette.requests import Request

from mllama.server.bodies.rejection import RequestRejected

WRONG_PAGE: Final[dict[int | str, dict[str, Any]]] = {
    400: {"description": "A parameter of the query is wrong"}
}
"""The answer to a list that can't be, for the API's schema."""


def list_parameters(*others: str) -> dict[str, Any]:
    """Returns the parameters of a list's query, for the API's schema.

    Args:
        others: Names of those that not all lists have.
    """
    kinds: dict[str, Any] = {
        "limit": {"type": "integer", "minimum": 1},
        "after": {"type": "string"},
        "order": {"enum": ["asc", "desc"]},
        **{name: {"type": "string"} for name in others},
    }
    return {
        "parameters": [
            {"name": name, "in": "query", "schema": schema}
            for name, schema in kinds.items()
        ]
    }


class Listed(Protocol):
    """What lists have."""

    @property
    def id(self) -> str:
        """Returns its id."""
        ...

    def visible(self) -> dict[str, Any]:
        """Returns its object."""
        ...


def page_of(
    request: Request, found: Sequence[Listed], default: int, *, most: int
) -> dict[str, Any]:
    """Returns the part of a list that a request asks for.

    Args:
        request: The request, with ``limit``, ``after`` and ``order`` in its query.
        found: The whole list, the newest first.
        default: The limit of a request that has none.
        most: The greatest limit.

    Raises:
        RequestRejected: If a value is wrong.
    """
    query = request.query_params
    text = query.get("limit", str(default))
    if (
        not (text.isascii() and text.isdigit() and len(text) < 10)
        or not 1 <= int(text) <= most
    ):
        raise RequestRejected(
            f"`limit` must be from 1 to {most}, not {text[:80]!r}.",
            "limit",
            code="invalid_value",
        )
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise RequestRejected(
            f"`order` must be 'asc' or 'desc', not {order[:80]!r}.",
            "order",
            code="invalid_value",
        )
    rest = list(found if order == "desc" else reversed(found))
    after = query.get("after")
    if after is not None:
        places = [place for place, each in enumerate(rest) if each.id == after]
        if not places:
            raise RequestRejected(
                f"`after` must be the id of an entry, not {after[:80]!r}.",
                "after",
                code="invalid_value",
            )
        rest = rest[places[0] + 1 :]
    page = rest[: int(text)]
    return {
        "object": "list",
        "data": [each.visible() for each in page],
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
        "has_more": len(rest) > len(page),
    }
