"""The page of a real server with the demo model, in a real browser."""

from __future__ import annotations

from tests.server.conftest import Server

from .browser import expect
from .heat import heat_maximum
from .pictures import drop
from .scenes import QUESTION, box_of, picture_of, scene_of
from .test_chat import answers, ask, complete
from .watched_page import OpenPage

ANSWER = "A black cross above a yellow circle."


def test_words_light_up_the_shapes_that_they_name(
    server: Server, open_page: OpenPage
) -> None:
    scene = scene_of(ANSWER, shapes=2, seed=5)
    page = open_page(server.url)
    expect(page.get_by_role("heading", level=1)).to_have_text("mllama-demo")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_role("button", name="Done").click()
    drop(page, picture_of(scene))
    ask(page, QUESTION)
    complete(page)
    expect(answers(page)).to_have_text(ANSWER)
    expect(page.locator(".assistant > .stats")).to_contain_text("of pictures")
    for item in scene.items:
        for text in (item.color, item.kind):
            page.locator(".word", has_text=text).hover()
            x, y = heat_maximum(page.locator("#thread figure.lit"))
            left, top, right, bottom = box_of(scene, item.kind)
            assert left <= x <= right, text
            assert top <= y <= bottom, text
