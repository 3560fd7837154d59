"""What Ray says is wrong, in one line that names the way out."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from mllama.cluster import ray_cluster, ray_import
from mllama.cluster.front import _start_failure
from mllama.cluster.nodes import _unchecked
from mllama.cluster.replica import START_ERROR
from mllama.errors import MllamaError


def test_ray_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MllamaError) as raised:
        ray_import.import_ray()
    assert str(raised.value) == (
        "a cluster needs Ray, and ray is not installed: pip install 'mllama[cluster]'"
    )


class FakeRay:
    """A module whose ``init`` fails some times."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.options: dict[str, Any] = {}
        self.is_shut_down = False

    def init(self, **options: Any) -> None:
        self.options = options
        if self.errors:
            raise self.errors.pop(0)

    def shutdown(self) -> None:
        self.is_shut_down = True


def joined(
    monkeypatch: pytest.MonkeyPatch, fake: FakeRay, address: str | None
) -> FakeRay:
    monkeypatch.setattr(ray_cluster, "import_ray", lambda **_: fake)
    with ray_cluster.ray_cluster(address) as module:
        assert module is fake
        assert fake.options["address"] == (address or "local")
    assert fake.is_shut_down
    return fake


def test_a_cluster_of_this_machine_is_quiet_and_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = joined(monkeypatch, FakeRay(), None).options
    assert options["include_dashboard"] is False
    assert options["_node_ip_address"] == "127.0.0.1"


def test_a_start_that_took_too_long_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = Exception("The current node timed out during startup. This could")
    joined(monkeypatch, FakeRay(slow, slow), None)
    with pytest.raises(MllamaError, match=r"^Ray can't be started on this machine: "):
        joined(monkeypatch, FakeRay(*[slow] * 9), None)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            RuntimeError("Version mismatch: The cluster was\nstarted with: Ray: 2.9"),
            "has other versions than this node: Version mismatch: The cluster was "
            "started with: Ray: 2.9; install the same on all nodes",
        ),
        (
            ConnectionError("Could not find any running Ray instance."),
            "this machine belongs to no Ray cluster: start one with `ray start --head`",
        ),
    ],
)
def test_a_cluster_that_can_not_be_joined_is_explained(
    monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    with pytest.raises(MllamaError) as raised:
        joined(monkeypatch, FakeRay(error), "auto")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("head", "--address must be HOST:PORT of Ray's head node or auto, not 'head'"),
        ("ray://head:10001", "through Ray's client, answers can't be streamed"),
        ("127.0.0.1:1", "there is no Ray cluster at 127.0.0.1:1 (Connection refused)"),
        ("127.0.0.1:99999", "there is no Ray cluster at 127.0.0.1:99999"),
    ],
)
def test_an_address_of_no_cluster_is_refused(
    monkeypatch: pytest.MonkeyPatch, address: str, says: str
) -> None:
    fake = FakeRay()
    with pytest.raises(MllamaError) as raised:
        joined(monkeypatch, fake, address)
    assert says in str(raised.value)
    assert fake.options == {}


def test_cpus_are_those_of_a_cluster_that_is_started_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_cluster, "import_ray", lambda **_: FakeRay())
    with (
        pytest.raises(MllamaError, match="--ray-cpus is for a cluster"),
        ray_cluster.ray_cluster("auto", 4),
    ):
        pass


def test_why_no_replica_starts_is_one_line() -> None:
    message = f"""The deployment failed to start 2 times in a row. Error:
ray::ServeReplica:mllama:Replica.initialize_and_get_metadata() (pid=1, ip=10.0.0.2)
  File "replica.py", line 80, in __init__
mllama.cluster.replica.ReplicaStartError: {START_ERROR}node 10.0.0.2: no memory
"""
    assert _start_failure(message) == (
        "no replica can be started: node 10.0.0.2: no memory"
    )
    assert _start_failure("one\nlast line\n") == "no replica can be started: last line"
    assert _start_failure("").endswith("Ray says no reason")


def test_a_node_without_this_package_is_named() -> None:
    text = _unchecked("10.0.0.2", RuntimeError("No module named 'mllama'"))
    assert text == (
        "node 10.0.0.2 lacks this package or a part of it: pip install "
        "'mllama[cluster]' there"
    )
    assert _unchecked("10.0.0.2", RuntimeError("it\ndied")) == (
        "node 10.0.0.2 can't be checked: it died"
    )
