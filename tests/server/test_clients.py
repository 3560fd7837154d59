"""Who a client is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from mllama.server.access.keys import KeyRing
from mllama.server.access.middleware import AccessMiddleware
from mllama.server.access.policy import AccessPolicy
from mllama.server.access.unix_peers import UnixPeers
from mllama.server.clients import (
    NOBODY,
    ClientId,
    client_of,
    current_client,
    note_key,
)
from mllama.server.request_origin import RequestOrigin, origin_of
from mllama.server.routes import error_form


def scope(address: str | None) -> dict[str, Any]:
    return {"type": "http", "client": None if address is None else (address, 5000)}


@pytest.mark.parametrize(
    ("address", "other", "is_same"),
    [
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("::ffff:192.0.2.7", "192.0.2.7", True),
        # A customer's network has any number of addresses.
        ("2001:db8:0:1::1", "2001:db8:0:1:2:3:4:5", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("testclient", "testclient", True),
    ],
)
def test_a_client_is_its_address(address: str, other: str, is_same: bool) -> None:
    assert (client_of(scope(address)) == client_of(scope(other))) is is_same


@pytest.mark.parametrize("address", [None, ""])
def test_clients_of_a_unix_socket_are_one(address: str | None) -> None:
    assert client_of(scope(address)) == NOBODY


def test_a_client_is_its_key_wherever_it_comes_from() -> None:
    here, there, other = scope("192.0.2.7"), scope("192.0.2.8"), scope("192.0.2.7")
    for each, digest in ((here, b"one"), (there, b"one"), (other, b"two")):
        note_key(each, digest)
    assert client_of(here) == client_of(there)
    assert client_of(here) != client_of(other)
    assert not client_of(here).address


@pytest.mark.parametrize("keys", [(), ("one", "two")])
def test_only_a_key_that_the_server_checks_makes_a_client(
    keys: tuple[str, ...],
) -> None:
    seen: list[ClientId] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(client_of(scope))
        # Another task of the request works for the same client.
        assert await asyncio.create_task(working()) == seen[-1]
        await JSONResponse({})(scope, receive, send)

    async def working() -> ClientId:
        return current_client()

    policy = AccessPolicy(keys=KeyRing(keys))
    client = TestClient(AccessMiddleware(app, policy, error_form))
    for key in ("one", "two"):
        client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
    assert current_client() == NOBODY
    first, second = seen
    assert (first == second) is not bool(keys)
    assert bool(first.key) is bool(keys)
    assert "one" not in first.key


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        (None, ""),
        ("192.0.2.7", "192.0.2.7"),
        # The proxy appends the address that it sees to what a client sends.
        ("127.0.0.1, 192.0.2.7", "192.0.2.7"),
        ("192.0.2.8, 192.0.2.7", "192.0.2.7"),
    ],
)
@pytest.mark.parametrize("client", [None, ("", 0)])
def test_a_proxy_on_a_unix_socket_names_the_clients(
    client: Any, forwarded: str | None, address: str
) -> None:
    seen: list[ClientId] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(client_of(scope))
        # No key is needed for metrics from this machine only.
        assert scope["client"] is None or scope["client"][0] == address

    headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode())]
    unused: Any = None
    request = {"type": "http", "client": client, "headers": headers}
    asyncio.run(UnixPeers(app)(request, unused, unused))
    assert seen == [ClientId(address=address)]


def test_an_origin_is_of_an_http_request_and_its_parts_have_names() -> None:
    request = Request({**scope("192.0.2.7"), "state": {"request_id": "abc"}})
    origin = origin_of(request)
    assert origin.client == ClientId(address="192.0.2.7")
    names = [(each.request_id, each.part) for each in map(origin.of_part, range(3))]
    assert names == [("abc", 0), ("abc-1", 1), ("abc-2", 2)]
    assert origin.of_part(2).arrived_ns == origin.arrived_ns
    assert RequestOrigin().of_part(1).request_id is None
