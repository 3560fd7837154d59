"""An application that is deployed anew goes on answering."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from .shared_ray import ended

pytest.importorskip("ray", reason="the extra cluster")

SECONDS = 1100


@pytest.mark.long
def test_other_options_come_without_a_failed_request() -> None:
    # Ray's sockets must have short paths.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ray-") as name:
        done = subprocess.run(
            [sys.executable, "-m", "tests.cluster.update_program"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=os.environ | {"RAY_TMPDIR": name},
        )
        assert done.returncode == 0, done.stderr
        assert ended(Path(name)) == []
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failed"] == []
    assert found["before"] >= 10
    assert found["after"] >= 30
    # All replicas have the new options in the end.
    assert len(set(found["last"])) == 1
    assert found["states"] == {"Front": {"RUNNING": 1}, "Replica": {"RUNNING": 2}}
