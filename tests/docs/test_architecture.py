"""``docs/architecture.md`` names files, folders and objects that exist."""

from __future__ import annotations

import re

from tests.docs.markdown import ROOT

PAGE = ROOT / "docs" / "architecture.md"
PACKAGE = ROOT / "mllama"

_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"[\w/]+(?:/|\.(?:py|mojo|jinja|md))")
_NAME = re.compile(r"[A-Z]\w*[a-z]\w*(?:\.\w+)?")


def quoted() -> list[str]:
    return _CODE.findall(PAGE.read_text(encoding="utf-8"))


def sources() -> str:
    files = sorted(PACKAGE.rglob("*.py"))
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def test_named_files_exist() -> None:
    names = {path.name + "/" * path.is_dir() for path in PACKAGE.rglob("*")}
    missing = [
        path
        for path in quoted()
        if _PATH.fullmatch(path)
        and not any((folder / path).exists() for folder in (ROOT, PACKAGE))
        # A bare name is beside a file or folder that is named before it.
        and path not in names
    ]
    assert missing == []


def test_named_objects_exist() -> None:
    text = sources()
    missing = [
        name
        for name in quoted()
        if _NAME.fullmatch(name)
        and not re.search(rf"\b{re.escape(name.rpartition('.')[2])}\b", text)
    ]
    assert missing == []


def test_every_package_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    packages = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    assert [name for name in packages if f"`{name}/`" not in text] == []
