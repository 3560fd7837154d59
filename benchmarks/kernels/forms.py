"""Times the products of int8 in each form, as on CPUs with fewer instructions.

``python -m benchmarks.kernels.forms`` compiles programs of the kernels alone for the
targets of ``mllama compile`` that this CPU runs, and for this CPU, and runs them in
turn.  MAX's float32 matmul is compiled for the same targets, where graphs that are
compiled here would have it use all that this CPU has.  CPU time is compared, so that
other work on the machine matters less.  ``--kernels`` takes the kernels from the folder
``mllama/kernels/mojo`` of another checkout.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import tempfile
from pathlib import Path

from mojo.run import subprocess_run_mojo

from mllama.compilation.host import CPU_TARGETS
from mllama.kernels.dispatch import AVX512_FEATURES, AVXVNNI_FEATURE, mojo_package
from mllama.utils.cpu import cpu_features

PROGRAM = Path(__file__).with_suffix(".mojo")
REPEATS = {"float32": 3, "int8": 3, "q4_k": 12, "q6_k": 12}
"""Products of a run, by their kind."""


def build(kind: str, target: str, kernels: Path, folder: Path) -> Path:
    """Compiles the program of a kind of product for a target."""
    features = CPU_TARGETS[target]
    has_avx512 = set(features).issuperset(AVX512_FEATURES)
    has_vnni = has_avx512 or AVXVNNI_FEATURE in features
    program = folder / f"{kind}-{target}"
    defines = {"KIND": kind, "WIDTH": 16 if has_avx512 else 8, "VNNI": has_vnni}
    subprocess_run_mojo(
        [
            *("build", "-I", str(kernels), "--target-cpu", target),
            *(f"-D{name}={value}" for name, value in defines.items()),
            *(str(PROGRAM), "-o", str(program)),
        ],
        capture_output=True,
        check=True,
    )
    return program


def cpu_seconds(program: Path, repeats: int) -> float:
    """Runs a program; returns the CPU time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([str(program), str(repeats)], check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def main() -> None:
    """Prints a line for each kind of product and target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--kinds", nargs="+", choices=REPEATS, default=list(REPEATS))
    parser.add_argument(
        "--kernels", type=Path, default=mojo_package("int8_matmul").parent
    )
    options = parser.parse_args()
    targets = [
        target
        for target, features in CPU_TARGETS.items()
        if set(features) <= set(cpu_features())
    ]
    with tempfile.TemporaryDirectory() as folder:
        programs = {
            (kind, target): build(kind, target, options.kernels, Path(folder))
            for kind in options.kinds
            for target in targets
        }
        times: dict[tuple[str, str], list[float]] = {key: [] for key in programs}
        for _ in range(options.rounds):
            for (kind, target), program in programs.items():
                # Without products, the inputs are made alone.
                inputs = cpu_seconds(program, 0)
                whole = cpu_seconds(program, REPEATS[kind])
                times[kind, target].append((whole - inputs) / REPEATS[kind])
    for (kind, target), taken in times.items():
        first = statistics.median(times[kind, targets[0]])
        median = statistics.median(taken)
        print(
            f"{kind:8} {target:12} {median * 1e3:7.1f} ms ({min(taken) * 1e3:.1f} to "
            f"{max(taken) * 1e3:.1f}), {first / median:.2f} x {targets[0]}",
            flush=True,
        )


if __name__ == "__main__":
    main()
