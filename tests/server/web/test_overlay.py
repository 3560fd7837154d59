"""Words that light up the picture, in a real browser."""

from __future__ import annotations

from .browser import Page, expect
from .page_server import PageServer
from .pictures import drop, payload
from .test_chat import answers, ask, complete

# The square of the picture is at a quarter of its sides.
GRID = [[0.0, 0.0, 0.0, 0.0], [0.0, 0.9, 0.05, 0.0], [0.0] * 4, [0.0] * 4]


def test_a_hovered_word_lights_up_where_it_looked(
    page: Page, page_server: PageServer
) -> None:
    page_server.engine.texts = ["A **red** square."]
    drop(page, payload())
    ask(page, "What is it?")
    complete(page)
    page.wait_for_function("document.querySelector('.user img')?.naturalWidth === 320")
    words = [
        {"text": "red", "maps": [{"grid": GRID, "rectangle": [0, 0, 1, 1]}]},
        {"text": "square", "maps": [None]},
        {"text": "absent", "maps": [None]},
    ]
    page.evaluate(
        """async words => {
            const { attachOverlay } = await import(
                new URL("page/overlay.js", document.baseURI));
            attachOverlay(document.querySelector(".assistant > .text"), words,
                [...document.querySelectorAll("figure[data-picture]")]);
        }""",
        words,
    )
    expect(answers(page)).to_have_text("A red square.")
    page.get_by_role("button", name="red").hover()
    expect(page.locator("figure.lit canvas")).to_be_visible()
    place = page.evaluate(
        """() => {
            const canvas = document.querySelector("figure canvas");
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            let best = 0;
            for (let each = 3; each < data.length; each += 4)
                if (data[each] > data[best + 3]) best = each - 3;
            return [(best / 4 % width) / width, Math.floor(best / 4 / width) / height];
        }"""
    )
    assert all(0.25 <= each < 0.5 for each in place)
    page.get_by_role("button", name="square").hover()
    expect(page.locator("figure canvas")).to_have_count(0)
    page.get_by_role("button", name="red").focus()
    expect(page.locator("figure canvas")).to_have_count(1)
