"""Chatting on the page, in a real browser."""

from __future__ import annotations

import json
import re

import pytest

from .browser import COUNT, Page, expect, wait_until
from .page_server import PageServer
from .pictures import drop, paste, payload
from .watched_page import OpenPage

ANSWER = "The square is **red**."


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your question").fill(text)
    page.keyboard.press("Enter")


def begin_long_answer(page: Page, page_server: PageServer) -> None:
    """Asks "Go on", whose answer takes ten seconds."""
    page_server.engine.texts = ["word " * 1000]
    page_server.pause = 0.01
    ask(page, "Go on")


def answers(page: Page):  # type: ignore[no-untyped-def]
    return page.locator(".assistant > .text")


def complete(page: Page, count: int = 1) -> None:
    """Waits until so many answers are shown, and none is being written."""
    expect(answers(page)).to_have_count(count)
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.locator(".assistant[aria-busy='true']")).to_have_count(0)


def test_a_dropped_picture_is_asked_about(page: Page, page_server: PageServer) -> None:
    page_server.engine.texts = [ANSWER]
    page_server.engine.cached_tokens = 3
    drop(page, payload())
    expect(page.get_by_alt_text("scene.png")).to_be_visible()
    ask(page, "Which color?")
    complete(page)
    expect(answers(page)).to_have_text("The square is red.")
    expect(answers(page).locator("strong")).to_have_text("red")
    expect(page.locator(".assistant > .stats")).to_contain_text(
        re.compile(r"s to the first token.* 23 tokens .*5 of pictures, 3 cached")
    )
    (request,) = page_server.engine.requests
    assert len(request.images) == 1
    assert page_server.engine.images == [payload()["buffer"]]


def test_pictures_are_pasted_picked_and_photographed(
    open_page: OpenPage, page_server: PageServer
) -> None:
    page = open_page(page_server.url, has_touch=True, is_mobile=True)
    paste(page, payload("pasted.png"))
    expect(page.get_by_alt_text("pasted.png")).to_be_visible()
    with page.expect_file_chooser() as picked:
        page.get_by_role("button", name="Add pictures").click()
    assert picked.value.is_multiple()
    picked.value.set_files([payload("one.png"), payload("two.png")])
    expect(page.get_by_alt_text("two.png")).to_be_visible()
    with page.expect_file_chooser() as photographed:
        page.get_by_role("button", name="Photo").click()
    assert photographed.value.element.get_attribute("capture") == "environment"
    photographed.value.set_files([payload("photo.png")])
    expect(page.locator("#attached img")).to_have_count(4)
    page.get_by_role("button", name="Remove one.png").click()
    ask(page, "What are these?")
    complete(page)
    (request,) = page_server.engine.requests
    assert len(request.images) == 3


def test_a_second_picture_and_turn_have_the_first(
    page: Page, page_server: PageServer
) -> None:
    drop(page, payload("one.png"))
    ask(page, "First?")
    complete(page)
    drop(page, payload("two.png", (100, 100)), payload("three.png", (50, 50)))
    ask(page, "Second?")
    complete(page, 2)
    assert [len(request.images) for request in page_server.engine.requests] == [1, 3]


MARKDOWN = """# Title

A **bold _and italic_**, ~~struck~~ `a < b` and <https://example.org/>.

1. one
   - inner
2. two

| left | right |
|------|------:|
| 1    |     2 |

> quoted

```python
if a < b:
    print("x")
```

See [the page][1].

[1]: https://example.org/page
"""


def test_markdown_is_shown(page: Page, page_server: PageServer) -> None:
    page_server.engine.texts = [MARKDOWN]
    ask(page, "Go on")
    complete(page)
    shown = answers(page)
    expect(shown.get_by_role("heading")).to_have_text("Title")
    expect(shown.locator("strong em")).to_have_text("and italic")
    expect(shown.locator("p s")).to_have_text("struck")
    expect(shown.locator("p code")).to_have_text("a < b")
    expect(shown.locator("ol > li > ul > li")).to_have_text("inner")
    expect(shown.locator("ol > li")).to_have_count(2)
    expect(shown.locator("td").nth(1)).to_have_css("text-align", "right")
    expect(shown.locator("blockquote")).to_have_text("quoted")
    expect(shown.locator("pre")).to_have_text('if a < b:\n    print("x")')
    expect(shown.locator("figcaption")).to_contain_text("python")
    links = shown.locator("a").evaluate_all("all => all.map(each => each.href)")
    assert links == ["https://example.org/", "https://example.org/page"]


