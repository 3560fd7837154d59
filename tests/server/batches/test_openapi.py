"""The routes of batches exist with a folder only, and are in the OpenAPI document."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.server.batches.running import batch_server
from tests.server.dialects.in_process import InProcessServer
from tests.server.test_routes import ROUTES, all_routes

BATCH_ROUTES = {
    "/v1/batches": {"GET", "POST"},
    "/v1/batches/{batch_id}": {"GET"},
    "/v1/batches/{batch_id}/cancel": {"POST"},
    "/v1/files": {"GET", "POST"},
    "/v1/files/{file_id}": {"GET", "DELETE"},
    "/v1/files/{file_id}/content": {"GET"},
}


def test_the_document_has_the_routes(tmp_path: Path) -> None:
    async def test() -> None:
        async with batch_server(tmp_path) as server:
            routes = all_routes(server.app.routes)
            found = {path: routes[path] - {"HEAD"} for path in BATCH_ROUTES}
            assert found == BATCH_ROUTES
            transport = httpx.ASGITransport(app=server.app)
            async with httpx.AsyncClient(transport=transport) as client:
                response = await client.get("http://server/openapi.json")
            document = response.json()
            assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
            for path, methods in BATCH_ROUTES.items():
                operations = document["paths"][path]
                assert {each.upper() for each in operations} == methods
                for operation in operations.values():
                    assert operation["summary"]
                    assert "401" in operation["responses"]

    asyncio.run(asyncio.wait_for(test(), 60))


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches"])
def test_without_a_folder_there_are_none(path: str) -> None:
    assert BATCH_ROUTES.keys().isdisjoint(ROUTES)
    response = InProcessServer().post(path, {})
    assert response.status_code == 404
