"""Options of a cluster, and the checks of its nodes."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from mllama.cluster.messages import Failure, NumberedImageError
from mllama.cluster.nodes import (
    NodeReport,
    check_room,
    compare,
    installed_versions,
    places,
)
from mllama.cluster.options import ClusterOptions
from mllama.errors import ImageDecodeError, MllamaError
from mllama.launch.options import EngineOptions


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"replicas": 0}, "--replicas must be at least 1, not 0"),
        (
            {"replicas": 3, "max_replicas": 2},
            "--max-replicas must be at least --replicas 3, not 2",
        ),
        ({"max_ongoing_requests": 0}, "--max-ongoing-requests must be at least 1"),
        ({"replica_cpus": -1.0}, "--replica-cpus must be at least 0, not -1"),
        ({"fallback_replicas": -1}, "--fallback-replicas must be at least 0"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(MllamaError) as raised:
        ClusterOptions(**options)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("gpus", "devices", "reserved", "used"),
    [
        (None, None, 0, "cpu"),
        (None, "cpu", 0, "cpu"),
        (None, "gpu", 1, "gpu"),
        (None, "gpu-0,gpu-1", 2, "gpu-0,gpu-1"),
        (1, None, 1, "gpu"),
        (0.5, None, 0.5, "gpu"),
        (2, None, 2, "gpu-0,gpu-1"),
        (None, "CPU", 0, "cpu"),
        (None, "gpu:0, 1", 2, "gpu:0,1"),
        (0.5, "gpu", 0.5, "gpu"),
        (2, "gpu:all", 2, "gpu:all"),
    ],
)
def test_reserved_gpus_are_those_that_are_used(
    gpus: float | None, devices: str | None, reserved: float, used: str
) -> None:
    cluster, engine = ClusterOptions(replica_gpus=gpus).for_engine(
        EngineOptions(devices=devices)
    )
    assert (cluster.replica_gpus, engine.devices) == (reserved, used)


@pytest.mark.parametrize(
    ("gpus", "devices"), [(1, "cpu"), (0, "gpu"), (1, "gpu-0,gpu-1"), (2, "gpu")]
)
def test_devices_and_gpus_that_contradict_each_other_are_refused(
    gpus: float, devices: str
) -> None:
    with pytest.raises(MllamaError, match="contradict each other"):
        ClusterOptions(replica_gpus=gpus).for_engine(EngineOptions(devices=devices))


def test_all_gpus_need_a_number_to_reserve() -> None:
    with pytest.raises(MllamaError, match="how many GPUs"):
        ClusterOptions().for_engine(EngineOptions(devices="gpu:all"))


def test_a_replica_takes_twice_its_batch() -> None:
    assert ClusterOptions().ongoing_requests(4) == 8
    assert ClusterOptions(max_ongoing_requests=3).ongoing_requests(4) == 3


def node(cpus: float, gpus: float = 0, name: str = "10.0.0.1") -> dict[str, Any]:
    resources = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    return {"NodeManagerAddress": name, "Resources": resources}


@pytest.mark.parametrize(
    ("resources", "cpus", "gpus", "room"),
    [
        ({"CPU": 4.0}, 1, 0, 4),
        ({"CPU": 4.0}, 1.5, 0, 2),
        ({"CPU": 4.0}, 1, 1, 0),
        ({"CPU": 64.0, "GPU": 2.0}, 8, 1, 2),
        ({}, 0, 0, 3),
    ],
)
def test_a_node_has_room_for_whole_replicas(
    resources: dict[str, float], cpus: float, gpus: float, room: int
) -> None:
    cluster = ClusterOptions(replicas=3, replica_cpus=cpus, replica_gpus=gpus)
    assert places(resources, cluster) == room


def test_replicas_that_do_not_fit_are_refused() -> None:
    nodes = [node(2), node(1, name="10.0.0.2")]
    check_room(nodes, ClusterOptions(replicas=3))
    with pytest.raises(MllamaError) as raised:
        check_room(nodes, ClusterOptions(replicas=1, max_replicas=4))
    assert str(raised.value) == (
        "4 replicas of 1 CPUs and 0 GPUs each don't fit into the cluster, which has "
        "room for 3 (10.0.0.1 with 2 CPUs and 0 GPUs, 10.0.0.2 with 1 CPUs and 0 "
        "GPUs): use fewer --replicas, less --replica-cpus, or more nodes"
    )


def test_a_node_with_other_versions_is_named() -> None:
    own = installed_versions()
    compare("10.0.0.2", NodeReport(own))
    with pytest.raises(MllamaError) as raised:
        compare("10.0.0.2", NodeReport(own | {"MAX": "26.6.0", "Python": "3.9"}))
    assert str(raised.value) == (
        "node 10.0.0.2 has other versions than this one: Python 3.9 there and "
        f"{own['Python']} here, MAX 26.6.0 there and {own['MAX']} here; install the "
        "same on all nodes"
    )


def test_a_node_that_can_not_load_the_model_is_named() -> None:
    report = NodeReport(installed_versions(), "/models/x does not exist")
    with pytest.raises(MllamaError) as raised:
        compare("10.0.0.2", report)
    assert str(raised.value) == (
        "node 10.0.0.2 can't serve the model: /models/x does not exist"
    )


def test_errors_survive_the_way_to_the_front() -> None:
    failure = Failure.of(NumberedImageError("image 2: it is broken", 2))
    assert failure is not None
    error = failure.error()
    assert isinstance(error, NumberedImageError)
    assert (str(error), error.number) == ("image 2: it is broken", 2)
    damaged = Failure.of(ImageDecodeError("its pixels are damaged"))
    assert damaged is not None
    assert type(damaged.error()) is ImageDecodeError
    assert Failure.of(ValueError("a bug")) is None


def test_options_of_replicas_are_plain_data() -> None:
    options = ClusterOptions(replicas=3)
    assert pickle.loads(pickle.dumps(options)) == options
    names = {field.name for field in dataclasses.fields(EngineOptions)}
    assert names.isdisjoint(field.name for field in dataclasses.fields(ClusterOptions))
