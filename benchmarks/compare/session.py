"""The engines of a run, which start when first asked, and their measurements."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.compare.environments import EnvironmentFailure, prepare
from benchmarks.compare.model import DEMO_LENGTH, MAX_LENGTH, ModelFiles
from benchmarks.compare.process import EngineFailure, EngineProcess
from benchmarks.compare.prompts import Prompts
from benchmarks.compare.results import Results

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
        variants: Environment variables of additional engines of this project, by name.
        ceilings: Measures the machine's peak performance, or None.
    """

    def __init__(
        self,
        files: ModelFiles,
        prompts: Prompts,
        results: Results,
        threads: int,
        variants: dict[str, dict[str, str]] | None = None,
        ceilings: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        self.files, self.prompts, self.results = files, prompts, results
        self.threads, self.variants = threads, variants or {}
        self._ceilings = ceilings
        self._running: dict[str, EngineProcess] = {}
        self._broken: dict[str, str] = {}

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
            metrics: Maps fields of the answer to the metrics that they are samples of.
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
        if not wanted:
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

    def start(
        self, name: str, variables: dict[str, str] | None = None
    ) -> EngineProcess:
        """Starts an engine's process outside of the session.

        Raises:
            EngineFailure: If the engine doesn't start.
            EnvironmentFailure: If its environment can't be created.
        """
        arguments = [str(self.threads)]
        if name in ("transformers", "mistralrs"):
            model = self.files.checkpoint
        elif name == "llama_cpp":
            model = self.files.text_gguf
        else:
            is_demo = name == "demo"
            return self.start_mllama(
                name,
                "demo" if is_demo else str(self.files.gguf),
                DEMO_LENGTH if is_demo else MAX_LENGTH,
                self.variants.get(name, {}) | (variables or {}),
            )
        return EngineProcess(
            name, prepare(name), f"run_{name}", [str(model), *arguments], self.threads
        )

    def start_mllama(
        self,
        name: str,
        model: str,
        max_length: int = MAX_LENGTH,
        variables: dict[str, str] | None = None,
    ) -> EngineProcess:
        """Starts a process of this project with any model outside of the session.

        Raises:
            EngineFailure: If the engine doesn't start.
        """
        return EngineProcess(
            name,
            Path(sys.executable),
            "run_mllama",
            [model, str(self.threads), str(max_length)],
            self.threads,
            variables,
        )

    def _warm(self, name: str) -> None:
        """Asks an engine once without measuring, so that its weights are in memory."""
        if name == "llama_cpp":
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
