"""Takes the screenshots of the documents: ``make screenshots``.

The demo model answers on ``mllama serve --attention``, in Debian's Chromium.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from tests.server.conftest import Server, running

from .browser import Browser, Page, expect, launch, sync_playwright
from .pictures import drop
from .scenes import QUESTION, picture_of, scenes_of_two_shapes
from .test_chat import ask, complete

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "page"
DESKTOP: dict[str, Any] = {
    "viewport": {"width": 1120, "height": 700},
    "color_scheme": "light",
}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 700},
    "device_scale_factor": 2,
    "color_scheme": "dark",
    "has_touch": True,
    "is_mobile": True,
}
SECOND_QUESTION = "What color is the cross?"


def main() -> None:
    """Writes the screenshots into the folder that is named, or into docs/page."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as logs,
        running(Path(logs) / "log", "--attention") as server,
        sync_playwright() as playwright,
        launch(playwright) as browser,
    ):
        for name, options in (("desktop", DESKTOP), ("phone", PHONE)):
            page = conversation(browser, server, options)
            page.screenshot(path=folder / f"{name}.png")
            page.context.close()


def conversation(browser: Browser, server: Server, options: Any) -> Page:
    """Returns a page with an answer whose last word is lit up."""
    _, (scene, _) = islice(scenes_of_two_shapes(), 2)
    page = browser.new_context(**options).new_page()
    page.goto(server.url)
    expect(page.get_by_role("heading", level=1)).to_have_text("mllama-demo")
    drop(page, picture_of(scene))
    ask(page, QUESTION)
    complete(page)
    ask(page, SECOND_QUESTION)
    complete(page, 2)
    page.locator(".word", has_text="circle").click()
    expect(page.locator("#thread figure.lit canvas")).to_be_visible()
    return page


if __name__ == "__main__":
    main()
