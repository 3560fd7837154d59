"""Limits of the hub's client, the reasons for code of this package.

If a test here fails after an update of the client, the module that it names may no
longer be needed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tests.hub.conftest import DEMO, NAME, Machine
from tests.hub.stand_in import StandInHub

WEIGHTS = DEMO["model.safetensors"]

DOWNLOAD = """
import sys
from huggingface_hub import hf_hub_download
print(open(hf_hub_download(sys.argv[1], "model.safetensors"), "rb").read()[:8].hex())
"""

PARSE = """
import sys
from huggingface_hub import HfApi
found = HfApi().parse_safetensors_file_metadata(sys.argv[1], "model.safetensors")
print(len(found.tensors))
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_the_client_loses_a_partial_file_when_its_process_ends(
    hub: StandInHub, machine: Machine, end: signal.Signals
) -> None:
    """The reason for ``mllama.hub.transfer``."""
    hub.stall_after = len(WEIGHTS) * 9 // 10
    command = [sys.executable, "-c", DOWNLOAD, NAME]
    with subprocess.Popen(
        command, env=machine.environment, stderr=subprocess.DEVNULL
    ) as process:
        assert hub.stalled.wait(60)
        while not any(file.stat().st_size for file in machine.partial_files()):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(end)
        process.wait(60)
    hub.stall_after = None
    hub.requests.clear()
    done = subprocess.run(
        command, env=machine.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == WEIGHTS[:8].hex()
    (request,) = hub.requests_for("/store/")
    assert "Range" not in request.headers
    assert request.sent == len(WEIGHTS)


def test_the_client_reads_a_whole_file_for_its_header_if_ranges_are_ignored(
    hub: StandInHub, machine: Machine
) -> None:
    """A reason for ``mllama.hub.remote_headers``."""
    hub.ignore_ranges = True
    command = [sys.executable, "-c", PARSE, NAME]
    subprocess.run(command, env=machine.environment, capture_output=True, check=True)
    (request,) = hub.requests_for("/store/")
    assert request.sent == len(WEIGHTS)


def test_the_client_accepts_the_header_of_a_truncated_file(
    hub: StandInHub, machine: Machine
) -> None:
    """A reason for ``mllama.hub.remote_headers``."""
    hub.repositories[NAME].commit(DEMO | {"model.safetensors": WEIGHTS[:-1000]})
    command = [sys.executable, "-c", PARSE, NAME]
    done = subprocess.run(
        command, env=machine.environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 0