def test_an_answer_is_shown_while_it_is_written_and_can_be_stopped(
    page: Page, page_server: PageServer
) -> None:
    begin_long_answer(page, page_server)
    expect(answers(page)).to_contain_text("word word")
    page.get_by_role("button", name="Stop").click()
    complete(page)
    expect(page.locator(".assistant > .state")).to_have_text("Stopped.")
    text = answers(page).inner_text()
    assert 0 < text.count("word") < 900
    page_server.wait_until_idle()


def test_escape_stops(page: Page, page_server: PageServer) -> None:
    begin_long_answer(page, page_server)
    expect(answers(page)).to_contain_text("word")
    page.keyboard.press("Escape")
    complete(page)


def test_regenerated_answers_and_edited_questions_are_branches(
    page: Page, page_server: PageServer
) -> None:
    ask(page, "One?")
    complete(page)
    page_server.engine.texts = ["Other"]
    page.get_by_role("button", name="Regenerate").click()
    expect(answers(page)).to_have_text("Other")
    complete(page)
    page.get_by_role("button", name="Earlier version").click()
    expect(answers(page)).to_have_text("Hello!")
    page_server.engine.texts = ["Third"]
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the question").fill("Two?")
    page.keyboard.press("Enter")
    expect(answers(page)).to_have_text("Third")
    complete(page)
    expect(page.locator(".user > .text")).to_have_text("Two?")
    page.locator(".user").get_by_role("button", name="Earlier version").click()
    expect(page.locator(".user > .text")).to_have_text("One?")


def test_chats_and_pictures_survive_a_reload(
    page: Page, page_server: PageServer
) -> None:
    drop(page, payload())
    ask(page, "Which color?")
    complete(page)
    page.reload()
    expect(answers(page)).to_have_text("Hello!")
    page.wait_for_function("document.querySelector('.user img')?.naturalWidth === 320")
    ask(page, "And now?")
    complete(page, 2)
    assert [len(request.images) for request in page_server.engine.requests] == [1, 1]
    page.get_by_role("button", name="New chat").click()
    expect(answers(page)).to_have_count(0)
    page.get_by_role("button", name="Which color?", exact=True).click()
    expect(answers(page)).to_have_count(2)
    page.get_by_role("button", name="Delete “Which color?”").click()
    expect(page.locator("#chats li")).to_have_count(0)
    for store in ("conversations", "pictures"):
        wait_until(page, f"({COUNT})('{store}').then(count => count === 0)")


def test_a_chat_that_is_deleted_in_mid_answer_stays_deleted(
    page: Page, page_server: PageServer
) -> None:
    begin_long_answer(page, page_server)
    expect(answers(page)).to_contain_text("word word")
    page.get_by_role("button", name="Delete “Go on”").click()
    page_server.wait_until_idle()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("#chats li")).to_have_count(0)
    wait_until(page, f"({COUNT})('conversations').then(count => count === 0)")


def test_settings_are_sent(page: Page, page_server: PageServer) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Longest answer in tokens").fill("3")
    page.get_by_role("button", name="Done").click()
    page.reload()
    ask(page, "Hello?")
    complete(page)
    expect(answers(page)).to_have_text("Hel")
    expect(page.locator(".assistant > .state")).to_contain_text("longest length")
    (request,) = page_server.engine.requests
    assert request.sampling.temperature == 0.5
    assert "Be brief." in str(request.prompt)


