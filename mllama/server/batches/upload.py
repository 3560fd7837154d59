"""Reads a file that a client uploads, straight to the disk."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from starlette.requests import Request

from mllama.server.batches.file_store import FileStore
from mllama.server.bodies.rejection import RequestRejected
from mllama.server.disk_thread import DiskThread
from mllama.utils.sizes import format_bytes

_MAX_FIELD_BYTES: Final = 1000
_MAX_PARTS: Final = 20
_MAX_HEADER_BYTES: Final = 4000
_MAX_NAME_CHARACTERS: Final = 255

_PIECE: Final = 256 << 10
"""Bytes that are written at once."""


@dataclass
class Upload:
    """A form with a file.

    Attributes:
        fields: The other fields.
        filename: The file's name; None if the form had no file.
        size: The file's bytes.
    """

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    size: int = 0


async def receive_upload(
    request: Request,
    target: Path,
    files: FileStore,
    disk: DiskThread,
    max_bytes: int,
) -> Upload:
    """Writes the file of a form to the disk, as it arrives.

    Args:
        request: The request.
        target: The file to write.  It is removed if something is wrong.
        files: Where its room on the disk is reserved.
        disk: Writes it.
        max_bytes: The largest file.

    Raises:
        RequestRejected: If the body is no form with one file, or the file is too large.
        OSError: If it can't be written.
    """
    from python_multipart import MultipartParser
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import parse_options_header

    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise RequestRejected(
            "The body must be a form (multipart/form-data) with `file` and `purpose`.",
            code="invalid_value",
        )
    upload = Upload()

    def reserve(size: int) -> None:
        if upload.size + size > max_bytes:
            raise RequestRejected(
                f"The file is larger than {format_bytes(max_bytes)} "
                "(--batch-max-file-size).",
                "file",
                code="file_too_large",
                status=413,
            )
        files.reserve(size)
        upload.size += size

    form = _Form(upload, reserve, parse_options_header)
    file = _TargetFile(target)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin,
                "on_header_field": form.header_field,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_headers_finished": form.headers_finished,
                "on_part_data": form.data,
                "on_end": form.end,
            },
        )
        await disk.run(file.open)
        async for chunk in request.stream():
            parser.write(chunk)
            if form.waiting_bytes >= _PIECE:
                await disk.run(partial(file.write, form.take()))
        parser.finalize()
        if not form.is_complete:
            raise RequestRejected("The form ends too soon.", code="invalid_value")
        if upload.filename is None:
            raise RequestRejected(
                "`file` is required: a file of the form.",
                "file",
                code="missing_required_parameter",
            )
        await disk.run(partial(file.write, form.take()))
        await disk.run(file.close)
    except BaseException as error:
        files.free(upload.size)
        await disk.run(file.drop)
        if isinstance(error, FormParserError):
            raise RequestRejected(
                f"The body is no valid form: {error}.", code="invalid_value"
            ) from error
        raise
    return upload


class _TargetFile:
    """The file of an upload; everything here may wait for the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def open(self) -> None:
        self._file = self._path.open("wb")

    def write(self, pieces: list[bytes]) -> None:
        assert self._file is not None
        self._file.writelines(pieces)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def drop(self) -> None:
        """Closes the file, and removes it."""
        # What it hasn't written yet finds no room either.
        with suppress(OSError):
            self.close()
        with suppress(OSError):
            self._path.unlink()


class _Form:
    """Gets the parts of a form from its parser."""

    def __init__(
        self,
        upload: Upload,
        reserve: Callable[[int], None],
        parse_options: Callable[[bytes], tuple[bytes, dict[bytes, bytes]]],
    ) -> None:
        self._upload = upload
        self._reserve = reserve
        self._parse_options = parse_options
        self._parts = 0
        self._name = b""
        self._value = b""
        self._disposition = b""
        self._is_file = False
        self._field = ""
        self._waiting: list[bytes] = []
        self.waiting_bytes = 0
        self.is_complete = False

    def take(self) -> list[bytes]:
        """Returns the next pieces of the file."""
        pieces, self._waiting, self.waiting_bytes = self._waiting, [], 0
        return pieces

    def begin(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise _wrong(f"The form has more than {_MAX_PARTS} fields.")
        self._name = self._value = self._disposition = b""

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name = self._grown(self._name, data[start:end])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value = self._grown(self._value, data[start:end])

    def _grown(self, text: bytes, more: bytes) -> bytes:
        if len(text) + len(more) > _MAX_HEADER_BYTES:
            raise _wrong("The form has a header that is too long.")
        return text + more

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def headers_finished(self) -> None:
        _, options = self._parse_options(self._disposition)
        self._field = options.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = self._field == "file"
        if self._is_file:
            if self._upload.filename is not None:
                raise _wrong("The form has more than one `file`.")
            name = options.get(b"filename", b"file").decode("utf-8", "replace")
            # Browsers of old times send paths.
            name = name.replace("\\", "/").rpartition("/")[2]
            printable = "".join(each for each in name if each.isprintable())
            self._upload.filename = printable[:_MAX_NAME_CHARACTERS] or "file"
        elif self._field in self._upload.fields:
            raise _wrong(f"The form has `{self._field[:80]}` twice.")
        else:
            self._upload.fields[self._field] = ""

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._reserve(end - start)
            self._waiting.append(data[start:end])
            self.waiting_bytes += end - start
            return
        value = self._upload.fields[self._field]
        value += data[start:end].decode("utf-8", "replace")
        if len(value) > _MAX_FIELD_BYTES:
            raise _wrong(f"`{self._field[:80]}` is too long.")
        self._upload.fields[self._field] = value

    def end(self) -> None:
        self.is_complete = True


def _wrong(message: str) -> RequestRejected:
    return RequestRejected(message, code="invalid_value")
