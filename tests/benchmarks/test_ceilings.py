"""The plain read loop, with several numbers of threads."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import pytest

from benchmarks.compare import ceilings
from benchmarks.compare.ceilings import METRICS, compiled

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="there is no gcc")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ceilings, "FOLDER", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_every_ceiling_is_measured() -> None:
    measured = ceilings.ceilings(compiled("ceilings"), 2)
    assert set(measured) == set(METRICS)
    assert all(value > 0 for value in measured.values())


@pytest.mark.usefixtures("folder")
def test_one_process_reads_with_any_number_of_threads() -> None:
    library = ctypes.CDLL(str(compiled("ceilings", "-shared", "-fPIC", suffix=".so")))
    library.read_once.restype = ctypes.c_double
    assert all(library.read_once(threads, 8) > 0 for threads in (2, 1, 3))
    assert library.read_once(0, 8) == 0
