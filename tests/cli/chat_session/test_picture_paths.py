"""Pictures are found in lines as terminals paste them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mllama.cli.chat_session.picture_paths import read_line
from mllama.errors import ImageError

NAMES = ("a.png", "b.JPG", "my photo (1).png", "it's.png")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in NAMES:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    Image.new("RGB", (4, 4)).save(tmp_path / "bare", "PNG")
    (tmp_path / "notes.txt").write_text("hello")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("line", "names", "text"),
    [
        ("What is it?", [], "What is it?"),
        ("{}/a.png What is it?", ["a.png"], "What is it?"),
        ("What is it? {}/a.png", ["a.png"], "What is it?"),
        ("a.png", ["a.png"], ""),
        ("./a.png ~/b.JPG Which one?", ["a.png", "b.JPG"], "Which one?"),
        ("Is a.png larger than b.JPG?", ["a.png", "b.JPG"], None),
        ("What is in ./a.png?", ["a.png"], "What is in a.png?"),
        ("(see {}/a.png)", ["a.png"], "(see a.png)"),
        ("'{}/my photo (1).png' What?", ["my photo (1).png"], "What?"),
        ('"{}/it\'s.png" What?', ["it's.png"], "What?"),
        (r"{}/my\ photo\ \(1\).png What?", ["my photo (1).png"], "What?"),
        (r"{}/it\'s.png What?", ["it's.png"], "What?"),
        ("{}/my photo (1).png What is it?", ["my photo (1).png"], "What is it?"),
        ("file://{}/my%20photo%20(1).png What?", ["my photo (1).png"], "What?"),
        ("{}/bare What is it?", ["bare"], "What is it?"),
        ("{}/notes.txt What is it?", [], "{}/notes.txt What is it?"),
        ("notes.txt", [], "notes.txt"),
        ("either/or, and 3.5 or /etc/passwd", [], None),
        ("two\nlines a.png", ["a.png"], "two\nlines"),
        ("don't 'quote' \"this\"", [], None),
    ],
)
def test_pictures_of_a_line(
    folder: Path, line: str, names: list[str], text: str | None
) -> None:
    found = read_line(line.replace("{}", str(folder)))
    assert [Path(source).name for source in found.pictures] == names
    expected = line if text is None else text
    assert found.text == expected.replace("{}", str(folder))
    assert found.missing == []


@pytest.mark.parametrize(
    ("line", "urls"),
    [
        ("http://host/a.png What?", ["http://host/a.png"]),
        ("What? https://host/A%20b.JPEG?w=3.", ["https://host/A%20b.JPEG?w=3."]),
        ("See https://host/page.html", []),
    ],
)
def test_urls_of_pictures(line: str, urls: list[str]) -> None:
    assert read_line(line).pictures == urls


def test_a_path_of_a_missing_picture_is_an_error(folder: Path) -> None:
    for line in (f"{folder}/no.png What?", "What is ./no.png?", "~/no.jpg"):
        with pytest.raises(ImageError, match=r"no image file .*no\.(png|jpg)$"):
            read_line(line)


def test_a_bare_name_without_a_file_stays_text() -> None:
    found = read_line("What does no.png mean, or .png?")
    assert (found.pictures, found.missing) == ([], ["no.png"])
    assert found.text == "What does no.png mean, or .png?"


@pytest.mark.parametrize("line", ["a\0.png", "'", '"' * 9, "\\", "/" * 5000])
def test_odd_lines_have_no_pictures(line: str) -> None:
    assert read_line(line).pictures == []


def test_a_path_that_is_too_long_is_missing() -> None:
    with pytest.raises(ImageError, match="no image file"):
        read_line("/" + "a" * 5000 + ".png")
