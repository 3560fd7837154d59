"""Who gets the page at ``/``, and its files."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

from mllama.server.paths import RootPath
from mllama.server.web.routes import page_files
from tests.server.dialects.fake_engine import FakeEngine
from tests.server.web.page_server import new_app

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FILES = sorted(page_files())


def client(**options: Any) -> TestClient:
    return TestClient(new_app(FakeEngine(), **options), base_url="http://localhost")


def test_browsers_get_the_page_and_other_clients_ollamas_greeting() -> None:
    server = client()
    page = server.get("/", headers=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["vary"] == "Accept"
    for accepted in ("*/*", "application/json", "text/plain"):
        answer = server.get("/", headers={"Accept": accepted})
        assert answer.text == "Ollama is running"
    assert (
        server.head("/", headers=BROWSER)
        .headers["content-type"]
        .startswith("text/plain")
    )


@pytest.mark.parametrize("name", FILES)
def test_files_have_a_strict_policy_and_a_validator(name: str) -> None:
    server = client()
    answer = server.get(f"/page/{name}")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = server.get(
        f"/page/{name}", headers={"If-None-Match": answer.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


def test_other_files_are_not_served() -> None:
    server = client()
    for name in ("nothing.js", "../routes.py", "%2e%2e%2froutes.py", ""):
        assert server.get(f"/page/{name}").status_code == 404


@pytest.mark.parametrize("name", FILES)
def test_files_name_no_other_host_and_make_no_markup(name: str) -> None:
    text = page_files()[name].content.decode()
    urls = re.findall(r"https?://[a-z][\w.]*", text)
    # A namespace, and the comment of marked that says where it comes from.
    assert set(urls) <= {"http://www.w3.org", "https://github.com"}
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|style=|\bon\w+=\"",
        text,
    )


def test_only_the_page_needs_no_key() -> None:
    server = client(api_keys=["secret"])
    assert server.get("/", headers=BROWSER).status_code == 200
    for name in FILES:
        assert server.get(f"/page/{name}").status_code == 200
    assert server.get("/").status_code == 401
    assert server.head("/", headers=BROWSER).status_code == 401
    assert server.get("/v1/models", headers=BROWSER).status_code == 401
    assert server.post("/page/main.js", json={}).status_code == 401
    assert server.get("/pages/main.js").status_code == 401


def test_the_page_has_the_access_rules_of_the_others() -> None:
    foreign = {**BROWSER, "Host": "attacker.example"}
    assert client().get("/", headers=foreign).status_code == 403
    other = {**BROWSER, "Origin": "https://attacker.example"}
    assert client().get("/", headers=other).status_code == 403


@pytest.mark.parametrize("path", ["/llama", "/llama/", "/"])
def test_below_a_root_path_the_page_loads_without_a_slash_at_the_end(path: str) -> None:
    app = RootPath(new_app(FakeEngine(), root_path="/llama"), "/llama")
    server = TestClient(app, base_url="http://localhost")
    answer = server.get(path, headers=BROWSER)
    assert '<script type="module" src="/llama/page/main.js">' in answer.text
    assert '"page/' not in answer.text
    assert server.get("/llama/page/main.js").status_code == 200
    assert server.get("/llama").text == "Ollama is running"
    etag = {"If-None-Match": client().get("/", headers=BROWSER).headers["etag"]}
    assert server.get(path, headers=BROWSER | etag).status_code == 200


def test_a_server_without_the_page() -> None:
    server = client(page=False)
    assert server.get("/", headers=BROWSER).text == "Ollama is running"
    assert server.get("/page/main.js").status_code == 404
    server = client(page=False, api_keys=["secret"])
    assert server.get("/", headers=BROWSER).status_code == 401
    assert server.get("/page/main.js").status_code == 401
