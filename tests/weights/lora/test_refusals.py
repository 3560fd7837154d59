"""Adapters that can't be merged are refused in one line."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mllama.config import MllamaConfig
from mllama.errors import MllamaError
from mllama.weights.lora.adapter import Adapter, check_values, open_adapter
from tests.reference.adapters import (
    CONFIG,
    PREFIX,
    WEIGHTS,
    edit_config,
    edit_weights,
    write_adapter,
)
from tests.reference.checkpoints import checkpoint

QUERY = f"{PREFIX}model.language_model.layers.0.self_attn.q_proj"
HEAD = f"{PREFIX}lm_head.weight"


@pytest.fixture(scope="session")
def valid_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that can be merged."""
    folder = tmp_path_factory.mktemp("adapter")
    write_adapter(
        folder,
        checkpoint(),
        r=4,
        target_modules=["q_proj", "fc1", "embed_tokens"],
        modules_to_save=["lm_head"],
    )
    return folder


@pytest.fixture
def adapter(valid_adapter: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(valid_adapter, tmp_path / "adapter"))


def opened(folder: Path) -> Adapter:
    adapter = open_adapter(folder, MllamaConfig.from_path(checkpoint()))
    check_values(adapter)
    return adapter


def refusal(folder: Path) -> str:
    with pytest.raises(MllamaError) as caught:
        opened(folder)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_the_unchanged_adapter_opens(adapter: Path) -> None:
    assert opened(adapter).changes


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"peft_type": "IA3"}, "of the type 'IA3'; only LORA is supported"),
        ({"peft_type": "PROMPT_TUNING"}, "of the type 'PROMPT_TUNING'"),
        ({"peft_type": "ADALORA"}, "of the type 'ADALORA'"),
        ({"peft_type": None}, "of the type None"),
        ({"peft_type": ["LORA"]}, r"of the type \[\'LORA\'\]"),
        ({"r": 8}, "has the rank 4, but adapter_config.json says 8"),
        ({"r": 0}, "r must be greater than or equal to 1, not 0"),
        ({"r": True}, "r must be a valid integer, not True"),
        ({"r": "4"}, "r must be a valid integer, not '4'"),
        ({"lora_alpha": "16"}, "lora_alpha must be a valid number, not '16'"),
        ({"lora_alpha": 0}, "lora_alpha must be greater than 0"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a (finite|valid) number"),
        ({"use_rslora": 1}, "use_rslora must be a valid boolean, not 1"),
        ({"use_dora": True}, "lacks lora_magnitude_vector"),
        ({"lora_bias": True}, "lacks lora_B.bias"),
        ({"use_qalora": True}, "made with 'use_qalora'"),
        ({"use_something_new": True}, "made with 'use_something_new'"),
        ({"arrow_config": {"top_k": 2}}, "made with 'arrow_config'"),
        ({"alora_invocation_tokens": [1]}, "made with 'alora_invocation_tokens"),
        ({"trainable_token_indices": [1]}, "made with 'trainable_token_indices"),
        ({"target_parameters": ["weight"]}, "made with 'target_parameters"),
        ({"layer_replication": [[0, 2]]}, "made with 'layer_replication"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "merge it with PEFT's merge_and_unload"),
        ({"init_lora_weights": "loftq"}, "changes the base model's weights"),
        ({"rank_pattern": {"q_proj": 2}}, "has the rank 4, but .* says 2"),
        (
            {"rank_pattern": {"q_proj": 2.5}},
            "rank_pattern.q_proj must be a valid integer, not 2.5",
        ),
        ({"rank_pattern": {"q_proj": True}}, "q_proj must be a valid integer"),
        ({"rank_pattern": []}, "rank_pattern must be a valid dictionary"),
        (
            {"alpha_pattern": {"q_proj": -1}},
            "alpha_pattern.q_proj must be greater",
        ),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern must be a valid dictionary"),
        (
            {"alpha_pattern": {"(": 1}},
            r"regular expressions as keys \(miss",
        ),
        (
            {"alpha_pattern": {"a" * 2000: 1}},
            r"regular expressions as keys \(too",
        ),
        ({"alpha_pattern": {r"(.|..|...)*\d{9}": 1}}, "takes too long"),
        ({"modules_to_save": "lm_head"}, "modules_to_save must be a list"),
        ({"modules_to_save": ["embed_tokens", "norm"]}, "names norm in modules_to_sav"),
        (
            {"base_model_name_or_path": 3},
            "base_model_name_or_path must be a",
        ),
    ],
    ids=str,
)
def test_unsupported_or_invalid_settings_are_refused(
    adapter: Path, changes: dict[str, Any], complaint: str
) -> None:
    edit_config(adapter, **changes)
    assert re.search(complaint, refusal(adapter))


def reshaped(name: str, *shape: int) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        tensors[name] = torch.zeros(shape)

    return change


