"""Small files that several threads write."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mllama.utils.atomic_file import write_small_file


def test_threads_may_write_the_same_file(tmp_path: Path) -> None:
    target = tmp_path / "record.json"

    def write(number: int) -> None:
        for _ in range(100):
            write_small_file(target, b"%d" % number * 1000)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    content = target.read_bytes()
    assert len(content) == 1000
    assert len(set(content)) == 1
    assert list(tmp_path.iterdir()) == [target]
