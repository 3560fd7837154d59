"""Headers of weights on the hub are checked before the weights are downloaded."""

from __future__ import annotations

import json

import pytest

from mllama.hub.remote_headers import gguf_architecture
from tests.hub.conftest import DEMO, NAME, Machine, assert_no_weights_downloaded
from tests.hub.stand_in import StandInHub

WEIGHTS = DEMO["model.safetensors"]


@pytest.mark.parametrize("ignore_ranges", [False, True])
def test_weights_of_another_shape_are_refused(
    hub: StandInHub, machine: Machine, ignore_ranges: bool
) -> None:
    """A store that ignores ranges must not make the check download everything."""
    hub.ignore_ranges = ignore_ranges
    config = json.loads(DEMO["config.json"])
    config["text_config"]["intermediate_size"] *= 2
    hub.repositories[NAME].commit(DEMO | {"config.json": json.dumps(config).encode()})
    error = machine.download().error
    assert "has shape" in error
    assert "they belong to different models" in error
    assert_no_weights_downloaded(hub)


def test_quantized_tensors_are_refused(hub: StandInHub, machine: Machine) -> None:
    """Such as those of bitsandbytes, which have this model's configuration."""
    weights = WEIGHTS.replace(b'"F32"', b'"U32"')
    hub.repositories[NAME].commit(DEMO | {"model.safetensors": weights})
    assert "elements of type U32" in machine.download().error
    assert_no_weights_downloaded(hub)


def test_a_truncated_upload_is_refused(hub: StandInHub, machine: Machine) -> None:
    hub.repositories[NAME].commit(DEMO | {"model.safetensors": WEIGHTS[:-1000]})
    error = machine.download().error
    assert f"{NAME}/model.safetensors is damaged" in error
    assert "bytes of data instead of" in error
    assert_no_weights_downloaded(hub)


def test_missing_tensors_are_refused(hub: StandInHub, machine: Machine) -> None:
    weights = WEIGHTS.replace(b"language_model.model.norm.weight", b"x" * 32)
    weights = weights.replace(b"model.language_model.norm.weight", b"x" * 32)
    assert weights != WEIGHTS
    hub.repositories[NAME].commit(DEMO | {"model.safetensors": weights})
    assert f"{NAME} lacks the tensor" in machine.download().error
    assert_no_weights_downloaded(hub)


def _text(value: bytes) -> bytes:
    return len(value).to_bytes(8, "little") + value


KEY = _text(b"general.architecture") + (8).to_bytes(4, "little") + _text(b"mllama")
ALIGNMENT = _text(b"general.alignment") + (4).to_bytes(4, "little") + bytes(4)
MODEL_NAME = _text(b"general.name") + (8).to_bytes(4, "little") + _text(b"x")
LIST = _text(b"a.list") + (9).to_bytes(4, "little") + bytes(12)


@pytest.mark.parametrize(
    ("keys", "architecture"),
    [
        (KEY, "mllama"),
        (ALIGNMENT + MODEL_NAME + KEY, "mllama"),
        (LIST + KEY, None),
        (KEY[:-1], None),
        (b"", None),
        (b"\xff" * 99, None),
        (_text(b"\xff\xfe") + KEY, None),
    ],
)
def test_the_first_bytes_of_a_gguf_file_name_its_architecture(
    keys: bytes, architecture: str | None
) -> None:
    assert gguf_architecture(b"GGUF" + bytes(20) + keys) == architecture
