"""Checkpoints are checked from their headers, which are not trusted."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllama.errors import CheckpointError
from mllama.weights.checkpoint import INDEX_FILE, SINGLE_FILE, open_checkpoint
from mllama.weights.safetensors_header import read_header
from tests.reference.checkpoints import checkpoint


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """A copy of a checkpoint in one file."""
    return Path(shutil.copytree(checkpoint(), tmp_path / "single"))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A copy of a checkpoint in three shards."""
    return Path(shutil.copytree(checkpoint(shards=3), tmp_path / "sharded"))


def header_of(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        values: dict[str, Any] = json.loads(opened.read(length))
    return values


def rewrite_header(file: Path, header: dict[str, Any]) -> None:
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    packed = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(packed)) + packed + content[8 + length :])


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_every_spelling_and_sharding_opens_as_the_same_model() -> None:
    plain = open_checkpoint(checkpoint())
    other = open_checkpoint(
        checkpoint(shards=3, names="new", rope_spelling="new", dtype="bfloat16")
    )
    assert plain.tensors.keys() == other.tensors.keys()
    assert (plain.dtype, other.dtype) == ("float32", "bfloat16")
    assert plain.nbytes == 2 * other.nbytes
    assert (len(plain.files), len(other.files)) == (1, 3)
    assert plain.unused == other.unused == []


def test_single_file_of_any_name_is_found(single: Path) -> None:
    (single / SINGLE_FILE).rename(single / "adapter-merged.safetensors")
    assert open_checkpoint(single).files[0].name == "adapter-merged.safetensors"


def test_unknown_tensors_are_listed_and_ignored(single: Path) -> None:
    file = single / SINGLE_FILE
    end = max(v["data_offsets"][1] for k, v in header_of(file).items() if k[0] != "_")
    extra = {"dtype": "I64", "shape": [1], "data_offsets": [end, end + 8]}
    name = "language_model.model.rotary_emb.inv_freq"
    rewrite_header(file, header_of(file) | {name: extra})
    with file.open("ab") as opened:
        opened.write(bytes(8))
    assert open_checkpoint(single).unused == [name]


def test_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors" in refusal(sharded)


def test_missing_index_is_named(sharded: Path) -> None:
    (sharded / INDEX_FILE).unlink()
    assert INDEX_FILE in refusal(sharded)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", 3, "a\0.safetensors"]
)
def test_an_index_can_not_name_files_elsewhere(sharded: Path, name: Any) -> None:
    (sharded / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": name}}))
    assert "next to the index" in refusal(sharded)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": []}', "1" * 5000])
def test_damaged_index_is_refused(sharded: Path, content: str) -> None:
    (sharded / INDEX_FILE).write_text(content)
    assert INDEX_FILE in refusal(sharded)


def test_missing_tensors_are_named_and_counted(single: Path) -> None:
    config = json.loads((single / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] += 1
    (single / "config.json").write_text(json.dumps(config))
    message = refusal(single)
    assert "lacks the tensor language_model.layers." in message
    assert "(and 8 more)" in message


def test_wrong_shape_names_both_shapes(single: Path) -> None:
    config = json.loads((single / "config.json").read_text())
    config["text_config"]["intermediate_size"] += 8
    (single / "config.json").write_text(json.dumps(config))
    wanted = config["text_config"]["intermediate_size"]
    message = refusal(single)
    assert str(wanted) in message
    assert str(wanted - 8) in message


def test_quantized_weights_are_refused_by_their_type(single: Path) -> None:
    file = single / SINGLE_FILE
    header = header_of(file)
    name = "language_model.model.embed_tokens.weight"
    header[name]["dtype"] = "I32"
    rewrite_header(file, header)
    assert "I32" in refusal(single)


def test_duplicate_tensors_are_refused(single: Path) -> None:
    file = single / SINGLE_FILE
    header = header_of(file)
    end = max(v["data_offsets"][1] for k, v in header.items() if k[0] != "_")
    old = header["language_model.model.norm.weight"]
    size = old["data_offsets"][1] - old["data_offsets"][0]
    twin = {**old, "data_offsets": [end, end + size]}
    rewrite_header(file, header | {"model.language_model.norm.weight": twin})
    with file.open("ab") as opened:
        opened.write(bytes(size))
    assert "both contain language_model.norm.weight" in refusal(single)


def test_pickles_are_refused_with_the_way_out(single: Path) -> None:
    (single / SINGLE_FILE).rename(single / "pytorch_model.bin")
    assert "save_pretrained" in refusal(single)


def test_git_lfs_pointer_is_recognized(single: Path) -> None:
    (single / SINGLE_FILE).write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "git lfs pull" in refusal(single)


def test_interrupted_download_is_damaged(single: Path) -> None:
    content = (single / SINGLE_FILE).read_bytes()
    for length in (0, 5, 100, len(content) - 1):
        (single / SINGLE_FILE).write_bytes(content[:length])
        assert "download it again" in refusal(single)


def small_file(entries: dict[str, Any], data: bytes) -> bytes:
    packed = json.dumps(entries).encode()
    return struct.pack("<Q", len(packed)) + packed + data


SMALL = small_file(
    {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [8, 12]},
    },
    bytes(12),
)


@given(
    st.lists(
        st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1
    ),
    st.integers(0, len(SMALL)),
)
def test_damaged_header_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[tuple[int, int]],
    length: int,
) -> None:
    content = bytearray(SMALL)
    for place, value in changes:
        content[place] = value
    file = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    for damaged in (bytes(content), SMALL[:length]):
        file.write_bytes(damaged)
        try:
            entries = read_header(file)
        except CheckpointError:
            continue
        assert sum(entry.nbytes for entry in entries.values()) <= len(damaged)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2**62] * 5000, "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]},
        [],
    ],
)
def test_inconsistent_headers_are_refused(tmp_path: Path, entry: Any) -> None:
    file = tmp_path / SINGLE_FILE
    file.write_bytes(small_file({"a": entry}, bytes(8)))
    with pytest.raises(CheckpointError, match="damaged"):
        read_header(file)
