"""Files have names of their own, also those of folders whose names have braces."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllama.batch.inputs.locations import find_files


def names(source: Path | str) -> list[str]:
    return sorted(file.name for file in find_files(str(source)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for day in range(1, 4):
        (tmp_path / f"day{day}" / "night").mkdir(parents=True)
        for name in ("a.jpg", "b.jpg", "night/a.jpg", f"x-{day:02}.jpg"):
            (tmp_path / f"day{day}" / name).write_bytes(b"1")
    return tmp_path


SOURCES = {
    "day{1..2}/a.jpg": ["day1/a.jpg", "day2/a.jpg"],
    "day{1..2}/night": ["day1/night/a.jpg", "day2/night/a.jpg"],
    "day{1..2}/night/*.jpg": ["day1/night/a.jpg", "day2/night/a.jpg"],
    "day{1..2}/[ab].jpg": ["day1/a.jpg", "day1/b.jpg", "day2/a.jpg", "day2/b.jpg"],
    "day{1..1}/x-{01..01}.jpg": ["day1/x-01.jpg"],
    "*/night/a.jpg": [f"day{day}/night/a.jpg" for day in (1, 2, 3)],
}


@pytest.mark.parametrize(("source", "expected"), SOURCES.items(), ids=SOURCES)
def test_folders_with_numbers_in_braces(
    folder: Path, source: str, expected: list[str]
) -> None:
    assert names(folder / source) == expected


@pytest.mark.parametrize("end", ["", "/"])
def test_a_folder_that_has_braces_at_its_end(folder: Path, end: str) -> None:
    found = names(f"{folder}/day{{1..3}}{end}")
    assert len(set(found)) == len(found) == 12
    assert {"day1/a.jpg", "day3/night/a.jpg"} <= {*found}


def test_paths_that_begin_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for source in ("day{1..2}/a.jpg", "./day{1..2}/a.jpg", "day{1..2}/a*.jpg"):
        assert names(source) == ["day1/a.jpg", "day2/a.jpg"]


def test_names_of_files_that_have_braces_have_no_folder(folder: Path) -> None:
    assert names(folder / "day1/x-{01..01}.jpg") == ["x-01.jpg"]
    assert names(folder / "day1/x-{01..01}*") == ["x-01.jpg"]


def test_folders_of_fsspec_with_numbers_in_braces() -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/b{each}/d{each}/a.png": b"a" for each in range(3)})
    try:
        assert names("memory://b1/d{1..1}/a.png") == ["d1/a.png"]
        assert names("memory://b1/d{1..1}") == ["d1/a.png"]
        assert names("memory://b1/d{1..1}/*.png") == ["d1/a.png"]
        assert names("memory://b{1..1}/d1/a.png") == ["b1/d1/a.png"]
        assert names("memory://b{0..2}/*/a.png") == [f"b{n}/d{n}/a.png" for n in "012"]
    finally:
        for each in range(3):
            memory.rm(f"/b{each}", recursive=True)
