"""Inputs of every kind become lines with a question about each picture."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mllama.batch.inputs.locations import find_files
from mllama.batch.inputs.question import Question
from mllama.batch.inputs.reader import InputReader
from mllama.batch.lines import BatchLine, LineError, local_path
from mllama.batch.results import failed
from mllama.errors import MllamaError

QUESTION = Question("What is it?", "Be brief.", {"max_tokens": 5})


def read(source: Any, question: Question = QUESTION, **options: Any) -> list[BatchLine]:
    return list(InputReader(str(source), question, **options))


def by_id(lines: list[BatchLine]) -> dict[str, BatchLine]:
    found = {str(line.custom_id): line for line in lines}
    assert len(found) == len(lines)
    return found


def picture_of(line: BatchLine) -> bytes | str:
    """The content of a line's first picture, or its URL."""
    assert line.error is None, line.error
    url = json.loads(line.body)["messages"][-1]["content"][0]["image_url"]["url"]
    return line.attachments.get(url, url)


def prompt_of(line: BatchLine) -> str:
    return str(json.loads(line.body)["messages"][-1]["content"][-1]["text"])


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def test_a_folder(tmp_path: Path) -> None:
    folder = pictures(tmp_path, "a.png", "b/c.JPG", "b/d/e.webp", "notes.doc", ".x.png")
    lines = by_id(read(folder))
    assert lines.keys() == {"a.png", "b/c.JPG", "b/d/e.webp"}
    assert picture_of(lines["b/c.JPG"]) == (tmp_path / "b/c.JPG").as_uri()
    assert json.loads(lines["a.png"].body) == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {
                        "type": "image_url",
                        "image_url": {"url": (tmp_path / "a.png").as_uri()},
                    },
                    {"type": "text", "text": "What is it?"},
                ],
            },
        ],
        "max_tokens": 5,
    }
    assert sorted(line.number for line in lines.values()) == [1, 2, 3]


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes(b"1")
    (line,) = read(tmp_path)
    assert line.custom_id == r"caf\xe9.png"
    assert local_path(str(picture_of(line)), Path()).read_bytes() == b"1"
    path = tar(tmp_path / "x.tar", {name: b"2"})
    (line,) = read(path)
    assert line.custom_id == r"x.tar:caf\xe9"
    assert failed(line, LineError("code", "message"))


def test_the_output_is_no_part_of_the_input(tmp_path: Path) -> None:
    folder = pictures(tmp_path, "a.png", "out/b.png", "out.jsonl")
    for output, names in (("out", {"a.png", "out.jsonl"}), ("out.jsonl", {"a.png"})):
        found = {file.name for file in find_files(str(folder), tmp_path / output)}
        assert found - {"out/b.png"} == names
        assert ("out/b.png" in found) == (output != "out")


def test_a_glob(tmp_path: Path) -> None:
    folder = pictures(tmp_path, "a.png", "b.png", "c.txt", "d/e.png")
    assert by_id(read(folder / "*.png")).keys() == {"a.png", "b.png"}
    assert by_id(read(folder / "**/*.png")).keys() == {"a.png", "b.png", "d/e.png"}
    with pytest.raises(MllamaError, match="no file matches"):
        read(folder / "*.gif")


def test_names_with_numbers_in_braces(tmp_path: Path) -> None:
    folder = pictures(tmp_path, *(f"x-{each:03}.png" for each in range(12)))
    lines = read(folder / "x-{009..011}.png")
    assert [line.custom_id for line in lines] == ["x-009.png", "x-010.png", "x-011.png"]


