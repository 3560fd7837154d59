"""``/v1/batches``: requests of a file, answered when nobody else needs the model."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mllama.server.arrival.reading import read_body
from mllama.server.batches.answers import Batch, BatchList
from mllama.server.batches.body import BatchBody
from mllama.server.batches.disk_errors import disk_errors
from mllama.server.batches.owners import owner_of
from mllama.server.batches.pages import WRONG_PAGE, list_parameters, page_of
from mllama.server.batches.records import (
    KEPT_SECONDS,
    WINDOW_SECONDS,
    BatchRecord,
    new_id,
    now,
)
from mllama.server.batches.stores import BatchStores
from mllama.server.batches.worker import BatchWorker
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.body_routes import add_body_route

_LISTED: Final = 20
_MOST_LISTED: Final = 100
_MISSING: Final[dict[int | str, dict[str, Any]]] = {
    404: {"description": "The client has no batch of this id"}
}
_ENDED: Final[dict[int | str, dict[str, Any]]] = {
    409: {"description": "The batch has ended, or is about to"}
}


class BatchRoutes:
    """Makes batches and says how far they are.

    Args:
        stores: Files and batches.
        worker: Runs batches.
    """

    def __init__(self, stores: BatchStores, worker: BatchWorker) -> None:
        self._stores = stores
        self._worker = worker

    def add_to(self, router: APIRouter) -> None:
        """Adds the routes."""
        add_body_route(router, "/v1/batches", self.create, [BatchBody], Batch)
        router.add_api_route(
            "/v1/batches",
            self.list_batches,
            response_model=BatchList,
            responses=WRONG_PAGE,
            openapi_extra=list_parameters(),
        )
        path = "/v1/batches/{batch_id}"
        router.add_api_route(path, self.get, response_model=Batch, responses=_MISSING)
        router.add_api_route(
            f"{path}/cancel",
            self.cancel,
            methods=["POST"],
            response_model=Batch,
            responses=_MISSING | _ENDED,
        )

    async def create(self, request: Request) -> Response:
        """Makes a batch."""
        body, owner = await read_body(request, BatchBody), owner_of(request)
        expiry = body.output_expires_after
        batch = BatchRecord(
            id=new_id("batch_"),
            owner=owner,
            endpoint=body.endpoint,
            input_file_id=body.input_file_id,
            completion_window=body.completion_window,
            metadata=body.metadata,
            output_seconds=KEPT_SECONDS if expiry is None else expiry.seconds,
            expires_at=now() + WINDOW_SECONDS,
        )
        with disk_errors("batch"):
            await self._stores.disk.run(lambda: self._add(batch))
        self._worker.wake()
        return JSONResponse(batch.visible())

    def _add(self, batch: BatchRecord) -> None:
        """Keeps a new batch, if its input is there."""
        try:
            file = self._stores.files.get(batch.input_file_id, batch.owner)
        except RequestRejected as error:
            raise RequestRejected(str(error), "input_file_id") from None
        if file.purpose != "batch":
            raise RequestRejected(
                f"`input_file_id` must be a file of the purpose 'batch', not "
                f"{file.purpose!r}.",
                "input_file_id",
                code="invalid_value",
            )
        self._stores.check_room_for_batch()
        self._stores.add_batch(batch)

    async def list_batches(self, request: Request) -> JSONResponse:
        """Lists the client's batches."""
        batches = self._stores.batches.of(owner_of(request))
        return JSONResponse(page_of(request, batches, _LISTED, most=_MOST_LISTED))

    async def get(self, request: Request, batch_id: str) -> JSONResponse:
        """Returns how far a batch is."""
        batch = self._stores.batches.get(batch_id, owner_of(request))
        return JSONResponse(batch.visible())

    async def cancel(self, request: Request, batch_id: str) -> JSONResponse:
        """Cancels a batch; what has been answered is kept."""
        batch = self._stores.batches.get(batch_id, owner_of(request))
        if batch.is_over or batch.status == "finalizing":
            raise RequestRejected(
                f"A batch whose status is {batch.status!r} can't be cancelled.",
                "id",
                code="invalid_value",
                status=409,
            )
        if batch.status != "cancelling":
            await self._worker.cancel(batch)
        return JSONResponse(batch.visible())
