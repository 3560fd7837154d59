"""docs/api.md lists the keywords of schemas that are honored."""

from __future__ import annotations

import re
from pathlib import Path

from mllama.grammars.formats import FORMATS
from mllama.grammars.schema_keywords import ANNOTATIONS, SUPPORTED

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")


def test_the_keywords_are_those_of_the_page() -> None:
    section = PAGE.partition("### JSON schemas")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    assert set(listed) == set(SUPPORTED)
    for name in (*FORMATS, *ANNOTATIONS):
        assert f"`{name}`" in section
    for keyword, limits in SUPPORTED.items():
        assert limits in section, keyword
