"""Markdown files of the repository: their links, and their headings' anchors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_BUILT = frozenset({"build", "dist"})

_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)(?:\s+\"[^\"]*\")?\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_FILE = re.compile(r"`((?:mllama|tests|benchmarks|demo|docs|examples)/[a-z0-9_/.-]*)`")
_ABSOLUTE = re.compile(r"(?<![\w.~/])/(?:work|home|root|tmp|Users)/\S+")


def documents() -> list[Path]:
    """Returns the Markdown files of the repository.

    Environments, caches and built files are left out.
    """
    return sorted(
        path
        for path in ROOT.rglob("*.md")
        if not any(
            name in _BUILT or (name.startswith(".") and name != ".github")
            for name in path.relative_to(ROOT).parts
        )
    )


def links(text: str) -> Iterator[str]:
    """Yields the targets of a document's links, those in code left out."""
    without_code = _FENCE.sub("", text)
    # A link's text may be code, so that only the targets in code are removed.
    for match in _LINK.finditer(without_code):
        before = without_code[: match.start()].rpartition("\n")[2]
        if _INLINE_CODE.sub("", before).count("`") % 2 == 0:
            yield match[1]


def absolute_paths(text: str) -> list[str]:
    """Returns paths of one machine that a document names."""
    return _ABSOLUTE.findall(text)


def named_files(text: str) -> list[str]:
    """Returns the files and folders of the repository that a document names."""
    return _FILE.findall(text)


def anchors(text: str) -> set[str]:
    """Returns the anchors that GitHub gives a document's headings."""
    found: set[str] = set()
    for match in _HEADING.finditer(_FENCE.sub("", text)):
        slug = base = _slug(match[1])
        number = 0
        while slug in found:
            number += 1
            slug = f"{base}-{number}"
        found.add(slug)
    return found


def _slug(heading: str) -> str:
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
