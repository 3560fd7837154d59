"""Benchmarks this project, its alternatives and the machine: `make bench`.

    python -m benchmarks.compare                      # everything, 15 to 45 minutes
    python -m benchmarks.compare --quick --only a,c   # two rounds of two workloads
    python -m benchmarks.compare --growth             # also how costs scale
    python -m benchmarks.compare --full-shape         # also a model of 11B's full size
    python -m benchmarks.compare --isa avx2           # as on a CPU with AVX2 alone
    python -m benchmarks.compare --prepare            # installs and compiles, no more
    python -m benchmarks.compare --write-docs RUN...  # writes runs into the documents

The first run installs the engines and compiles.  Results are kept in `.bench/runs`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from benchmarks.compare.byte_counts import read_per_token, tensors_of
from benchmarks.compare.ceilings import (
    METRICS,
    CompilerFailure,
    ceilings,
    compiled,
    machine,
)
from benchmarks.compare.documents import write_document, write_run
from benchmarks.compare.environments import FOLDER
from benchmarks.compare.first_run import measure_first_run
from benchmarks.compare.growth import measure_growth
from benchmarks.compare.isa import ISAS, NATIVE, Isa, form_of
from benchmarks.compare.model import CROSS_LAYERS, TEXT_LAYERS, ModelFiles, model_files
from benchmarks.compare.picture_streams import measure_picture_streams
from benchmarks.compare.process import EngineFailure
from benchmarks.compare.prompts import Prompts
from benchmarks.compare.report import summary
from benchmarks.compare.request_parts import measure_operations
from benchmarks.compare.results import Results
from benchmarks.compare.session import Session
from benchmarks.compare.variants import OURS, VARIANTS, Variant, thread_variants
from benchmarks.compare.workloads import (
    IMAGE_TOKENS,
    OUR_TOKENS,
    TEXT_TOKENS,
    WORKLOADS,
    engines_of,
    mistralrs_decode,
    play,
    profiled_engines,
)
from mllama.errors import MllamaError
from mllama.kernels.dispatch import chosen_kernels, kernels_summary

ROUNDS, QUICK_ROUNDS = 5, 2
FIRST_RUN_ROUNDS = 3


def main() -> None:
    """Runs the benchmarks, or writes the results of runs into the documents."""
    options = _options()
    letters = options.only
    if options.write_docs:
        write_document(options.write_docs, letters)
        return
    files = model_files()
    before = dict(os.environ)
    runs = []
    for isa in options.isa:
        # Every process that is started from here inherits them.
        os.environ |= isa.variables
        runs += _run(isa, files, options, letters)
        os.environ.clear()
        os.environ.update(before)
    if runs:
        print(summary(runs, letters))
    if options.full_shape:
        command = [sys.executable, "-m", "benchmarks.full_shape"]
        subprocess.run(command, check=True)


def _run(
    isa: Isa, files: ModelFiles, options: argparse.Namespace, letters: str
) -> list[Results]:
    """Runs the workloads with an instruction set and writes what came out.

    Returns:
        The results, unless all was only prepared.
    """
    if not isa.is_native:
        # It installs and runs the package as it is.
        letters = letters.replace("h", "")
    now = datetime.now(timezone.utc)
    try:
        form = form_of(kernels_summary(chosen_kernels()))
    except MllamaError as error:
        sys.exit(f"error: {error}")
    results = Results(
        date=now.isoformat(timespec="seconds"),
        command=shlex.join(["python", "-m", "benchmarks.compare", *sys.argv[1:]]),
        machine=machine() | {"threads": options.threads, "form": form},
    )
    with tempfile.TemporaryDirectory() as pictures:
        session = Session(
            files,
            Prompts(files.checkpoint, Path(pictures)),
            results,
            options.threads,
            VARIANTS | thread_variants(options.threads) | options.also,
            _ceilings(options.threads),
            isa,
        )
        try:
            if options.prepare:
                session.prepare(engines_of(session, letters), profiled_engines(letters))
                return []
            _measure(session, options, letters)
        finally:
            session.close()
        if not options.quick or options.profile:
            measure_operations(session)
    folder = FOLDER / "runs" / now.strftime("%Y-%m-%d-%H%M%S")
    write_run(results, letters, folder)
    print(f"{form} is kept in {folder}", file=sys.stderr, flush=True)
    return [results]


def _measure(session: Session, options: argparse.Namespace, letters: str) -> None:
    """Runs all rounds, and measures the machine before each and after the last."""
    results = session.results
    rounds = QUICK_ROUNDS if options.quick else options.rounds
    of_itself = {name: name for name in METRICS}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        session.measure_machine(of_itself)
        play(session, letters, number)
    session.measure_machine(of_itself)
    if "c" in letters:
        mistralrs_decode(session)
    if "h" in letters:
        measure_first_run(results, session.files.gguf, min(rounds, FIRST_RUN_ROUNDS))
    if options.growth:
        try:
            measure_growth(session, 1 if options.quick else 3)
        except EngineFailure as error:
            results.fail("growth", OURS, str(error))
    results.model = model_properties(session.files, results)
    # What follows has processes of its own.
    session.close()
    if "j" in letters:
        measure_picture_streams(session, rounds)


def _ceilings(threads: int) -> Callable[[], dict[str, float]] | None:
    """Returns a function that measures the machine's ceilings, or None."""
    try:
        program = compiled("ceilings")
    except CompilerFailure as error:
        print(f"no ceilings: {error}", file=sys.stderr)
        return None
    return partial(ceilings, program, threads)


