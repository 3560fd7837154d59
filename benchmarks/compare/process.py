"""The process of an engine, which runs for the whole benchmark."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare.environments import FOLDER

_SCRIPTS = Path(__file__).with_name("engines")
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
)


class EngineFailure(Exception):
    """An engine rejected a request, failed or exited; the message is one line."""


class EngineProcess:
    """A running engine.

    Args:
        name: Name of the engine, for its log.
        python: Interpreter of the engine's environment.
        script: File in ``engines``, without ``.py``.
        arguments: Arguments of the script.
        threads: Number of threads that the engine may use.
        variables: Additional environment variables.

    Raises:
        EngineFailure: If the engine doesn't load.
    """

    def __init__(
        self,
        name: str,
        python: Path,
        script: str,
        arguments: Sequence[str],
        threads: int,
        variables: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = FOLDER / "logs" / f"{name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ) | (variables or {})
        environment |= dict.fromkeys(_THREAD_VARIABLES, str(threads))
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [str(python), str(_SCRIPTS / f"{script}.py"), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, do: str, **arguments: Any) -> Any:
        """Calls a function of the engine and returns its result.

        Raises:
            EngineFailure: If the function fails or the process exits.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error
        return self._answer()

    def close(self) -> None:
        """Ends the process; further calls do nothing."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    @property
    def is_alive(self) -> bool:
        """Returns True while the process runs."""
        return self._process.poll() is None

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            raise EngineFailure(answer["error"])
        return answer["result"]

    def _ended(self) -> EngineFailure:
        code = self._process.wait()
        panics = [
            line.strip()
            for line in self.log.read_text(errors="replace").splitlines()
            if "panicked" in line or "rror:" in line
        ]
        reason = panics[-1][:200] if panics else f"see {self.log}"
        return EngineFailure(f"the process ended with {code}: {reason}")
