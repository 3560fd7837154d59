"""``--devices`` is parsed on machines with and without GPUs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from max.driver import DeviceSpec

from mllama.errors import MllamaError
from mllama.launch.devices import find_devices

Machine = Callable[[int], None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Returns a function that gives this machine a number of GPUs."""

    def with_gpus(count: int) -> None:
        gpus = [DeviceSpec.accelerator(number) for number in range(count)]
        monkeypatch.setattr(
            "max.driver.scan_available_devices", lambda: [*gpus, DeviceSpec.cpu()]
        )

    return with_gpus


@pytest.mark.parametrize(
    ("requested", "found"),
    [
        (None, ("gpu", 0)),
        ("cpu", ("cpu", -1)),
        ("GPU", ("gpu", 0)),
        ("gpu:1", ("gpu", 1)),
        ("gpu-1", ("gpu", 1)),
        (" gpu:0 ", ("gpu", 0)),
    ],
)
def test_a_name_selects_one_device(
    machine: Machine, requested: str | None, found: tuple[str, int]
) -> None:
    machine(2)
    (spec,) = find_devices(requested)
    assert (spec.device_type, spec.id) == found


def test_the_default_without_a_gpu_is_the_cpu(machine: Machine) -> None:
    machine(0)
    assert find_devices(None) == find_devices("cpu") == [DeviceSpec.cpu()]


def test_all_gpus_of_a_machine_with_one(machine: Machine) -> None:
    machine(1)
    assert [spec.id for spec in find_devices("gpu:all")] == [0]


@pytest.mark.parametrize(
    ("requested", "ids"),
    [
        ("gpu:0,1", [0, 1]),
        ("gpu-0,gpu-1", [0, 1]),
        ("gpu:0,gpu-1", [0, 1]),
        ("gpu-1, gpu-0", [1, 0]),
        ("gpu:all", [0, 1]),
    ],
)
def test_several_gpus_keep_their_order(
    machine: Machine, requested: str, ids: list[int]
) -> None:
    machine(2)
    assert [spec.id for spec in find_devices(requested)] == ids


@pytest.mark.parametrize(
    ("gpus", "requested", "message"),
    [
        (2, "gpu:2", "there is no GPU 2; this machine has gpu:0, gpu:1"),
        (2, "gpu-0,gpu-7", "there is no GPU 7"),
        (2, "gpu:1,1", "names GPU 1 twice"),
        (2, "gpu-0,gpu:0", "names GPU 0 twice"),
        (2, "cpu,gpu:0", "names the CPU and GPUs"),
        (0, "gpu", "MAX finds no GPU on this machine; use --devices cpu"),
        (0, "gpu-0,gpu-1", "MAX finds no GPU"),
        (0, "gpu:all", "MAX finds no GPU"),
        *(
            (2, requested, "is not a device: use cpu, gpu, gpu:N")
            for requested in (
                "tpu",
                "gpu:",
                "gpu0",
                "gpu:a",
                "gpu:0,",
                "0",
                "gpu:-1",
                ",",
            )
        ),
    ],
)
def test_bad_devices_are_refused(
    machine: Machine, gpus: int, requested: str, message: str
) -> None:
    machine(gpus)
    with pytest.raises(MllamaError, match=message):
        find_devices(requested)
