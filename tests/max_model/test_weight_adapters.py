"""A LoRA adapter is merged into copies of the mapped weights."""

from __future__ import annotations

import logging
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from max.driver import Buffer
from max.dtype import DType
from max.graph.weights import WeightData, load_weights
from safetensors.numpy import load_file, save_file

from mllama.config import MllamaConfig
from mllama.errors import MllamaError
from mllama.max_model.weight_adapters import (
    canonical_state_dict,
    merge_adapter,
    served_state_dict,
)
from mllama.utils.bfloat16 import from_bfloat16, to_bfloat16
from mllama.weights.names import canonical_name, expected_tensors
from tests.reference.adapters import Merged, write_adapter
from tests.reference.checkpoints import checkpoint
from tests.reference.configs import Spelling
from tests.weights.quantized.quantizing import float8_per_row, write_quantized


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Merged:
    return write_adapter(
        tmp_path_factory.mktemp("adapter"),
        checkpoint(),
        r=4,
        target_modules=["q_proj", "fc1", "embed_tokens"],
        modules_to_save=["lm_head"],
        bias="lora_only",
    )


def state_of(folder: Path) -> dict[str, WeightData]:
    files = sorted(folder.glob("*.safetensors"))
    return canonical_state_dict(dict(load_weights(files).items()))


def values_of(data: WeightData) -> np.ndarray:
    buffer = data.to_buffer()
    if data.dtype == DType.bfloat16:
        bits = buffer.view(DType.uint16, buffer.shape).to_numpy()
        return from_bfloat16(bits)
    return np.asarray(buffer.to_numpy())


def test_only_tensors_that_an_adapter_changes_are_copied(
    made: Merged, caplog: pytest.LogCaptureFixture
) -> None:
    config = MllamaConfig.from_path(checkpoint())
    state = state_of(checkpoint())
    with caplog.at_level(logging.INFO, "mllama"):
        merged = merge_adapter(state, made.folder, config, DType.float32)
    changed = {name for name in state if merged[name] is not state[name]}
    assert f"into {len(changed)} tensors" in caplog.text
    assert str(made.folder) in caplog.text
    assert merged.keys() == state.keys()
    for name, wanted in made.weights.items():
        found = values_of(merged[name])
        if name in changed:
            scale = np.abs(wanted).max()
            assert np.abs(found - wanted).max() <= 2e-6 * scale
            assert not np.array_equal(values_of(state[name]), wanted)
        else:
            assert np.array_equal(found, wanted)


@pytest.mark.parametrize("names", ["old", "new"])
def test_bfloat16_is_rounded_once(tmp_path: Path, names: Spelling) -> None:
    base = checkpoint(dtype="bfloat16", names=names)
    made = write_adapter(tmp_path, base, r=4, target_modules=["k_proj", "lm_head"])
    config = MllamaConfig.from_path(base)
    state = state_of(base)
    exact = merge_adapter(state, tmp_path, config, DType.float32)
    rounded = merge_adapter(state, tmp_path, config, DType.bfloat16)
    changed = {name for name in state if rounded[name] is not state[name]}
    assert len(changed) > 1
    for name in changed:
        wanted = made.weights[name]
        assert exact[name].dtype == DType.float32
        assert rounded[name].dtype == DType.bfloat16
        assert np.abs(values_of(exact[name]) - wanted).max() < 1e-5
        off = np.abs(values_of(rounded[name]) - wanted)
        assert (off <= np.abs(wanted) * 2**-8 * 1.01 + 1e-6).all()
        assert off.max() > 0


def test_a_tensor_of_another_shape_is_rejected_by_name(
    made: Merged, tmp_path: Path
) -> None:
    tensors = load_file(checkpoint() / "model.safetensors")
    name = "language_model.lm_head.weight"
    tensors[name] = np.ascontiguousarray(tensors[name][:, :-1])
    save_file(tensors, tmp_path / "model.safetensors")
    config = MllamaConfig.from_path(checkpoint())
    state = state_of(tmp_path)
    with pytest.raises(MllamaError, match=r"lm_head\.weight has shape"):
        merge_adapter(state, made.folder, config, DType.float32)


def test_a_tensor_of_integers_is_rejected_by_name(made: Merged) -> None:
    config = MllamaConfig.from_path(checkpoint())
    state = state_of(checkpoint())
    name = "lm_head.weight"
    integers = Buffer.from_numpy(np.zeros(state[name].to_buffer().shape, np.int8))
    state[name] = WeightData(integers, name, DType.int8, state[name].shape)
    with pytest.raises(MllamaError, match="has the data type int8"):
        merge_adapter(state, made.folder, config, DType.float32)


@pytest.mark.parametrize("dtype", [DType.float32, DType.bfloat16])
def test_quantized_tensors_are_dequantized(dtype: DType, tmp_path: Path) -> None:
    wanted = {
        canonical_name(name): values.numpy()
        for name, values in write_quantized(tmp_path, float8_per_row).items()
    }
    config = MllamaConfig.from_path(tmp_path)
    files = Mock(
        weight_path=sorted(tmp_path.glob("*.safetensors")), model_path=str(tmp_path)
    )
    state = state_of(tmp_path)
    served = served_state_dict(state, files, config, dtype)
    assert served.keys() == expected_tensors(config).keys()
    for name, data in served.items():
        if name not in wanted:
            assert data is state[name]
            continue
        assert data.dtype == dtype
        floats = wanted[name]
        if dtype == DType.bfloat16:
            floats = from_bfloat16(to_bfloat16(floats))
        assert np.array_equal(values_of(data), floats)
    shapes = served_state_dict(state, files, config, dtype, only_shapes=True)
    for name, data in shapes.items():
        assert (data.dtype, data.shape) == (served[name].dtype, served[name].shape)
        assert name not in wanted or not values_of(data).any()
