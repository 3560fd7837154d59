"""Runs the checks of clients' programs, each in its client's environment."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Final

from .environments import REQUIREMENTS, node_environment, python_environment, run
from .programs import picture

PROGRAMS = Path(__file__).parent / "programs"
SHARED: Final = {
    "langchain_ollama_python": "ollama_python",
    "litellm_ollama_python": "litellm_python",
    "llama_index_ollama_python": "ollama_python",
    "ollama_node": "openai_node",
}
"""Programs that run in the environment of another, since making one takes time."""

CLIENTS = sorted(
    [*SHARED, *(file.stem for file in REQUIREMENTS.glob("*.*") if file.suffix != ".in")]
)
NODE_CLIENTS = [each for each in CLIENTS if (PROGRAMS / f"{each}.mjs").exists()]

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
        python = python_environment(SHARED.get(client, client))
        answer = run(python, program, client, url, cwd=PROGRAMS)
    found: dict[str, str | None] = json.loads(answer.splitlines()[-1])
    return found


def _run_node(client: str, url: str) -> str:
    """Runs a program for Node, which looks for packages above the program's file."""
    environment = node_environment(SHARED.get(client, client))
    with tempfile.TemporaryDirectory(dir=environment) as folder:
        directory = Path(folder)
        for program in PROGRAMS.glob("*.mjs"):
            shutil.copy(program, directory)
        shown = {name: value for name, value in vars(picture).items() if name.isupper()}
        text = json.dumps({**shown, "data_url": picture.data_url()})
        (directory / "picture.mjs").write_text(f"export default {text};\n")
        return run("node", "run_checks.mjs", client, url, cwd=directory)
