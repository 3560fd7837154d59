"""``mllama batch --ray`` that is killed twice, and started again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from benchmarks.cluster.clusters import BATCH, chat, pictures

LINES: Final = 2000
PICTURES: Final = 30
KILLED_AFTER: Final = (500, 1200)
"""Answers that are there when a run is killed."""

_OPTIONS: Final = (
    *("--ray", "--replicas", "2", "--ray-cpus", "2", "--quiet"),
    *(each for each in BATCH if each != "--no-access-log"),
)
_SECONDS: Final = 600


def batch() -> dict[str, Any]:
    """Returns how often lines are answered by a batch that is killed twice.

    ``once`` are the lines with exactly one answer, ``seconds`` the times of the runs.
    """
    with tempfile.TemporaryDirectory(prefix="ray-") as name:
        folder = Path(name)
        source, output = folder / "in.jsonl", folder / "out.jsonl"
        _write(source)
        seconds = [_run(source, output, count) for count in (*KILLED_AFTER, None)]
        with output.open() as lines:
            results = [json.loads(line) for line in lines]
    ids = Counter(result["custom_id"] for result in results)
    return {
        "lines": LINES,
        "once": sum(ids[f"line-{number}"] == 1 for number in range(LINES)),
        "answers": len(results),
        "errors": sum(result["response"]["status_code"] != 200 for result in results),
        "seconds": [round(each, 1) for each in seconds],
    }


def _write(source: Path) -> None:
    for number, content in enumerate(pictures(PICTURES)):
        source.with_name(f"{number}.png").write_bytes(content)
    with source.open("w") as file:
        for number in range(LINES):
            body = chat(None, tokens=4)
            url = {"url": f"file:{number % PICTURES}.png"}
            body["messages"][0]["content"].insert(
                0, {"type": "image_url", "image_url": url}
            )
            line = {
                "custom_id": f"line-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body,
            }
            file.write(json.dumps(line) + "\n")


def _run(source: Path, output: Path, killed_after: int | None) -> float:
    """Runs the batch, kills it after so many answers, and returns the seconds.

    Raises:
        SystemExit: If it ends too early, or fails.
    """
    started = time.monotonic()
    # What a killed run leaves of Ray ends by itself.
    folder = tempfile.mkdtemp(prefix="ray-", dir=source.parent)
    process = subprocess.Popen(
        [sys.executable, "-m", "mllama", "batch", str(source), str(output), *_OPTIONS],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"RAY_TMPDIR": folder},
    )
    while killed_after is not None and _lines(output) < killed_after:
        if process.poll() is not None or time.monotonic() - started > _SECONDS:
            process.kill()
            raise SystemExit(f"a batch has failed:\n{process.communicate()[1]}")
        time.sleep(0.02)
    if killed_after is not None:
        process.kill()
    errors = process.communicate(timeout=_SECONDS)[1]
    if killed_after is None and process.returncode:
        raise SystemExit(f"a batch has failed:\n{errors}")
    return time.monotonic() - started


def _lines(output: Path) -> int:
    return output.read_bytes().count(b"\n") if output.exists() else 0
