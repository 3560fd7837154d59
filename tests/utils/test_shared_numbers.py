"""Numbers that processes share."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mllama.utils.shared_numbers import new_shared_file, shared_numbers

WRITE = """
import sys
from pathlib import Path
from mllama.utils.shared_numbers import shared_numbers
shared_numbers(Path(sys.argv[1]), 3)[1] += 7
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_children_find_the_file_though_the_temporary_directory_was_tidied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with new_shared_file(3) as path:
        numbers = shared_numbers(path, 3)
        # Nothing that anybody could remove.
        assert not list(tmp_path.iterdir())
        for _ in range(2):
            command = [sys.executable, "-c", WRITE, str(path)]
            subprocess.run(command, check=True, timeout=120)
        assert numbers.tolist() == [0, 14, 0]
    assert not path.exists()


def test_without_proc_the_file_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "exists", lambda path: False)
    with new_shared_file(2) as path:
        assert path.parent == tmp_path
        shared_numbers(path, 2)[:] = 1, 2
        assert shared_numbers(path, 2).tolist() == [1, 2]
    assert not list(tmp_path.iterdir())
