"""Compiles the forms of ``mllama-graphs`` and builds its wheel: `make graphs`.

python -m graphs.build --list
python -m graphs.build --form 11b-q4_k-x86-64-v3 --form 11b-bfloat16-sm_90
python -m graphs.build
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from graphs.forms import Form, all_forms
from mllama.aot.cross_compile import compile_for_target
from mllama.compilation.shipped import GRAPHS_PACKAGE, SUFFIX, pack, staleness
from mllama.errors import MllamaError
from mllama.version import __version__

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "mllama-graphs"
PACKAGE = BUILD / GRAPHS_PACKAGE
PARTIAL = BUILD / "partial"

PYPROJECT = f"""\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "mllama-graphs"
version = "{__version__}"
description = "Compiled graphs of Llama 3.2 Vision for mllama {__version__}"
requires-python = ">=3.10"
license = "Apache-2.0"

[tool.setuptools]
packages = ["{GRAPHS_PACKAGE}"]

[tool.setuptools.package-data]
{GRAPHS_PACKAGE} = ["*/manifest.json", "*/*.mef{SUFFIX}"]
"""


def main() -> None:
    """Compiles the requested forms and builds the wheel of all that are compiled."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--form", action="append", default=[], help="only this form; repeatable"
    )
    parser.add_argument("--list", action="store_true", help="list the forms and exit")
    arguments = parser.parse_args()
    forms = {form.name: form for form in all_forms()}
    if arguments.list:
        for name, form in forms.items():
            print(name, "" if staleness(PACKAGE / form.name) else "compiled")
        return
    if unknown := set(arguments.form) - set(forms):
        parser.error(f"there is no form {sorted(unknown)[0]}; see --list")
    failures = 0
    for name in arguments.form or forms:
        try:
            build_form(forms[name])
        except MllamaError as error:
            failures += 1
            print(f"{name}: FAILED: {error}", file=sys.stderr)
    remove_stale_forms()
    build_wheel(ROOT / "dist")
    sys.exit(failures > 0)


def build_form(form: Form) -> None:
    """Compiles a form unless it is compiled already, from the same sources.

    Raises:
        MllamaError: If MAX can't compile it.
    """
    directory = PACKAGE / form.name
    if staleness(directory) is None:
        print(f"{form.name}: compiled already", file=sys.stderr)
        return
    started = time.monotonic()
    partial = PARTIAL / form.name
    shutil.rmtree(partial, ignore_errors=True)
    compile_for_target(form.compilation, partial)
    pack(partial)
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(directory)
    size = sum(file.stat().st_size for file in directory.iterdir()) / 1e6
    seconds = time.monotonic() - started
    print(f"{form.name}: {seconds:.0f} s, {size:.2f} MB, not run", file=sys.stderr)


def remove_stale_forms() -> None:
    """Removes the forms that were compiled from other sources."""
    for directory in PACKAGE.glob("*/"):
        if staleness(directory) is not None:
            shutil.rmtree(directory)


def build_wheel(output: Path) -> None:
    """Builds the wheel of all forms that are compiled.

    Args:
        output: Directory for the wheel.
    """
    PACKAGE.mkdir(parents=True, exist_ok=True)
    (PACKAGE / "__init__.py").write_text(
        '"""Compiled graphs of Llama 3.2 Vision, which mllama finds here."""\n',
        encoding="utf-8",
    )
    (BUILD / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", output, BUILD],
        check=True,
        stdout=sys.stderr,
    )


if __name__ == "__main__":
    main()
