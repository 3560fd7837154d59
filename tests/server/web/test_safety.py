"""Nothing that a model or a file says becomes markup or a script."""

from __future__ import annotations

import time

import pytest

from .browser import SECONDS, Browser, Page, expect
from .page_server import PageServer
from .pictures import drop, payload
from .test_chat import answers, ask, complete
from .watched_page import watch

HOSTILE = """<script>window.hit = 1</script>
<img src=x onerror="window.hit = 1">
<svg onload="window.hit = 1"><a href="javascript:window.hit=1">x</a></svg>

[click](javascript:window.hit=1) [data](data:text/html,<script>1</script>)
![picture](https://example.org/track.png)
[good](https://example.org/page)

```html
<script>window.hit = 1</script>
```
"""


def test_hostile_answers_stay_text(page: Page, page_server: PageServer) -> None:
    page_server.engine.texts = [HOSTILE]
    ask(page, "<img src=x onerror='window.hit = 1'>")
    complete(page)
    assert page.evaluate("window.hit") is None
    assert page.locator("#thread :is(script, img, svg, iframe)").count() == 0
    links = answers(page).locator("a").evaluate_all("all => all.map(a => a.href)")
    assert set(links) <= {
        "https://example.org/track.png",
        "https://example.org/page",
    }
    expect(answers(page)).to_contain_text("<script>window.hit = 1</script>")


def test_a_pictures_name_stays_text(page: Page) -> None:
    name = "<img src=x onerror='window.hit = 1'>.png"
    drop(page, payload(name))
    expect(page.get_by_alt_text(name)).to_be_visible()
    page.keyboard.press("Enter")
    complete(page)
    assert page.evaluate("window.hit") is None
    assert page.locator("#thread img").count() == 1


@pytest.mark.parametrize(
    "text", ["> " * 3000 + "x", "- " * 500 + "x", "**_" * 5000 + "x" + "_**" * 5000]
)
def test_answers_of_deep_structure_are_shown(
    page: Page, page_server: PageServer, text: str
) -> None:
    page_server.engine.texts = [text]
    ask(page, "Go on")
    complete(page)
    expect(answers(page)).to_contain_text("x")
    deepest = answers(page).evaluate(
        """answer => Math.max(...[...answer.querySelectorAll("*")].map(each => {
            let depth = 0;
            for (; each !== answer; each = each.parentElement) depth++;
            return depth;
        }))"""
    )
    assert deepest < 60


def test_a_violation_of_the_policy_is_noticed(
    browser: Browser, page_server: PageServer
) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        violations = watch(page)
        page.goto(page_server.url)
        page.evaluate(
            """() => {
                const script = document.createElement("script");
                try { script.textContent = "window.hit = 1"; } catch {}
                document.head.append(script);
                fetch("http://127.0.0.1:1/").catch(() => {});
            }"""
        )
        end = time.monotonic() + SECONDS
        while len(violations) < 2:
            assert time.monotonic() < end
            page.wait_for_timeout(20)
        assert page.evaluate("window.hit") is None
