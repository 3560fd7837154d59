"""Options of ``mllama serve`` reach a cluster, or are refused with the reason."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("ray", reason="the extra cluster")

from mllama.cli.cluster import serve
from mllama.cli.command_table import ALL_OPTIONS
from mllama.cli.refused_by_cluster import OPTIONS_OF_ONE_WORKER
from mllama.errors import MllamaError
from mllama.server.listening import bind

Started = Callable[..., Any]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """Runs the command, and returns the arguments that it gives to the server."""
    seen: dict[str, Any] = {}

    @contextlib.contextmanager
    def nothing(*arguments: Any, **more: Any) -> Iterator[Any]:
        yield None

    for name in ("HOST", "METRIC_RECORDING_METHOD", "LOGS_ENABLE_COMPONENTS"):
        monkeypatch.setenv(f"MAX_SERVE_{name}", "")
        monkeypatch.delenv(f"MAX_SERVE_{name}")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    for name in ("logging", "metrics"):
        monkeypatch.setattr(
            f"mllama.max_compat.server.configure_{name}", lambda _: None
        )
    # The tests of this process need torch afterwards, and no cluster.
    monkeypatch.setattr("mllama.cli.cluster.block_torch", lambda: None)
    monkeypatch.setattr("mllama.cluster.ray_import.import_ray", lambda **_: None)
    monkeypatch.setattr("mllama.cluster.ray_cluster.ray_cluster", nothing)
    monkeypatch.setattr("mllama.cluster.front_claim.claimed", nothing)
    monkeypatch.setattr("mllama.cluster.nodes.check_nodes", lambda *_: None)
    monkeypatch.setattr(
        "mllama.server.options.bind", lambda host, port, *option: bind(host, 0, *option)
    )
    monkeypatch.setattr(
        "mllama.cluster.server.serve",
        lambda settings, **more: seen.update(more, settings=settings),
    )

    def run(*args: str) -> dict[str, Any]:
        seen.clear()
        CliRunner().invoke(serve, [*args], catch_exceptions=False)
        return seen

    return run


@pytest.mark.parametrize(
    ("args", "found", "expected"),
    [
        (["--max-new-tokens", "7"], lambda s: s["replica"].serving.max_new_tokens, 7),
        (["--top-k", "5"], lambda s: s["replica"].serving.top_k, 5),
        (["--attention"], lambda s: s["replica"].serving.attention, True),
        (["--attention"], lambda s: s["options"].attention, True),
        (["--admin-key", "a"], lambda s: list(s["options"].admin_keys), ["a"]),
        (["--max-pending-requests", "3"], lambda s: _queue(s), 3),
        (["--num-threads", "1"], lambda s: s["replica"].engine.num_threads, 1),
        (["--no-page"], lambda s: s["options"].page, False),
        (["--root-path", "/a/"], lambda s: s["options"].root_path, "/a"),
        (["--shutdown-timeout", "9"], lambda s: s["cluster"].drain_seconds, 9),
        (["--served-model-name", "a"], lambda s: s["replica"].model_name, "a"),
        (["--max-replicas", "4"], lambda s: s["cluster"].max_replicas, 4),
        (["--name", "other"], lambda s: s["name"], "other"),
    ],
)
def test_options_arrive(
    started: Started, args: list[str], found: Callable[[Any], Any], expected: Any
) -> None:
    assert found(started(*args)) == expected


def _queue(seen: dict[str, Any]) -> int:
    return int(seen["options"].overload.max_queue_size)


def test_a_file_may_set_options(started: Started, tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("attention: true\ntop-k: 4\nreplicas: 3\n")
    seen = started("--config-file", str(file))
    assert seen["replica"].serving.attention
    assert seen["replica"].serving.top_k == 4
    assert seen["cluster"].replicas == 3


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--max-new-tokens", "0"], "--max-new-tokens must be -1 or at least 1, not 0"),
        (["--top-k", "-7"], "top_k must be at least -1, not -7"),
        (["--max-worker-restarts", "3"], "Ray Serve replaces replicas that die"),
        (["--no-standby-worker"], "replicas have no processes that stand by"),
        (["--no-background-compilation"], "make graphs with `mllama compile`"),
        (["--kv-cache-page-size=64"], "`mllama cluster serve --help` lists"),
        (["--enable-lora"], "takes one adapter with --lora-path"),
    ],
)
def test_an_option_that_a_cluster_has_not_is_refused_with_the_reason(
    started: Started, args: list[str], says: str
) -> None:
    with pytest.raises(MllamaError) as raised:
        started(*args)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_each_option_of_a_server_is_taken_or_refused() -> None:
    of_one_worker = {
        option.name
        for option in ALL_OPTIONS
        if "serve" in option.takers and "cluster serve" not in option.takers
    }
    assert of_one_worker == set(OPTIONS_OF_ONE_WORKER)
