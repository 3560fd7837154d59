"""An interrupted download is resumed, by the same program or the next."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hub.conftest import DEMO, NAME, Machine
from tests.hub.stand_in import StandInHub

WEIGHTS = DEMO["model.safetensors"]

CUT = 5_000_000
"""Bytes that arrive before the interruption."""


def test_a_broken_connection_is_resumed(hub: StandInHub, machine: Machine) -> None:
    hub.cut_after = [CUT]
    result = machine.download()
    assert (Path(result.model) / "model.safetensors").read_bytes() == WEIGHTS
    first, second = hub.requests_for("/store/")[-2:]
    assert first.sent == CUT
    assert second.headers["Range"] == f"bytes={CUT}-"
    assert second.sent == len(WEIGHTS) - CUT


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_the_next_program_resumes_an_interrupted_download(
    hub: StandInHub, machine: Machine, tmp_path: Path, end: signal.Signals
) -> None:
    hub.stall_after = CUT
    with subprocess.Popen(
        [sys.executable, "-m", "mllama", "quantize", NAME, str(tmp_path / "x.gguf")],
        env=machine.environment,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert hub.stalled.wait(60)
        while not any(f.stat().st_size == CUT for f in machine.partial_files()):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(end)
        process.wait(60)
    hub.stall_after = None
    hub.requests.clear()
    result = machine.download()
    assert (Path(result.model) / "model.safetensors").read_bytes() == WEIGHTS
    assert not machine.partial_files()
    (rest,) = hub.requests_for("/store/")[1:]  # The first is for the header.
    assert rest.headers["Range"] == f"bytes={CUT}-"
    assert rest.sent == len(WEIGHTS) - CUT


def test_two_concurrent_programs_download_a_file_once(
    hub: StandInHub, machine: Machine
) -> None:
    both = [
        subprocess.Popen(
            machine.command(),
            env=machine.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    models = {
        json.loads(process.communicate(timeout=600)[0])["model"] for process in both
    }
    assert len(models) == 1
    whole = [request for request in hub.requests_for("/store/") if request.sent > CUT]
    assert len(whole) == 1
