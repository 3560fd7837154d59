"""The lines of a batch are its owner's, so that those of others don't wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mllama.server.clients import ClientId, current_client
from tests.server.batches.running import CHAT, batch_server, requests
from tests.server.dialects.in_process import FakeFetcher


def test_lines_are_of_the_owner_of_their_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ClientId] = []
    fetch = FakeFetcher.fetch

    async def noting(
        fetcher: FakeFetcher, url: str, charge: Callable[[int], None]
    ) -> bytes:
        seen.append(current_client())
        return await fetch(fetcher, url, charge)

    monkeypatch.setattr(FakeFetcher, "fetch", noting)
    image = {"type": "image_url", "image_url": {"url": "http://pictures/one.png"}}
    messages: Any = [{"role": "user", "content": [image]}]

    async def test() -> None:
        async with batch_server(tmp_path, keys=("a", "b")) as server:
            for key in ("a", "a", "b"):
                server.client = server.client_of(key)
                batch = await server.start(requests(2, messages=messages), CHAT)
                assert (await server.ended(batch)).status == "completed"
                await server.client.chat.completions.create(
                    model="served", messages=messages
                )

    asyncio.run(asyncio.wait_for(test(), 60))
    # Two lines and a request each.
    assert len(seen) == 9
    lines = [set(seen[place : place + 2]) for place in (0, 3, 6)]
    assert [len(each) for each in lines] == [1, 1, 1]
    assert lines[0] == lines[1] != lines[2]
    asked = [seen[place] for place in (2, 5, 8)]
    assert asked[0] == asked[1] != asked[2]
    assert not set(asked) & {*lines[0], *lines[2]}
    assert all(each.key for each in seen)
