"""How model workers that die are replaced."""

from __future__ import annotations

from dataclasses import dataclass

from mllama.errors import MllamaError


@dataclass(frozen=True, kw_only=True)
class RestartOptions:
    """How workers that die are replaced.

    Attributes:
        keeps_standby: Whether a process is started ahead for the next worker.
        most_restarts: Restarts in a row, with less than a minute of service in
            between, before there is no further one; None has no limit.

    Raises:
        MllamaError: If a value is wrong.
    """

    keeps_standby: bool = True
    most_restarts: int | None = None

    def __post_init__(self) -> None:
        if self.most_restarts is not None and self.most_restarts < 0:
            raise MllamaError(
                f"--max-worker-restarts must be at least 0, not {self.most_restarts}"
            )
