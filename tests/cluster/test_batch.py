"""``mllama batch --ray`` answers each line once, whatever is killed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mllama.batch.inputs.question import Question
from mllama.batch.lines import BatchLine, encode_body
from mllama.cli.batch import batch
from mllama.cluster.dataset import _AnswerBatches
from mllama.cluster.dataset_pool import ReplicaPool, start_pool, with_files
from mllama.cluster.dataset_rows import LineOfRow
from mllama.cluster.nodes import installed_versions
from mllama.cluster.options import ClusterOptions
from mllama.errors import MllamaError
from tests.batch.output_lines import lines_of, wait_for_lines

from .line_engines import EchoEngine, no_engine
from .shared_ray import SharedRay, ended

pytest.importorskip("ray", reason="the extra cluster")

SECONDS = 900
"""A loaded machine takes minutes for what takes one."""
LINES = 2000
REPLICAS = ["--ray", "--replicas", "2", "--replica-cpus", "1"]


def request(number: int, url: str = "") -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": f"question {number}"}]
    if url:
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    return {
        "custom_id": f"request-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"messages": [{"role": "user", "content": content}]},
    }


def write_requests(folder: Path, lines: int = LINES) -> Path:
    source = folder / "in.jsonl"
    (folder / "picture.jpg").write_bytes(b"content")
    source.write_text(
        "".join(
            json.dumps(request(number, "file:picture.jpg" if number % 2 else "")) + "\n"
            for number in range(lines)
        )
    )
    return source


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    # Its sockets have names of bounded length.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ray-") as name:
        yield Path(name)
        assert ended(Path(name)) == []


def start(
    environment: Mapping[str, str], *arguments: str | Path
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.cluster.batch_program",
            "batch",
            *map(str, arguments),
            *REPLICAS,
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def kill_twice(
    folder: Path, lines: int, environment: Mapping[str, str], *options: str
) -> None:
    """Kills a batch twice, and checks that the third run makes it whole."""
    source, output = write_requests(folder, lines), folder / "out.jsonl"
    answered = 0
    for _ in range(2):
        process = start(environment, source, output, *options)
        wait_for_lines(process, output, answered + lines // 10, SECONDS)
        process.kill()
        process.communicate(timeout=SECONDS)
        answered = lines_of(output)
        assert answered < lines
    last = start(environment, source, output, *options)
    _, errors = last.communicate(timeout=SECONDS)
    assert last.returncode == 0, errors
    results = [json.loads(line) for line in output.open()]
    ids = [result["custom_id"] for result in results]
    assert sorted(ids) == sorted(f"request-{number}" for number in range(lines))
    processes = set()
    for result in results:
        body = result["response"]["body"]
        processes.add(body["pid"])
        number = int(result["custom_id"].removeprefix("request-"))
        # Files of this machine go with the line.
        wanted = {"file:picture.jpg": 7} if number % 2 else {}
        assert body["attached"] == wanted
    # Two replicas of three runs; those that were killed may have heard of one only.
    assert 4 <= len(processes) <= 6
    assert f"{answered:,} answered before" in errors


@pytest.mark.compiles
def test_a_batch_that_is_killed_twice_answers_each_line_once(
    tmp_path: Path, shared_ray: SharedRay
) -> None:
    kill_twice(tmp_path, 1000, shared_ray.environment, "--address", shared_ray.address)


@pytest.mark.long
def test_a_batch_with_a_cluster_of_its_own_that_is_killed_twice(
    tmp_path: Path, ray_folder: Path
) -> None:
    environment = os.environ | {"RAY_TMPDIR": str(ray_folder)}
    kill_twice(tmp_path, LINES, environment, "--ray-cpus", "2")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, shared_ray: SharedRay) -> Any:
    """What the program about replicas and datasets has printed."""
    folder = tmp_path_factory.mktemp("found")
    program = [sys.executable, "-m", "tests.cluster.ray_program"]
    done = subprocess.run(
        [*program, str(folder), shared_ray.address],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=shared_ray.environment,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    result["output"] = (folder / "out.jsonl").read_text()
    return result


@pytest.mark.compiles
def test_replicas_that_die_answer_after_all(found: Any) -> None:
    assert found["answered"] == list(range(400))
    # One of two was killed, and another one took its place.
    assert found["processes"] == 3


@pytest.mark.compiles
def test_an_engine_that_fails_as_a_whole_is_started_anew(found: Any) -> None:
    assert found["status"] == 200
    assert found["problem"] == (
        "a replica can't start: node 127.0.0.1: there is no model"
    )


@pytest.mark.compiles
def test_a_dataset_gets_columns_with_answers(found: Any) -> None:
    rows = {row["custom_id"]: row for row in found["rows"][:40]}
    assert sorted(rows) == sorted(f"row {number}" for number in range(40))
    for number in range(40):
        row = rows[f"row {number}"]
        assert row["name"] == f"row {number}"
        if number % 4 == 2:
            assert row["response"] is None
            assert json.loads(row["error"])["code"] == "invalid_image"
            continue
        assert (row["status_code"], row["finish_reason"]) == (200, "stop")
        body = json.loads(row["response"])
        assert list(body["attached"].values()) == [number % 4 + 1]
    # Arrays of pixels are pictures, and rows have no id if none is wanted: each replica
    # would begin with the same number.
    pixels = found["rows"][40:]
    assert len(pixels) == 5
    for row in pixels:
        assert row["custom_id"] is None
        assert row["status_code"] == 200
        assert next(iter(json.loads(row["response"])["attached"].values())) > 50


@pytest.mark.compiles
def test_rows_of_a_replica_that_dies_are_asked_again(found: Any) -> None:
    rows = found["after_a_death"]
    assert sorted(row["id"] for row in rows) == list(range(100))
    for row in rows:
        assert row["status_code"] == 200
        assert f"question {row['id']}" in row["text"]
    # The one that died had answered some, and another one took its place.
    assert len({json.loads(row["response"])["pid"] for row in rows}) >= 2


@pytest.mark.compiles
def test_a_row_that_no_replica_survives_is_given_up(found: Any) -> None:
    assert found["no_end"]["deaths"] == 4
    assert "actor" in found["no_end"]["error"]


@pytest.mark.compiles
def test_rows_whose_answers_are_there_are_not_asked_again(found: Any) -> None:
    # Of 15 rows 3 have no picture, and of 40 rows 10.
    assert found["counts"] == [[11, 4, 0], [19, 6, 15]]
    ids = [json.loads(text)["custom_id"] for text in found["output"].splitlines()]
    assert sorted(ids) == sorted(f"row {number}" for number in range(40))


@pytest.mark.compiles
def test_ray_has_one_front_of_a_name(found: Any) -> None:
    assert found["second_front"] == (
        "the cluster has an application 'mllama' already, of a `mllama cluster serve` "
        "that runs: end that one, or give this one another --name"
    )


@pytest.mark.compiles
def test_what_a_cluster_or_a_node_lacks_is_one_line(found: Any) -> None:
    wrong, max_version = found["wrong"], installed_versions()["MAX"]
    versions = (
        "node 127.0.0.1 has other versions than this one: MAX "
        f"{max_version} there and 26.6.0 here; install the same on all nodes"
    )
    assert wrong == {
        "room": "9 replicas of 1 CPUs and 0 GPUs each don't fit into the cluster, "
        "which has room for 3 (127.0.0.1 with 3 CPUs and 0 GPUs): use fewer "
        "--replicas, less --replica-cpus, or more nodes",
        "model": "node 127.0.0.1 can't serve the model: /models/none is neither a "
        "directory, a GGUF file, nor a repository of the hub",
        "versions": versions,
        "room of a front": "",
        "model of a front": "",
        "versions of a front": versions,
    }


@pytest.mark.compiles
def test_wrong_arguments_are_one_line(found: Any) -> None:
    column, prompt, option, room = found["problems"]
    assert column == "the dataset has no column 'picture'; it has image, name"
    assert prompt == "a dataset needs either prompt or prompt_column"
    assert "unexpected keyword argument 'weigh'" in option
    assert room.startswith(
        "3 replicas of 1 CPUs each, and one CPU that reads the rows,"
    )


def line(number: int, url: str = "") -> BatchLine:
    return BatchLine(
        number,
        f"request-{number}",
        "/v1/chat/completions",
        encode_body(request(number, url)["body"]),
        picture=url.encode() or None,
    )


class _Remote:
    def __init__(self, name: str) -> None:
        self.name = name
        self.answer = self

    async def remote(self, line: BatchLine) -> str:
        await asyncio.sleep(0)
        return self.name


def test_lines_go_where_their_picture_is_while_there_is_room() -> None:
    async def run() -> list[Any]:
        pool = ReplicaPool([(_Remote("a"), 2), (_Remote("b"), 2)], Path())
        assert pool.slots == 4
        places = [await pool(line(number, f"p{number % 5}")) for number in range(20)]
        assert places[:5] == places[5:10] == places[10:15]
        return list(
            await asyncio.gather(*(pool(line(each, "p0")) for each in range(8)))
        )

    # Four are as many as a replica of two slots has in preparation.
    assert sorted(asyncio.run(run())) == ["a"] * 4 + ["b"] * 4


class _FakeRay:
    """Starts actors whose ``prepare`` is given, and notes which are killed."""

    def __init__(self, *prepared: Any) -> None:
        self._prepared = list(prepared)
        self.killed: list[Any] = []

    def remote(self, actor: Any) -> Any:
        return self

    def options(self, **options: Any) -> Any:
        return SimpleNamespace(remote=self._start)

    def _start(self, start: Any) -> Any:
        async def be_placed() -> None:
            pass

        return SimpleNamespace(
            be_placed=SimpleNamespace(remote=be_placed),
            prepare=SimpleNamespace(remote=self._prepared.pop(0)),
        )

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)


def test_replicas_that_start_end_when_another_can_not() -> None:
    async def fail() -> str:
        return "node 10.0.0.2: no memory"

    async def load() -> int:
        await asyncio.sleep(SECONDS)
        return 4

    fake = _FakeRay(load, fail, load)

    async def run() -> None:
        options = ClusterOptions(replicas=3)
        await asyncio.wait_for(start_pool(fake, options, no_engine, Path()), 60)

    with pytest.raises(MllamaError, match=r"can't start: node 10\.0\.0\.2"):
        asyncio.run(run())
    assert len(fake.killed) == 3


def test_a_full_object_store_is_one_line() -> None:
    from ray.exceptions import OutOfDiskError

    class Full(_Remote):
        async def remote(self, line: BatchLine) -> str:
            raise OutOfDiskError("Local disk is full\nThe object cannot be created")

    with pytest.raises(MllamaError) as caught:
        asyncio.run(ReplicaPool([(Full("a"), 1)], Path())(line(1)))
    assert re.match(r"Ray's object store on node [\d.]+ is full", str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.long
def test_an_object_store_that_is_really_full_is_one_line(ray_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.full_store_program"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=os.environ
        | {
            "RAY_TMPDIR": str(ray_folder),
            # A disk with a ten-thousandth in use is full.
            "RAY_local_fs_capacity_threshold": "0.0001",
        },
    )
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout.splitlines()[-1])
    assert errors
    for error in errors:
        assert error.startswith("Ray's object store on node 127.0.0.1 is full, and")
        assert "--object-store-memory" in error
        assert "\n" not in error


def test_replicas_that_are_lost_end_the_batch() -> None:
    from ray.exceptions import ActorDiedError

    class Lost(_Remote):
        async def remote(self, line: BatchLine) -> str:
            raise ActorDiedError()

    with pytest.raises(RuntimeError, match="a replica has failed"):
        asyncio.run(ReplicaPool([(Lost("a"), 1)], Path())(line(1)))


def test_files_that_can_not_be_read_here_are_not_looked_for_on_a_node(
    tmp_path: Path,
) -> None:
    (tmp_path / "a b.png").write_bytes(b"12")
    found = with_files(line(1, "file:a%20b.png"), tmp_path)
    assert found.attachments == {"file:a%20b.png": b"12"}
    assert found.unreadable == {}
    found = with_files(line(1, "file:none.png"), tmp_path)
    assert found.attachments == {}
    (message,) = found.unreadable.values()
    assert message.endswith("none.png can't be read: No such file or directory")
    found = with_files(line(1, "http://host/a.png"), tmp_path)
    assert found.attachments == found.unreadable == {}


def refused(*arguments: str | Path) -> str:
    with pytest.raises(MllamaError) as caught:
        CliRunner().invoke(batch, [*map(str, arguments)], catch_exceptions=False)
    return str(caught.value)


@pytest.fixture(autouse=True)
def _keep_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests of this process need it afterwards.
    monkeypatch.setattr("mllama.cli.batch.block_torch", lambda: None)


def test_options_of_a_cluster_need_one(tmp_path: Path) -> None:
    source = write_requests(tmp_path)
    output = tmp_path / "out.jsonl"
    for option in ("--replicas", "--replica-cpus", "--replica-gpus", "--ray-cpus"):
        assert f"{option} needs --ray" in refused(source, output, option, "1")
    assert "--address needs --ray" in refused(source, output, "--address", "auto")


def test_what_a_cluster_lacks_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = write_requests(tmp_path), tmp_path / "out.jsonl"
    assert "there is no Ray cluster at 127.0.0.1:1 " in refused(
        source, output, "--ray", "--address", "127.0.0.1:1", "--devices", "cpu"
    )
    monkeypatch.setitem(sys.modules, "ray", None)
    assert refused(source, output, "--ray").endswith(
        "is not installed: pip install 'mllama[cluster]'"
    )


def test_too_few_cpus_are_one_line() -> None:
    from mllama.cluster.nodes import check_room

    node = {"NodeManagerAddress": "127.0.0.1", "Resources": {"CPU": 2.0}}
    with pytest.raises(MllamaError, match="3 replicas of 1 CPUs and 0 GPUs each don't"):
        check_room([node], ClusterOptions(replicas=3, replica_gpus=0))


def test_a_file_that_is_too_large_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllama.batch.local_files.MAX_BYTES", 2)
    (tmp_path / "fits.png").write_bytes(b"12")
    assert with_files(line(1, "FILE:fits.png"), tmp_path).attachments == {
        "FILE:fits.png": b"12"
    }
    # Its size is said to be none.
    found = with_files(line(1, "file:///dev/zero"), tmp_path)
    assert found.attachments == {}
    assert found.unreadable == {"file:///dev/zero": "/dev/zero has more than 0 MiB"}


def test_an_error_of_a_row_has_no_number_of_the_replica() -> None:
    line_of = LineOfRow(Question("What is it?"), "image", None, None)
    row = {"image": np.zeros((2, 3), np.float32)}
    found = json.loads(asyncio.run(_AnswerBatches(EchoEngine, line_of)._answer(row)))
    assert found["custom_id"] is None
    assert found["error"]["code"] == "invalid_image"
    assert "line" not in found["error"]


@pytest.mark.parametrize(
    ("shape", "kind"), [((2, 3), np.float32), ((0, 0, 3), np.uint8)]
)
def test_pixels_that_are_no_picture_are_an_error_of_their_row(
    shape: tuple[int, ...], kind: Any
) -> None:
    line_of = LineOfRow(Question("What is it?"), "image", None, None)
    found = line_of({"image": np.zeros(shape, kind)}, 7)
    assert found.custom_id is None
    assert found.error is not None
    assert found.error.code == "invalid_image"