@pytest.mark.parametrize("end", ["", ".gz"])
def test_openai_lines(tmp_path: Path, end: str) -> None:
    lines = [
        {"custom_id": str(each), "url": "/v1/completions", "body": {"prompt": "x"}}
        for each in range(3)
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    path = tmp_path / f"in.jsonl{end}"
    path.write_bytes(gzip.compress(content) if end else content)
    reader = InputReader(str(path), Question(None))
    assert reader.has_only_requests
    assert [line.custom_id for line in reader] == ["0", "1", "2"]
    assert reader.fraction == 1


def test_files_are_numbered_on(tmp_path: Path) -> None:
    text = json.dumps({"custom_id": "x", "url": "/v1/completions", "body": {}})
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(f"{text}\n[]\n")
    lines = read(tmp_path / "*.jsonl", Question(None))
    assert [line.number for line in lines] == [1, 2, 3, 4]


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


MEMBERS = {
    "s/one.jpg": b"1",
    "s/one.txt": b"First? \n",
    "s/one.json": b"{}",
    "s/two.png": b"2",
    "s/two.txt": b"Second?",
    "s/three.txt": b"No picture?",
}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_webdataset(tmp_path: Path, mode: str) -> None:
    name = "x.tar.gz" if mode == "w:gz" else "x.tar"
    lines = by_id(read(tar(tmp_path / name, MEMBERS, mode)))
    assert lines.keys() == {f"{name}:s/{each}" for each in ("one", "two", "three")}
    assert picture_of(lines[f"{name}:s/one"]) == b"1"
    assert prompt_of(lines[f"{name}:s/two"]) == "What is it?"
    missing = lines[f"{name}:s/three"].error
    assert missing is not None
    assert missing.code == "invalid_image"


def test_questions_of_webdataset(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", MEMBERS)
    lines = read(path, Question(None), prompt_column="txt", image_column="jpg")
    assert prompt_of(lines[0]) == "First?"
    assert [line.error is None for line in lines] == [True, False, False]


def test_ends_of_names_have_letters_of_any_case(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", {"a.Jpg": b"1", "a.PNG": b"2", "a.TXT": b"What?"})
    (line,) = read(path, Question(None), prompt_column="Txt", image_column="JPG")
    assert (picture_of(line), prompt_of(line)) == (b"1", "What?")


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("a.png", {"image_column": "jpg"}),
        ("a.png", {"id_column": "key"}),
        ("a.tar", {"id_column": "key"}),
    ],
)
def test_columns_that_no_file_has_are_refused(
    tmp_path: Path, name: str, option: dict[str, str]
) -> None:
    tar(tmp_path / "a.tar", MEMBERS)
    (tmp_path / "a.png").write_bytes(b"1")
    with pytest.raises(MllamaError, match=r"-column needs Parquet .*has none"):
        read(tmp_path / name, **option)


def test_files_behind_pictures_may_have_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder's files have the order of the file system.
    monkeypatch.setattr(
        "mllama.batch.inputs.reader.find_files",
        lambda *source: iter(sorted(find_files(*source), key=lambda file: file.name)),
    )
    (tmp_path / "a.png").write_bytes(b"1")
    parquet_file(tmp_path / "b.parquet", {"photo": [b"2"], "key": ["x"]})
    lines = read(tmp_path, image_column="photo", id_column="key")
    assert [line.custom_id for line in lines] == ["a.png", "x"]


def test_an_empty_question_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    (line,) = read(tmp_path, Question(""))
    assert prompt_of(line) == ""


def test_a_damaged_file_is_one_error(tmp_path: Path) -> None:
    whole = tar(tmp_path / "b.tar", {f"{n}.png": b"x" * 2000 for n in range(9)})
    (tmp_path / "a.tar").write_bytes(whole.read_bytes()[:4000])
    lines = read(tmp_path / "*.tar")
    errors = [line for line in lines if line.error is not None]
    assert [line.custom_id for line in errors] == ["a.tar"]
    assert errors[0].error is not None
    assert errors[0].error.code == "unreadable_file"
    assert len(lines) >= 10


def parquet_file(path: Path, columns: dict[str, list[Any]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path)
    return path


def test_parquet(tmp_path: Path) -> None:
    for place, (image, expected) in enumerate(
        [(b"1", b"1"), ("http://a/b", "http://a/b"), ({"bytes": b"3"}, b"3")]
    ):
        path = parquet_file(tmp_path / f"{place}.parquet", {"image": [image, image]})
        first, second = read(path)
        assert picture_of(first) == expected
        assert (first.custom_id, second.custom_id) == (
            f"{path.name}:0",
            f"{path.name}:1",
        )


def test_columns_of_parquet(tmp_path: Path) -> None:
    path = parquet_file(
        tmp_path / "x.parquet",
        {
            "picture": [[b"1", b"2"], [b"3"], None],
            "question": ["What?", None, "Who?"],
            "key": [10, 11, 12],
        },
    )
    lines = by_id(
        read(
            path,
            Question(None),
            image_column="picture",
            prompt_column="question",
            id_column="key",
        )
    )
    assert len(json.loads(lines["10"].body)["messages"][0]["content"]) == 3
    assert prompt_of(lines["10"]) == "What?"
    codes = {key: line.error and line.error.code for key, line in lines.items()}
    assert codes == {"10": None, "11": "no_prompt", "12": "invalid_image"}


def test_a_row_without_an_id_is_an_error(tmp_path: Path) -> None:
    path = parquet_file(
        tmp_path / "x.parquet", {"image": [b"1"] * 3, "key": [None, "b", None]}
    )
    lines = read(path, id_column="key")
    assert [line.custom_id for line in lines] == [None, "b", None]
    assert [line.number for line in lines] == [1, 2, 3]
    codes = [line.error and line.error.code for line in lines]
    assert codes == ["no_id", None, "no_id"]


def test_parquet_without_pictures(tmp_path: Path) -> None:
    path = parquet_file(tmp_path / "x.parquet", {"question": ["What?"]})
    (line,) = read(path, Question(None), image_column="", prompt_column="question")
    content = json.loads(line.body)["messages"][0]["content"]
    assert content == [{"type": "text", "text": "What?"}]


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = parquet_file(tmp_path / "x.parquet", {"a": [1], "b": [2]})
    with pytest.raises(MllamaError, match="no column 'image'; it has a, b"):
        read(path)


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nonsense")
    (line,) = read(tmp_path / "x.parquet")
    assert line.error is not None
    assert line.error.code == "unreadable_file"


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(MllamaError, match=r"pip install 'mllama\[batch\]'"):
        read(tmp_path / "x.parquet")


def test_fsspec() -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe({"/bucket/a.png": b"a", "/bucket/sub/b.png": b"b", "/bucket/c.md": b""})
    try:
        lines = by_id(read("memory://bucket"))
        assert {key: picture_of(line) for key, line in lines.items()} == {
            "a.png": b"a",
            "sub/b.png": b"b",
        }
        assert by_id(read("memory://bucket/*.png")).keys() == {"a.png"}
        assert by_id(read("memory://bucket/sub/b.png")).keys() == {"b.png"}
        with pytest.raises(MllamaError, match="there is no file"):
            read("memory://bucket/*.gif")
    finally:
        memory.rm("/bucket", recursive=True)
    with pytest.raises(MllamaError, match="nosuch://x can't be read"):
        read("nosuch://x")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("missing", {}, "there is no file or folder"),
        ("notes", {}, "has no pictures"),
        ("photos", {"question": Question(None)}, "--prompt"),
        ("photos", {"question": Question(None), "prompt_column": "txt"}, "--prompt"),
    ],
)
def test_an_impossible_input_is_refused(
    tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    pictures(tmp_path, "notes/x.doc", "photos/x.png")
    with pytest.raises(MllamaError, match=message):
        read(tmp_path / name, **options)