def test_chats_are_exported_and_imported(page: Page, page_server: PageServer) -> None:
    drop(page, payload())
    ask(page, "Which color?")
    complete(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    path = download.value.path()
    assert json.loads(path.read_text())["version"] == 1
    page.get_by_role("button", name="Delete “Which color?”").click()
    expect(page.locator("#chats li")).to_have_count(0)
    page.locator("#import-file").set_input_files(path)
    page.get_by_role("button", name="Which color?", exact=True).click()
    expect(answers(page)).to_have_text("Hello!")
    page.wait_for_function("document.querySelector('.user img')?.naturalWidth === 320")
    page.locator("#import-file").set_input_files(
        {"name": "a.json", "mimeType": "application/json", "buffer": b'{"a": 1}'}
    )
    expect(page.get_by_role("alert")).to_contain_text("has no chats of this page")


def test_a_damaged_file_is_not_imported_in_part(
    page: Page, page_server: PageServer
) -> None:
    drop(page, payload())
    ask(page, "Which color?")
    complete(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    file = json.loads(download.value.path().read_text())
    damaged = json.loads(json.dumps(file["conversations"][0]))
    for message in damaged["messages"].values():
        for picture in message["pictures"]:
            picture.update(id="damaged", name="b.png")
    file["conversations"].append(damaged)
    for number, content in enumerate(("image/png;base64,abcde", "text/html;base64,")):
        file["pictures"]["damaged"] = f"data:{content}"
        page.locator("#import-file").set_input_files(
            {
                "name": f"{number}.json",
                "mimeType": "application/json",
                "buffer": json.dumps(file).encode(),
            }
        )
        expect(page.get_by_role("alert")).to_contain_text(
            f"“{number}.json” is damaged: its picture “b.png” can't be read"
        )
    assert page.evaluate(COUNT, "conversations") == 1
    assert page.evaluate(COUNT, "pictures") == 1


@pytest.mark.parametrize("language", ["curl", "Python"])
def test_a_request_is_shown_as_code(
    page: Page, page_server: PageServer, language: str
) -> None:
    drop(page, payload("it's\n$HOME.png"))
    ask(page, "What's `this`, $USER?")
    complete(page)
    page.get_by_role("button", name="Copy as code").click()
    page.get_by_label(language).check()
    code = page.locator("#code-text").inner_text()
    if language == "Python":
        compile(code, "code", "exec")
        assert '"url": picture("it\'s?$HOME.png")' in code
    else:
        assert f"curl {page_server.url}v1/chat/completions" in code
        assert "What's \\`this\\`, \\$USER?" in code
        assert "$(base64 < './it'\\''s?$HOME.png' | tr -d '\\n')" in code


def test_an_answer_after_two_hundred_turns_changes_nothing_before_it(
    page: Page, page_server: PageServer
) -> None:
    messages = {}
    parent = None
    for turn in range(400):
        role = "assistant" if turn % 2 else "user"
        messages[str(turn)] = {
            "parent": parent,
            "role": role,
            "text": f"{turn} " + "some **words** and `code`. " * 20,
            "pictures": [],
            "status": "complete",
        }
        parent = str(turn)
    chat = {"title": "Long", "created": 1, "updated": 1, "leaf": parent}
    file = {
        "format": "mllama-chats",
        "version": 1,
        "conversations": [{**chat, "messages": messages}],
    }
    page.locator("#import-file").set_input_files(
        {
            "name": "long.json",
            "mimeType": "application/json",
            "buffer": json.dumps(file).encode(),
        }
    )
    page.get_by_role("button", name="Long", exact=True).click()
    expect(answers(page)).to_have_count(200)
    page_server.engine.texts = ["word " * 200]
    page.evaluate(
        """() => {
            const earlier = [...document.querySelectorAll("#thread > li")];
            window.changesOfEarlierTurns = 0;
            new MutationObserver(changes => {
                window.changesOfEarlierTurns += changes.length;
            }).observe(document.getElementById("thread"), { childList: true });
            for (const each of earlier) new MutationObserver(changes => {
                window.changesOfEarlierTurns += changes.length;
            }).observe(each, { childList: true, subtree: true, characterData: true });
        }"""
    )
    ask(page, "And?")
    complete(page, 201)
    # Their buttons are made anew when the answer begins and ends, and nothing with each
    # of the answer's thousand tokens.
    assert page.evaluate("window.changesOfEarlierTurns") < 400 * 5
