"""Runs the checks of clients' programs, each in its client's environment."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path

from .environments import REQUIREMENTS, node_environment, python_environment, run
from .programs import picture

PROGRAMS = Path(__file__).parent / "programs"
NODE_CLIENTS = sorted(file.stem for file in REQUIREMENTS.glob("*.json"))
CLIENTS = sorted(file.stem for file in REQUIREMENTS.glob("*.txt")) + NODE_CLIENTS

_CHECK = re.compile(r"^(?:def|export async function) (check_\w+)", re.MULTILINE)


def checks_of(client: str) -> list[str]:
    """Returns the names of a program's checks."""
    suffix = "mjs" if client in NODE_CLIENTS else "py"
    source = (PROGRAMS / f"{client}.{suffix}").read_text(encoding="utf-8")
    return _CHECK.findall(source)


def outcomes(client: str, url: str) -> dict[str, str | None]:
    """Runs a client's program.

    Returns:
        For each check the traceback of its failure, or None.
    """
    if client in NODE_CLIENTS:
        answer = _run_node(client, url)
    else:
        program = PROGRAMS / "run_checks.py"
        answer = run(python_environment(client), program, client, url, cwd=PROGRAMS)
    found: dict[str, str | None] = json.loads(answer.splitlines()[-1])
    return found


def _run_node(client: str, url: str) -> str:
    """Runs a program for Node, which looks for packages above the program's file."""
    with tempfile.TemporaryDirectory(dir=node_environment(client)) as folder:
        directory = Path(folder)
        for program in PROGRAMS.glob("*.mjs"):
            shutil.copy(program, directory)
        shown = {name: value for name, value in vars(picture).items() if name.isupper()}
        text = json.dumps({**shown, "data_url": picture.data_url()})
        (directory / "picture.mjs").write_text(f"export default {text};\n")
        return run("node", "run_checks.mjs", client, url, cwd=directory)
