"""Nothing beside an adapter is left out silently, and an adapter isn't a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from mllama.cli.main import group
from mllama.config import MllamaConfig
from mllama.errors import CheckpointError, MllamaError
from mllama.launch.resolve import resolve_model_files
from mllama.weights.lora.adapter import open_adapter
from mllama.weights.lora.surroundings import check_is_not_adapter
from tests.reference.adapters import edit_config, write_adapter
from tests.reference.checkpoints import checkpoint


@pytest.fixture(scope="module")
def valid_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    write_adapter(folder, checkpoint(), r=4, target_modules=["q_proj"])
    edit_config(folder, base_model_name_or_path="owner/base-model")
    return folder


@pytest.fixture
def adapter(valid_adapter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(valid_adapter, tmp_path / "adapter"))


def open_here(folder: Path) -> None:
    open_adapter(folder, MllamaConfig.from_path(checkpoint()))


@pytest.mark.parametrize(
    "name",
    [
        "non_lora_state_dict.bin",
        "non_lora_trainables.bin",
        "mm_projector.bin",
        "multi_modal_projector.safetensors",
        "embedding.pth",
        "value_head.safetensors",
        "model.safetensors",
        "pytorch_model.bin",
    ],
)
def test_weights_beside_an_adapter_are_refused_by_name(
    adapter: Path, name: str
) -> None:
    save_file({"x": np.zeros(3, np.float32)}, adapter / name)
    with pytest.raises(CheckpointError) as caught:
        open_here(adapter)
    assert f"would not be used: {name};" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    [
        "adapter_model.bin",
        "optimizer.pt",
        "optimizer_0.bin",
        "scheduler.pt",
        "scaler.pt",
        "rng_state.pth",
        "rng_state_3.pth",
        "training_args.bin",
        "trainer_state.json",
        "tokenizer.json",
    ],
)
def test_the_training_state_is_not_a_part_of_the_model(
    adapter: Path, name: str
) -> None:
    (adapter / name).write_bytes(b"x")
    open_here(adapter)


def test_a_whole_model_beside_an_adapter_is_no_part_of_it(adapter: Path) -> None:
    shutil.copytree(checkpoint(), adapter, dirs_exist_ok=True)
    open_here(adapter)
    (adapter / "non_lora_state_dict.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="would not be used: non_lora_state"):
        open_here(adapter)


def test_an_adapter_as_the_model_points_to_lora_path(adapter: Path) -> None:
    message = (
        f"{adapter} is a LoRA adapter for owner/base-model, not a whole model: give "
        "its directory as --lora-path, and owner/base-model as --model-path"
    )
    with pytest.raises(MllamaError) as caught:
        resolve_model_files(str(adapter), device_type="cpu")
    assert str(caught.value) == message
    for args in (
        ["quantize", str(adapter), str(adapter / "x.gguf")],
        ["compile", "--model-path", str(adapter), "--output", str(adapter / "x")],
    ):
        done = CliRunner().invoke(group, args)
        assert str(done.exception) == message


@pytest.mark.parametrize("content", ["", "[", "[]", "{}", '{"r": 3}', "[" * 100_000])
def test_settings_that_name_no_base_model_are_enough(
    adapter: Path, content: str
) -> None:
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(CheckpointError, match="the model that it was trained on as"):
        check_is_not_adapter(adapter)


def test_a_name_of_a_base_model_stays_on_one_line(adapter: Path) -> None:
    edit_config(adapter, base_model_name_or_path="a\n" * 1000)
    with pytest.raises(CheckpointError) as caught:
        check_is_not_adapter(adapter)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600


def test_an_adapter_in_a_models_directory_is_announced(
    adapter: Path, tmp_path: Path
) -> None:
    both = Path(shutil.copytree(checkpoint(), tmp_path / "both"))
    assert resolve_model_files(str(both), device_type="cpu").notes == ()
    shutil.copytree(adapter, both, dirs_exist_ok=True)
    files = resolve_model_files(str(both), device_type="cpu")
    (note,) = files.notes
    assert note == (
        f"{both} also has a LoRA adapter, which is not used; --lora-path {both} "
        "merges it"
    )
    assert files.lines() == [files.summary(), note]
    merged = resolve_model_files(str(both), device_type="cpu", lora_path=both)
    assert (merged.notes, merged.lora_path) == ((), both)
    other = resolve_model_files(str(both), device_type="cpu", lora_path=adapter)
    assert other.notes == (note,)


def test_quantize_announces_it_too(adapter: Path, tmp_path: Path) -> None:
    both = Path(shutil.copytree(checkpoint(), tmp_path / "both"))
    shutil.copytree(adapter, both, dirs_exist_ok=True)
    config = json.loads((both / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] += 1  # Ends before anything is written.
    (both / "config.json").write_text(json.dumps(config))
    args = ["quantize", str(both), str(tmp_path / "x.gguf")]
    done = CliRunner().invoke(group, args)
    assert "lacks the tensor" in str(done.exception)
    assert f"mllama: {both} also has a LoRA adapter, which is not used" in done.output
