"""Pictures that tests drop."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image

from .browser import FilePayload, Page


def payload(name: str = "scene.png", size: tuple[int, int] = (320, 240)) -> FilePayload:
    """Returns a file with a red square on blue."""
    picture = Image.new("RGB", size, "#235")
    width, height = size
    picture.paste("#c33", (width // 4, height // 4, width // 2, height // 2))
    content = io.BytesIO()
    picture.save(content, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": content.getvalue()}


def drop(page: Page, *files: FilePayload) -> None:
    """Drops files on the page."""
    _transfer(
        page,
        files,
        """(dropped) => {
            for (const kind of ["dragenter", "dragover", "drop"]) {
                document.body.dispatchEvent(new DragEvent(kind,
                    { dataTransfer: dropped, bubbles: true, cancelable: true }));
            }
        }""",
    )


def paste(page: Page, *files: FilePayload) -> None:
    """Pastes files into the page."""
    _transfer(
        page,
        files,
        """(pasted) => document.body.dispatchEvent(new ClipboardEvent("paste",
            { clipboardData: pasted, bubbles: true, cancelable: true }))""",
    )


def _transfer(page: Page, files: Sequence[FilePayload], script: str) -> None:
    """Gives files to a script, as its only argument, a DataTransfer."""
    given = [
        {**file, "buffer": base64.b64encode(file["buffer"]).decode()} for file in files
    ]
    page.evaluate(
        """files => {
            const given = new DataTransfer();
            for (const { name, mimeType, buffer } of files) {
                const bytes = Uint8Array.from(atob(buffer), each => each.charCodeAt(0));
                given.items.add(new File([bytes], name, { type: mimeType }));
            }
            (SCRIPT)(given);
        }""".replace("SCRIPT", script),
        given,
    )
