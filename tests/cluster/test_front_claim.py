"""Two fronts don't share an application."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray", reason="the extra cluster")

from ray import serve
from ray.exceptions import ActorAlreadyExistsError

from mllama.cluster.front_claim import checked_name, claimed
from mllama.errors import MllamaError


class FakeRay:
    """Has named actors."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def remote(self, actor: Any) -> Any:
        return self

    def options(self, *, name: str, **options: Any) -> Any:
        assert options["num_cpus"] == 0
        # A detached one would outlive its front.
        assert "lifetime" not in options
        return SimpleNamespace(remote=lambda: self._start(name))

    def _start(self, name: str) -> str:
        if name in self.names:
            raise ActorAlreadyExistsError(f"{name} exists")
        self.names.append(name)
        return name

    def kill(self, actor: str) -> None:
        self.names.remove(actor)


@pytest.fixture
def applications(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The names of the deployments of the cluster's applications."""
    found: dict[str, list[str]] = {}
    monkeypatch.setattr(
        serve,
        "status",
        lambda: SimpleNamespace(
            applications={
                name: SimpleNamespace(deployments=dict.fromkeys(deployments))
                for name, deployments in found.items()
            }
        ),
    )
    return found


def test_a_second_front_is_refused_while_the_first_runs(
    applications: dict[str, list[str]],
) -> None:
    ray = FakeRay()
    with claimed(ray, "mllama", "Replica"):
        applications["mllama"] = ["Replica"]
        with (
            pytest.raises(MllamaError, match="of a `mllama cluster serve` that runs"),
            claimed(ray, "mllama", "Replica"),
        ):
            pass
        with claimed(ray, "other", "Replica"):
            assert len(ray.names) == 2
    assert ray.names == []


def test_what_a_killed_front_has_left_is_taken_over(
    applications: dict[str, list[str]],
) -> None:
    applications["mllama"] = ["Replica"]
    with claimed(FakeRay(), "mllama", "Replica"):
        pass


def test_an_application_of_others_is_not_taken_over(
    applications: dict[str, list[str]],
) -> None:
    ray = FakeRay()
    applications["mllama"] = ["Front", "Replica"]
    with (
        pytest.raises(MllamaError, match=r"\(it has a deployment 'Front'\): give"),
        claimed(ray, "mllama", "Replica"),
    ):
        pass
    assert ray.names == []


@pytest.mark.parametrize("name", ["", "a b", "a#b", "-a", "a" * 64])
def test_a_name_that_can_not_be_one_is_refused(name: str) -> None:
    with pytest.raises(MllamaError, match="--name must be"):
        checked_name(name)
    assert checked_name("my-model.2") == "my-model.2"
