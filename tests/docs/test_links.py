"""Every relative link of a document leads somewhere, without a network."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.markdown import (
    ROOT,
    absolute_paths,
    anchors,
    documents,
    links,
    named_files,
)

README_LINES = 200


def resolves(document: Path, link: str) -> bool:
    """Returns True if a document's link leads somewhere, or to another site."""
    parts = urlsplit(link)
    if parts.scheme or parts.path.startswith("/"):
        return parts.scheme in ("http", "https", "mailto")
    target = document.parent / unquote(parts.path) if parts.path else document
    if not target.exists() or not parts.fragment:
        return target.exists()
    text = target.read_text(encoding="utf-8") if target.suffix == ".md" else ""
    return parts.fragment in anchors(text)


def broken(document: Path) -> list[str]:
    """Returns the links of a document that lead nowhere."""
    text = document.read_text(encoding="utf-8")
    return [link for link in links(text) if not resolves(document, link)]


@pytest.mark.parametrize(
    "document", documents(), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_relative_links_and_anchors_resolve(document: Path) -> None:
    assert broken(document) == []


def test_documents_name_no_path_of_one_machine() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): paths
        for path in documents()
        if (paths := absolute_paths(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_files_that_documents_name_exist() -> None:
    missing = {
        f"{page.relative_to(ROOT).as_posix()}: {name}"
        for page in documents()
        for name in named_files(page.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    }
    assert missing == set()


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `title`: of two\n\n[good](#a-title-of-two) [`code`](page.md) "
        "[bad](#a-title) [lost](lost.md) [rooted](/etc/hosts) `[code](none.md)`\n"
        "```\n[example](none.md)\n```\n",
        encoding="utf-8",
    )
    assert broken(page) == ["#a-title", "lost.md", "/etc/hosts"]


def test_every_page_is_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        for link in links(page.read_text(encoding="utf-8")):
            path = urlsplit(link).path
            if path and not urlsplit(link).scheme:
                waiting.append((page.parent / unquote(path)).resolve())
    pages = {path for path in documents() if ".github" not in path.parts}
    assert pages - seen == set()


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= README_LINES