def copied(name: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        tensors[new] = tensors[name].clone()

    return change


def dropped(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors.pop(name)


def converted(name: str, dtype: torch.dtype) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        tensors[name] = tensors[name].to(dtype)

    return change


def with_last_value(name: str, value: float) -> Callable[[dict[str, Any]], None]:
    def change(tensors: dict[str, Any]) -> None:
        tensors[name].view(-1)[-1] = value

    return change


OLD_QUERY = f"{PREFIX}language_model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            copied(HEAD, f"{PREFIX}model.layers.0.q.lora_A.weight"),
            "layers.0.q.lora_A.weight matches no tensor of this model",
        ),
        (
            copied(HEAD, f"{PREFIX}score.weight"),
            "score.weight matches no tensor of this model; the adapter was made for",
        ),
        (copied(HEAD, f"{QUERY}.lora_diag"), "lora_diag matches no tensor"),
        (
            copied(HEAD, f"{PREFIX}model.language_model.norm.lora_A.weight"),
            "norm is not a matrix",
        ),
        (
            dropped(f"{QUERY}.lora_B.weight"),
            "q_proj lacks lora_B.weight; the adapter is",
        ),
        (dropped(HEAD), "names lm_head in modules_to_save"),
        (
            reshaped(HEAD, 3, 5),
            "lm_head.weight has shape [3, 5], but the model requires",
        ),
        (reshaped(f"{QUERY}.lora_A.weight", 4, 7), "has lora_A.weight of shape [4, 7]"),
        (reshaped(f"{QUERY}.lora_B.weight", 7, 4), "has lora_B.weight of shape [7, 4]"),
        (reshaped(f"{QUERY}.lora_A.weight"), "has lora_A.weight of shape []"),
        (reshaped(f"{QUERY}.lora_A.weight", 0), "has lora_A.weight of shape [0]"),
        (
            copied(HEAD, f"{QUERY}.lora_magnitude_vector"),
            "has lora_magnitude_vector, which adapter_config.json doesn't mention",
        ),
        (copied(HEAD, f"{QUERY}.lora_embedding_A"), "has lora_embedding_A, which"),
        (copied(HEAD, f"{PREFIX}model.lm_head.weight"), "has lm_head.weight twice"),
        (
            lambda tensors: tensors.update(
                {
                    f"{OLD_QUERY}.lora_{p}.weight": tensors[
                        f"{QUERY}.lora_{p}.weight"
                    ].clone()
                    for p in "AB"
                }
            ),
            "changes language_model.layers.0.self_attn.q_proj.weight twice",
        ),
        (converted(HEAD, torch.int8), "has elements of type I8, but only F32, BF16"),
        (
            with_last_value(f"{QUERY}.lora_A.weight", float("nan")),
            "values that are NaN or infin",
        ),
        (
            with_last_value(f"{QUERY}.lora_B.weight", float("inf")),
            "values that are NaN or infin",
        ),
        (with_last_value(HEAD, -float("inf")), "lm_head.weight of "),
        (lambda tensors: tensors.clear(), "has no tensors"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    adapter: Path, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    edit_weights(adapter, change)
    assert complaint in refusal(adapter)


def test_a_bias_for_a_module_without_one_is_refused(adapter: Path) -> None:
    edit_config(adapter, lora_bias=True)

    def change(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if name.endswith("lora_B.weight")]:
            rows = len(tensors[name])
            tensors[name.removesuffix("weight") + "bias"] = torch.zeros(rows)

    edit_weights(adapter, change)
    assert "q_proj has no bias, to which lora_bias could add" in refusal(adapter)


@pytest.mark.parametrize("value", [3e38, 1e30])
def test_a_sum_beyond_float32_is_refused(adapter: Path, value: float) -> None:
    for part in "AB":
        edit_weights(adapter, with_last_value(f"{QUERY}.lora_{part}.weight", value))
    change = opened(adapter).changes["language_model.layers.0.self_attn.q_proj.weight"]
    shape = (change.up.shape[0], change.down.shape[1])  # type: ignore[union-attr]
    with pytest.raises(MllamaError, match=r"q isn't finite after merging the adapter"):
        change.apply("q", np.zeros(shape, np.float32))


def test_a_pickle_is_refused_with_the_way_out(adapter: Path) -> None:
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    assert "runs code when read" in refusal(adapter)


def test_missing_files_are_named(adapter: Path) -> None:
    assert "there is no directory" in refusal(adapter / "nowhere")
    (adapter / WEIGHTS).unlink()
    assert f"has no {WEIGHTS}; it is incomplete" in refusal(adapter)
    (adapter / CONFIG).unlink()
    assert f"has no {CONFIG}; --lora-path takes" in refusal(adapter)
    assert "a whole model, which --model-path takes" in refusal(checkpoint())


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "1" * 5000, "[" * 100_000])
def test_damaged_settings_are_refused(adapter: Path, content: str) -> None:
    (adapter / CONFIG).write_text(content)
    assert CONFIG in refusal(adapter)


def test_a_huge_settings_file_is_refused(adapter: Path) -> None:
    with (adapter / CONFIG).open("ab") as file:
        file.truncate(20_000_000)
    assert "is not JSON" in refusal(adapter)


def test_an_interrupted_download_is_damaged(adapter: Path) -> None:
    content = (adapter / WEIGHTS).read_bytes()
    for length in (0, 5, 100, len(content) - 1):
        (adapter / WEIGHTS).write_bytes(content[:length])
        assert "download it again" in refusal(adapter)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), min_size=1),
    st.sampled_from([CONFIG, WEIGHTS]),
)
def test_damage_is_read_or_refused(
    valid_adapter: Path,
    tmp_path: Path,
    changes: list[tuple[int, int]],
    name: str,
) -> None:
    shutil.copytree(valid_adapter, tmp_path, dirs_exist_ok=True)
    content = bytearray((tmp_path / name).read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    (tmp_path / name).write_bytes(content)
    # Anything but a refusal would be a traceback to the user.
    with contextlib.suppress(MllamaError):
        opened(tmp_path)
