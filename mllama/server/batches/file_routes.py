"""``/v1/files``: files with the requests of batches, and with their answers."""

from __future__ import annotations

import contextlib
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from mllama.max_compat.server import ClientDisconnected
from mllama.server.batches.answers import DeletedFile, FileList, FileObject
from mllama.server.batches.body import LEAST_KEPT_SECONDS
from mllama.server.batches.disk_errors import disk_errors
from mllama.server.batches.owners import owner_of
from mllama.server.batches.pages import WRONG_PAGE, list_parameters, page_of
from mllama.server.batches.ranged_file_response import RangedFileResponse
from mllama.server.batches.records import KEPT_SECONDS, FileRecord, new_id, now
from mllama.server.batches.stores import BatchStores
from mllama.server.batches.upload import Upload, receive_upload
from mllama.server.bodies.rejection import RequestRejected

_MOST_LISTED: Final = 10_000
_ANCHOR: Final = "expires_after[anchor]"
_SECONDS: Final = "expires_after[seconds]"
_FIELDS: Final = ("purpose", _ANCHOR, _SECONDS)
_MISSING: Final[dict[int | str, dict[str, Any]]] = {
    404: {"description": "The client has no file of this id"}
}
_IN_USE: Final[dict[int | str, dict[str, Any]]] = {
    409: {"description": "A batch that hasn't ended reads the file"}
}
_FULL: Final[dict[int | str, dict[str, Any]]] = {
    507: {"description": "The disk is full or read-only"}
}
_JSON_LINES: Final = {"application/jsonl": {"schema": {"type": "string"}}}
_CONTENT: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": _JSON_LINES},
    206: {"description": "The parts that `Range` asks for", "content": _JSON_LINES},
    400: {"description": "`Range` can't be read"},
    416: {"description": "`Range` lies outside of the file"},
}
_FORM: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["batch"]},
                        _ANCHOR: {"type": "string", "enum": ["created_at"]},
                        _SECONDS: {"type": "string"},
                    },
                }
            }
        },
    }
}


class FileRoutes:
    """Keeps the files of clients.

    Args:
        stores: Files and batches.
    """

    def __init__(self, stores: BatchStores) -> None:
        self._stores = stores
        self._files = stores.files
        self._disk = stores.disk

    def add_to(self, router: APIRouter) -> None:
        """Adds the routes."""
        router.add_api_route(
            "/v1/files",
            self.upload,
            methods=["POST"],
            response_class=JSONResponse,
            responses={200: {"model": FileObject}, **_FULL},
            openapi_extra=_FORM,
            summary="Uploads a file",
        )
        router.add_api_route(
            "/v1/files",
            self.list_files,
            response_model=FileList,
            responses=WRONG_PAGE,
            openapi_extra=list_parameters("purpose"),
        )
        path = "/v1/files/{file_id}"
        router.add_api_route(
            path, self.get, response_model=FileObject, responses=_MISSING
        )
        router.add_api_route(
            path,
            self.delete,
            methods=["DELETE"],
            response_model=DeletedFile,
            responses=_MISSING | _IN_USE,
        )
        router.add_api_route(
            f"{path}/content",
            self.content,
            response_class=Response,
            responses=_CONTENT | _MISSING,
        )

    async def upload(self, request: Request) -> Response:
        """Keeps a file that a client sends."""
        self._stores.check_room_for_file()
        file_id = new_id("file-")
        target = self._files.content_path(file_id)
        try:
            with disk_errors("file"):
                upload = await receive_upload(
                    request,
                    target,
                    self._files,
                    self._disk,
                    self._stores.options.max_file_bytes,
                )
        except ClientDisconnect as error:
            raise ClientDisconnected from error
        try:
            assert upload.filename is not None
            record = FileRecord(
                id=file_id,
                owner=owner_of(request),
                bytes=upload.size,
                filename=upload.filename,
                purpose="batch",
                expires_at=now() + _kept_seconds(upload),
            )

            def keep() -> None:
                self._stores.check_room_for_file()
                self._files.add(record)

            with disk_errors("file"):
                await self._disk.run(keep)
        except BaseException:
            await self._disk.run(lambda: self._drop(file_id, upload.size))
            raise
        return JSONResponse(record.visible())

    def _drop(self, file_id: str, size: int) -> None:
        """Removes a file unless it is kept."""
        if self._files.find(file_id) is None:
            self._files.free(size)
            # The disk may be why it isn't kept.
            with contextlib.suppress(OSError):
                self._files.content_path(file_id).unlink()

    async def list_files(self, request: Request) -> JSONResponse:
        """Lists the client's files."""
        files = self._files.of(owner_of(request))
        purpose = request.query_params.get("purpose")
        if purpose is not None:
            files = [each for each in files if each.purpose == purpose]
        page = page_of(request, files, _MOST_LISTED, most=_MOST_LISTED)
        return JSONResponse(page)

    async def get(self, request: Request, file_id: str) -> JSONResponse:
        """Returns what is known about a file."""
        return JSONResponse(self._files.get(file_id, owner_of(request)).visible())

    async def content(self, request: Request, file_id: str) -> Response:
        """Returns the content of a file."""
        record = self._files.get(file_id, owner_of(request))
        return RangedFileResponse(
            self._files.content_path(record.id),
            media_type="application/jsonl",
            filename=record.filename,
            missing=self._files.missing(record.id),
        )

    async def delete(self, request: Request, file_id: str) -> JSONResponse:
        """Deletes a file."""
        owner = owner_of(request)
        await self._disk.run(lambda: self._remove(file_id, owner))
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})

    def _remove(self, file_id: str, owner: str) -> None:
        record = self._files.get(file_id, owner)
        if self._stores.uses(record.id):
            raise RequestRejected(
                "A batch that hasn't ended reads this file: cancel it first.",
                "id",
                code="file_in_use",
                status=409,
            )
        self._files.remove(record)


def _kept_seconds(upload: Upload) -> int:
    """Returns how long a file is kept, by the fields of its form, which it checks.

    Raises:
        RequestRejected: If a field is wrong.
    """
    for name in upload.fields:
        if name not in _FIELDS:
            raise RequestRejected(
                f"`{name[:80]}` is not a field that this server knows.",
                name[:80],
                code="unknown_parameter",
            )
    purpose = upload.fields.get("purpose")
    if purpose != "batch":
        raise RequestRejected(
            f"`purpose` must be 'batch', not {str(purpose)[:80]!r}.",
            "purpose",
            code="missing_required_parameter" if purpose is None else "invalid_value",
        )
    anchor, seconds = upload.fields.get(_ANCHOR), upload.fields.get(_SECONDS)
    if anchor is None and seconds is None:
        return KEPT_SECONDS
    if anchor != "created_at":
        raise RequestRejected(
            f"`{_ANCHOR}` must be 'created_at'.", _ANCHOR, code="invalid_value"
        )
    if (
        seconds is None
        or not (seconds.isascii() and seconds.isdigit() and len(seconds) < 10)
        or not LEAST_KEPT_SECONDS <= int(seconds) <= KEPT_SECONDS
    ):
        raise RequestRejected(
            f"`{_SECONDS}` must be from {LEAST_KEPT_SECONDS} to {KEPT_SECONDS}.",
            _SECONDS,
            code="invalid_value",
        )
    return int(seconds)
