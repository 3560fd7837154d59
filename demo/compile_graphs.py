"""Compiles the demo model's graphs that ship: `make demo-graphs`.

    python -m demo.compile_graphs
    python -m demo.compile_graphs --check

They are for every CPU with AVX2.  They have to be renewed when a source that graphs are
built from has changed, once before a release: until then the package compiles instead.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from mllama.aot.cross_compile import compile_for_target
from mllama.aot.targets import CrossCompilation, find_target
from mllama.compilation.shipped import pack, staleness
from mllama.config import MllamaConfig
from mllama.demo_model import GRAPHS_PATH, MODEL_PATH
from mllama.weights.encodings import Encoding

TARGET = "cpu:x86-64-v3"
FORM = GRAPHS_PATH / "float32-x86-64-v3"


def main() -> None:
    """Compiles the graphs, or exits with 1 if the present ones are stale."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="only say whether they are stale"
    )
    if parser.parse_args().check:
        if (reason := staleness(FORM)) is not None:
            print(f"the demo model's graphs are stale: {reason}; `make demo-graphs`")
            sys.exit(1)
        return
    compile_demo_graphs(FORM)
    size = sum(file.stat().st_size for file in FORM.iterdir())
    print(f"{FORM}: {size / 1000:.0f} kB", file=sys.stderr)


def compile_demo_graphs(directory: Path) -> None:
    """Compiles the demo model's graphs and replaces those in a directory."""
    compilation = CrossCompilation(
        MllamaConfig.from_path(MODEL_PATH),
        find_target(TARGET),
        Encoding("float32", "cpu"),
        attention=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "graphs"
        compile_for_target(compilation, made)
        pack(made)
        if directory.exists():
            shutil.rmtree(directory)
        directory.parent.mkdir(exist_ok=True)
        shutil.copytree(made, directory)


if __name__ == "__main__":
    main()
