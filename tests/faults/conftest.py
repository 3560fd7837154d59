"""One server for all tests of faults."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.conftest import Server, running

from .faulty_server import STEP_SECONDS
from .harness import Faults


@pytest.fixture(scope="session")
def temporary() -> Iterator[Path]:
    """The directory of the server's temporary files, whose name must be short."""
    directory = Path(tempfile.mkdtemp(prefix="mf", dir="/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def faulty(
    tmp_path_factory: pytest.TempPathFactory, temporary: Path
) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("faults") / "log"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(STEP_SECONDS, "7")
        environment.setenv("TMPDIR", str(temporary))
        with running(log, module="tests.faults.faulty_server") as server:
            yield server


@pytest.fixture
def faulty_for_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Faults]:
    monkeypatch.setenv(STEP_SECONDS, "62")
    log = tmp_path / "log"
    with running(log, module="tests.faults.faulty_server") as server:
        yield Faults(server)


@pytest.fixture
def faults(faulty: Server) -> Iterator[Faults]:
    """The server, which has to be whole before and after each test."""
    faults = Faults(faulty)
    with faults.client:
        faults.wait_for_health(200)
        yield faults
        faults.wait_for_health(200)
        assert faults.ask(max_tokens=4).is_complete
