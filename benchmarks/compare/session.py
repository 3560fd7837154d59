"""The engines of a run, which start when first asked, and their measurements."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.compare.ceilings import CompilerFailure
from benchmarks.compare.compiled_graphs import graphs_for
from benchmarks.compare.environments import EnvironmentFailure, prepare
from benchmarks.compare.isa import NATIVE, Isa
from benchmarks.compare.model import MAX_LENGTH, ModelFiles
from benchmarks.compare.process import EngineFailure, EngineProcess
from benchmarks.compare.prompts import Prompts
from benchmarks.compare.results import Results
from benchmarks.compare.spans import profiling_variables
from benchmarks.compare.variants import SPECULATION, Variant

ON_TEXT_LAYERS = ("llama_cpp", "ik_llama_cpp")
"""Engines that read the file of the text layers and are asked in token ids."""

ON_CHECKPOINT = ("transformers", "mistralrs")
"""Engines that read the checkpoint."""

CHOOSE_THEMSELVES = ("mistralrs",)
"""Engines that use whatever the machine has, also if a run is limited to less."""

WARM_TOKENS = 128
"""Length of the prompt that an engine answers before it is measured."""


class Session:
    """The running engines.

    If an engine can't be installed, started or asked, the results record the reason
    and the run continues without it.

    Args:
        files: The model in every format.
        prompts: Source of the questions.
        results: Receives the measurements.
        threads: Number of threads of each engine.
        variants: The engines of this project, by name.
        ceilings: Measures the machine's peak performance, or None.
        isa: The instructions that engines are limited to.
    """

    def __init__(
        self,
        files: ModelFiles,
        prompts: Prompts,
        results: Results,
        threads: int,
        variants: Mapping[str, Variant],
        ceilings: Callable[[], dict[str, float]] | None = None,
        isa: Isa = NATIVE,
    ) -> None:
        self.files, self.prompts, self.results = files, prompts, results
        self.threads, self.variants = threads, variants
        self._ceilings, self.isa = ceilings, isa
        self._running: dict[str, EngineProcess] = {}
        self._broken: dict[str, str] = {}

    def prepare(self, engines: Iterable[str], profiled: Iterable[str]) -> None:
        """Installs and compiles what engines need, and says what fails.

        Args:
            engines: Engines that are measured.
            profiled: Engines whose operations are timed.
        """
        for name, is_profiled in (
            *((name, False) for name in engines),
            *((name, True) for name in profiled),
        ):
            try:
                variables = profiling_variables() if is_profiled else None
                self.start(name, variables).close()
            except (CompilerFailure, EngineFailure, EnvironmentFailure) as error:
                print(f"{name}: {error}", file=sys.stderr, flush=True)

    def measure_machine(self, metrics: Mapping[str, str]) -> None:
        """Records the machine's current peak performance.

        Args:
            metrics: Maps each ceiling to the metric that it is a sample of.
        """
        if self._ceilings is None:
            return
        measured = self._ceilings()
        for metric, name in metrics.items():
            self.results.add(metric, "machine", measured[name])

    def measure(
        self,
        engine: str,
        metrics: dict[str, str],
        do: str,
        *,
        checked: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> Any:
        """Asks an engine and records what it measured.

        Args:
            engine: Name of the engine.
            metrics: Maps metrics to the fields of the answer that are samples of them;
                the field of an empty name is the whole answer.
            do: Name of the function.
            checked: Values that fields of the answer must have, or samples don't count.
            arguments: Arguments of the function.

        Returns:
            The answer, or None if the engine failed.
        """
        wanted = [
            metric
            for metric in metrics
            if engine not in self.results.failures.get(metric, {})
        ]
        if metrics and not wanted:
            return None
        try:
            answer = self.engine(engine).ask(do, **arguments)
            for name, value in (checked or {}).items():
                if answer[name] != value:
                    raise EngineFailure(f"{name} is {answer[name]}, not {value}")
        except EngineFailure as error:
            print(f"{engine}: {error}", file=sys.stderr, flush=True)
            for metric in wanted:
                self.results.fail(metric, engine, str(error))
            return None
        for metric in wanted:
            value = answer if metrics[metric] == "" else answer[metrics[metric]]
            if value is not None:
                self.results.add(metric, engine, value)
        return answer

    def engine(self, name: str) -> EngineProcess:
        """Returns the process of an engine, after starting it unless it runs.

        Raises:
            EngineFailure: If the engine doesn't start.
        """
        if name in self._broken:
            raise EngineFailure(self._broken[name])
        running = self._running.get(name)
        if running is not None and running.is_alive:
            return running
        print(f"starting {name}", file=sys.stderr, flush=True)
        try:
            self._running[name] = self.start(name)
            self.results.engines[name] = self._running[name].ask("about")
            self._warm(name)
        except (EngineFailure, EnvironmentFailure) as error:
            self._broken[name] = str(error)
            raise EngineFailure(str(error)) from error
        return self._running[name]

    @property
    def on_checkpoint(self) -> tuple[str, ...]:
        """The engines that read the checkpoint and heed the instruction set."""
        return tuple(
            name
            for name in ON_CHECKPOINT
            if self.isa.is_native or name not in CHOOSE_THEMSELVES
        )

    def ours(self, letters: str) -> list[str]:
        """Returns the engines of the benchmark's model that take part in any of some
        workloads."""
        return self._variants(letters, is_demo=False)

    def demos(self, letters: str) -> list[str]:
        """Returns the engines of the demo model that take part in any of some
        workloads."""
        return self._variants(letters, is_demo=True)

    def _variants(self, letters: str, *, is_demo: bool) -> list[str]:
        return [
            name
            for name, each in self.variants.items()
            if set(letters) & set(each.workloads) and each.is_demo == is_demo
        ]

    def start(
        self, name: str, variables: dict[str, str] | None = None
    ) -> EngineProcess:
        """Starts an engine's process outside of the session.

        Raises:
            EngineFailure: If the engine doesn't start.
            EnvironmentFailure: If its environment can't be created.
        """
        if name not in (*ON_TEXT_LAYERS, *ON_CHECKPOINT):
            return self.start_mllama(name, self.files.gguf, variables)
        is_on_text = name in ON_TEXT_LAYERS
        model = self.files.text_gguf if is_on_text else self.files.checkpoint
        arguments = [str(model), str(self.threads)]
        if is_on_text:
            arguments.append(",".join(self.isa.absent))
        return EngineProcess(
            name, prepare(name, self.isa), f"run_{name}", arguments, self.threads
        )

    def start_mllama(
        self, name: str, model: Path, variables: dict[str, str] | None = None
    ) -> EngineProcess:
        """Starts a process of this project outside of the session.

        Args:
            name: Name of the engine; a variant has the options of the variant.
            model: A GGUF file, which the demo model replaces if the variant says so.
                Its folder has the configuration, unless it is the benchmark's model.
            variables: Additional environment variables.

        Raises:
            EngineFailure: If the engine doesn't start.
        """
        variant = self.variants.get(name, Variant(""))
        options = {"max_length": MAX_LENGTH, **variant.options}
        if not (variant.is_demo or self.isa.is_native):
            is_ours = model == self.files.gguf
            folder = self.files.checkpoint if is_ours else model.parent
            graphs = graphs_for(folder, options, self.isa, variables)
            options["serialized_model_path"] = str(graphs)
        threads = variant.threads or self.threads
        served = "demo" if variant.is_demo else str(model)
        return EngineProcess(
            name,
            Path(sys.executable),
            variant.script,
            [served, str(threads), json.dumps(options)],
            threads,
            variables,
        )

    def _warm(self, name: str) -> None:
        """Asks an engine once without measuring, so that its weights are in memory."""
        if name == SPECULATION:
            return  # It does so by itself.
        if name in ON_TEXT_LAYERS:
            self._running[name].ask("ask_tokens", tokens=WARM_TOKENS, new_tokens=2)
            return
        question = self.prompts.question(WARM_TOKENS)
        if name == "mistralrs":
            question = self.prompts.rendered(question, 0)
        self._running[name].ask("ask", prompt=question, images=[], new_tokens=2)

    def close(self) -> None:
        """Ends all engines."""
        for process in self._running.values():
            process.close()
