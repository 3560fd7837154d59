"""This project's graphs for a CPU with fewer instructions than this machine's."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.compare.environments import FOLDER
from benchmarks.compare.isa import Isa
from benchmarks.compare.process import EngineFailure
from mllama.compilation.host import versions

GRAPH_OPTIONS = ("vision_encoding", "image_cache_encoding", "kv_cache_encoding")
"""Options of `mllama.LLM` that graphs depend on."""


def graphs_for(
    model: Path,
    options: Mapping[str, Any],
    isa: Isa,
    variables: Mapping[str, str] | None = None,
) -> Path:
    """Returns the directory of a model's graphs in q4_k, after compiling them if
    needed.

    Args:
        model: The folder of the model's configuration.
        options: Options of `mllama.LLM`.
        isa: What to compile for; not what this machine has.
        variables: Additional environment variables, such as those of profiling, with
            which other graphs are compiled.

    Raises:
        EngineFailure: If compilation fails.
    """
    chosen = {name: options[name] for name in GRAPH_OPTIONS if name in options}
    variables = variables or {}
    key = json.dumps([str(model), chosen, versions(), *variables], sort_keys=True)
    name = f"{isa.name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    folder = FOLDER / "compiled" / name
    if folder.is_dir():
        return folder
    print(f"compiling for {isa.name}", file=sys.stderr, flush=True)
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    command = [sys.executable, "-m", "mllama", "compile", "--model-path", str(model)]
    command += ["--target", str(isa.target), "--quantization-encoding", "q4_k"]
    for option, value in chosen.items():
        command += [f"--{option.replace('_', '-')}", str(value)]
    done = subprocess.run(
        [*command, "--output", str(part)],
        capture_output=True,
        text=True,
        env=os.environ | variables,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise EngineFailure(f"compiling for {isa.name}: {lines[-1]}")
    part.rename(folder)
    return folder
