"""Takes the screenshots of the documents: ``make screenshots``.

The demo model answers on ``mllama serve --attention``, in Debian's Chromium.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.server.conftest import Server, running

from .browser import Browser, Page, expect, launch, sync_playwright
from .pictures import drop
from .scenes import QUESTION, picture_of, scene_of
from .test_chat import answers, ask, complete

FOLDER = Path(__file__).resolve().parents[3] / "docs" / "page"
DESKTOP: dict[str, Any] = {
    "viewport": {"width": 1120, "height": 760},
    "color_scheme": "light",
}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 780},
    "device_scale_factor": 2,
    "color_scheme": "dark",
    "has_touch": True,
    "is_mobile": True,
}
ANSWER = "A blue triangle, a white cross and a red star."


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
        for name, options, word in (
            ("desktop", DESKTOP, "star"),
            ("phone", PHONE, "cross"),
        ):
            page = conversation(browser, server, options, word)
            page.screenshot(path=folder / f"{name}.png")
            page.context.close()


def conversation(browser: Browser, server: Server, options: Any, word: str) -> Page:
    """Returns a page with an answer, a word of which is lit up."""
    page = browser.new_context(**options).new_page()
    page.goto(server.url)
    expect(page.get_by_role("heading", level=1)).to_have_text("mllama-demo")
    drop(page, picture_of(scene_of(ANSWER, shapes=3, seed=11), "shapes.png"))
    ask(page, QUESTION)
    complete(page)
    expect(answers(page)).to_have_text(ANSWER)
    page.locator(".word", has_text=word).click()
    expect(page.locator("#thread figure.lit canvas")).to_be_visible()
    return page


if __name__ == "__main__":
    main()
