"""The documents list the formats of images that the package reads, and no others."""

from __future__ import annotations

import re

from mllama.images.formats import FORMATS
from tests.docs.markdown import ROOT

NAMES = {
    "WEBP": ["WebP"],
    "HEIF": ["HEIC", "HEIF"],
    "JPEG2000": ["JPEG 2000"],
}
EVERY_NAME = [name for kind in FORMATS for name in NAMES.get(kind, [kind])]
_FORMAT = re.compile(r"\b(JPEG 2000|WebP|[A-Z]{3,4})\b")


def listed(page: str) -> list[str]:
    """Returns the formats in the sentence with the list."""
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    start = text.index("Images may be PNG")
    return _FORMAT.findall(text[start : text.index(". ", start)])


def test_the_page_of_the_api_lists_every_format() -> None:
    assert listed("docs/api.md") == EVERY_NAME


def test_the_readme_lists_formats_that_exist() -> None:
    found = listed("README.md")
    assert len(found) > 5
    assert set(found) <= set(EVERY_NAME)
