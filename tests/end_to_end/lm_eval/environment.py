"""The harness in an environment of its own, made once and kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
TASKS = Path(__file__).with_name("tasks")
ENVIRONMENTS = Path(__file__).parents[3] / ".environments"


def harness() -> Path:
    """Returns the Python that has the harness, after installing it if need be."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}\n".encode()
    digest = hashlib.sha256(version + REQUIREMENTS.read_bytes()).hexdigest()
    environment = ENVIRONMENTS / f"lm_eval-{digest[:16]}"
    ENVIRONMENTS.mkdir(exist_ok=True)
    with FileLock(f"{environment}.lock"):
        if not environment.exists():
            incomplete = environment.with_suffix(".incomplete")
            shutil.rmtree(incomplete, ignore_errors=True)
            _install(incomplete)
            incomplete.rename(environment)
    return environment / "bin" / "python"


def _install(environment: Path) -> None:
    _run([sys.executable, "-m", "venv", environment])
    python = environment / "bin" / "python"
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if uv:
        install: list[str | Path] = [uv, "pip", "install", "--python", python]
    else:
        install = [python, "-m", "pip", "install"]
    _run([*install, "-r", REQUIREMENTS])


def evaluate(
    interface: str,
    tasks: Sequence[str],
    directory: Path,
    *options: str,
    **arguments: Any,
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Runs the harness, without access to a hub.

    Args:
        interface: The kind of model, such as ``local-completions``.
        tasks: Names of tasks in the folder ``tasks``.
        directory: An empty directory for what it writes.
        options: More options.
        arguments: Arguments of the model.

    Returns:
        The metrics of each task, and what it recorded of each example.
    """
    tasks_directory = directory / "tasks"
    shutil.copytree(TASKS, tasks_directory, dirs_exist_ok=True)
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    values = ",".join(f"{name}={value}" for name, value in arguments.items())
    _run(
        [
            *(harness(), "-m", "lm_eval", "run", "--model", interface),
            *("--model_args", values, "--tasks", ",".join(tasks)),
            *("--include_path", tasks_directory, "--output_path", directory / "out"),
            *("--log_samples", *options),
        ],
        cwd=tasks_directory,
        env={
            **inherited,
            "HF_HOME": str(directory / "hub"),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
        },
    )
    (results,) = (directory / "out").rglob("results_*.json")
    samples = {}
    for task in tasks:
        (file,) = (directory / "out").rglob(f"samples_{task}_*.jsonl")
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        samples[task] = sorted(lines, key=lambda line: line["doc_id"])
    return json.loads(results.read_text())["results"], samples


def _run(command: Sequence[str | Path], **options: Any) -> None:
    done = subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    assert done.returncode == 0, done.stdout
