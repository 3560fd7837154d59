"""The pictures in the README are there, and load quickly."""

from __future__ import annotations

import re

from tests.docs.markdown import ROOT

LARGEST = 200_000


def test_the_readme_begins_with_the_page_and_a_map_of_attention() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first_screen = readme[: readme.index("**What it can't do yet**")]
    names = re.findall(r'<img src="([^"]+)"|!\[[^]]*\]\(([^)]+)\)', first_screen)
    files = [ROOT / (html or markdown) for html, markdown in names]
    assert len(files) == 3
    for file in files:
        assert 0 < file.stat().st_size <= LARGEST, file