def model_properties(files: ModelFiles, results: Results) -> dict[str, float]:
    """Returns the properties of the model that the figures are computed from."""
    config = json.loads((files.checkpoint / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    tensors, theirs = tensors_of(files.gguf), tensors_of(files.text_gguf)
    read, read_by_llama_cpp = read_per_token(tensors), read_per_token(theirs)
    patches = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    return {
        "parameters_per_token": read.parameters,
        "bytes_per_token": read.nbytes,
        "llama_cpp_parameters_per_token": read_by_llama_cpp.parameters,
        "llama_cpp_bytes_per_token": read_by_llama_cpp.nbytes,
        "vocabulary": text["vocab_size"],
        "rows_per_tile": patches,
        "cross_layers": len(CROSS_LAYERS),
        "self_layers": TEXT_LAYERS - len(CROSS_LAYERS),
        "kv_heads": text["num_key_value_heads"],
        "head_dim": text["hidden_size"] // text["num_attention_heads"],
        "prompt_tokens": IMAGE_TOKENS,
        "text_tokens": TEXT_TOKENS,
        "decode_steps": OUR_TOKENS - 1,
        "pool_item_bytes": results.engines.get(OURS, {}).get("pool_item_bytes", 4),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--quick", action="store_true", help="run fewer rounds and no profile"
    )
    parser.add_argument(
        "--only",
        type=_letters,
        default="".join(WORKLOADS),
        metavar="a,c",
        help="; ".join(f"{letter}: {what}" for letter, what in WORKLOADS.items()),
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="threads of each engine",
    )
    parser.add_argument(
        "--profile", action="store_true", help="profile with --quick too"
    )
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--full-shape", action="store_true")
    parser.add_argument(
        "--also",
        type=_variant,
        action=_Collect,
        default={},
        metavar="NAME:OPTION=VALUE",
        help="also measure this project with another option of mllama.LLM, as a "
        "separate engine",
    )
    parser.add_argument(
        "--isa",
        type=_isas,
        default=[NATIVE],
        metavar="avx2,native",
        help="instructions that engines are limited to, one run after the other: "
        + ", ".join(ISAS),
    )
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="install and compile what the workloads need, and measure nothing",
    )
    parser.add_argument(
        "--write-docs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folders of runs, whose columns stand side by side",
    )
    return parser.parse_args()


class _Collect(argparse.Action):
    """Collects variants by name."""

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: object, *_: object
    ) -> None:
        assert isinstance(values, dict)
        setattr(namespace, self.dest, getattr(namespace, self.dest) | values)


def _variant(text: str) -> dict[str, Variant]:
    name, colon, setting = text.partition(":")
    option, equals, value = setting.partition("=")
    if not (name and colon and option and equals):
        raise argparse.ArgumentTypeError("must be NAME:OPTION=VALUE")
    return {name: Variant("abcdef", {option: value})}


def _isas(text: str) -> list[Isa]:
    names = text.split(",")
    if unknown := [name for name in names if name not in ISAS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not of {', '.join(ISAS)}")
    return [ISAS[name] for name in names]


def _letters(text: str) -> str:
    letters = text.replace(",", "")
    unknown = set(letters) - set(WORKLOADS)
    if unknown or not letters:
        raise argparse.ArgumentTypeError(f"must be of {','.join(WORKLOADS)}")
    return letters


if __name__ == "__main__":
    main()
