"""The files under ``deploy/``, and the options of the server that they name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from mllama.cli.command_table import ALL_OPTIONS
from mllama.cli.config_file import read_config_file

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"

SERVER_OPTIONS = {each.name for each in ALL_OPTIONS if "serve" in each.takers} | {
    "config_file"
}


def load_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def unknown_options(arguments: list[str]) -> list[str]:
    """Returns the options of a command line that ``mllama serve`` doesn't have."""
    names = [each.partition("=")[0] for each in arguments if each.startswith("--")]
    return [name for name in names if name[2:].replace("-", "_") not in SERVER_OPTIONS]


def options_of(config: Path, directory: Path) -> dict[str, Any]:
    """Returns the options in a configuration file, those in comments included."""
    text = config.read_text(encoding="utf-8")
    uncommented = directory / config.name
    uncommented.write_text(re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE))
    return read_config_file(str(uncommented), SERVER_OPTIONS)
