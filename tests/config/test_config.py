"""The config is read as transformers reads it; nonsense is refused by field."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllama.config import Llama3RopeScaling, MllamaConfig
from mllama.errors import ConfigError
from tests.reference.configs import config_json, published_widths_config, tiny_config

SOUND = config_json(tiny_config(), rope_spelling="old", dtype="float32")


def changed(section: str | None, **fields: Any) -> dict[str, Any]:
    values = copy.deepcopy(SOUND)
    (values[section] if section else values).update(fields)
    return values


def test_old_and_new_spelling_mean_the_same() -> None:
    reference = published_widths_config()
    old, new = (
        MllamaConfig.from_dict(
            config_json(reference, rope_spelling=spelling, dtype="bfloat16")
        )
        for spelling in ("old", "new")
    )
    assert old == new
    assert old.dtype == "bfloat16"
    assert old.text_config.rope_theta == 500000.0
    assert old.text_config.rope_scaling == Llama3RopeScaling(8.0, 1.0, 4.0, 8192)


def test_oldest_rope_spelling_has_type_instead_of_rope_type() -> None:
    scaling = {"type": "llama3", "factor": 2.0}
    config = MllamaConfig.from_dict(changed("text_config", rope_scaling=scaling))
    assert config.text_config.rope_scaling is not None
    assert config.text_config.rope_scaling.factor == 2.0


def test_missing_fields_take_transformers_defaults() -> None:
    from transformers import MllamaConfig as Reference

    ours, theirs = MllamaConfig.from_dict({"model_type": "mllama"}), Reference()
    for name in ("text_config", "vision_config"):
        for field, value in vars(getattr(ours, name)).items():
            if field in ("rope_theta", "rope_scaling", "eos_token_id"):
                continue
            expected = getattr(getattr(theirs, name), field)
            if isinstance(expected, list):
                expected = tuple(
                    tuple(e) if isinstance(e, list) else e for e in expected
                )
            assert value == expected, field
    assert ours.image_token_index == theirs.image_token_index
    assert ours.text_config.rope_theta == theirs.text_config.default_theta
    assert ours.text_config.eos_token_id == (theirs.text_config.eos_token_id,)


def test_what_transformers_hands_to_max_is_understood() -> None:
    reference = tiny_config()
    values = reference.to_dict()
    config = MllamaConfig.from_dict(values)
    assert config.text_config.hidden_size == reference.text_config.hidden_size


@pytest.mark.parametrize("eos", [7, [7, 8], None])
def test_eos_token_id_may_be_one_several_or_none(eos: Any) -> None:
    config = MllamaConfig.from_dict(changed("text_config", eos_token_id=eos))
    expected = () if eos is None else (7,) if eos == 7 else (7, 8)
    assert config.text_config.eos_token_id == expected


def test_published_vision_geometry() -> None:
    vision = MllamaConfig.from_dict(
        config_json(published_widths_config(), rope_spelling="old", dtype="bfloat16")
    ).vision_config
    assert (vision.num_patches, vision.padded_patches) == (1601, 1608)
    assert vision.max_aspect_ratio_id == 8


@pytest.mark.parametrize(
    ("section", "fields", "named"),
    [
        ("text_config", {"num_attention_heads": 7}, "num_attention_heads"),
        ("text_config", {"num_key_value_heads": 3}, "num_key_value_heads"),
        ("text_config", {"cross_attention_layers": [99]}, "cross_attention_layers"),
        ("text_config", {"cross_attention_layers": [1, 1]}, "cross_attention_layers"),
        ("text_config", {"cross_attention_layers": "3"}, "cross_attention_layers"),
        ("text_config", {"hidden_size": 0}, "hidden_size"),
        ("text_config", {"vocab_size": True}, "vocab_size"),
        ("text_config", {"num_hidden_layers": 10**12}, "num_hidden_layers"),
        ("text_config", {"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ("text_config", {"rope_theta": 10**400}, "rope_theta"),
        ("text_config", {"rope_scaling": {"rope_type": "yarn"}}, "yarn"),
        ("text_config", {"rope_scaling": ["llama3"]}, "rope_scaling"),
        ("text_config", {"hidden_act": "relu"}, "relu"),
        ("text_config", {"hidden_act": ["silu"]}, "hidden_act"),
        ("text_config", {"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ("text_config", {"eos_token_id": "2"}, "eos_token_id"),
        ("vision_config", {"attention_heads": 7}, "attention_heads"),
        ("vision_config", {"hidden_act": "quick_gelu"}, "quick_gelu"),
        (
            "vision_config",
            {"intermediate_layers_indices": [99]},
            "intermediate_layers_indices",
        ),
        ("vision_config", {"vision_output_dim": 1}, "vision_output_dim"),
        ("vision_config", {"image_size": 57}, "image_size"),
        (
            "vision_config",
            {"supported_aspect_ratios": [[3, 3]]},
            "supported_aspect_ratios",
        ),
        ("vision_config", {"supported_aspect_ratios": 5}, "supported_aspect_ratios"),
        (None, {"image_token_index": 10**6}, "image_token_index"),
        (None, {"dtype": 16}, "dtype"),
        (None, {"text_config": []}, "text_config"),
    ],
)
def test_contradiction_names_the_field(
    section: str | None, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        MllamaConfig.from_dict(changed(section, **fields))
    assert "\n" not in str(caught.value)


def test_another_model_is_named() -> None:
    values = changed(
        None, model_type="llava", architectures=["LlavaForConditionalGeneration"]
    )
    with pytest.raises(ConfigError, match="is a LlavaForConditionalGeneration; mllama"):
        MllamaConfig.from_dict(values)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"[]", b"[" * 100000])
def test_unreadable_config_file_is_a_config_error(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        MllamaConfig.from_path(str(tmp_path))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
fields = st.sampled_from(
    [(None, key) for key in SOUND]
    + [(s, key) for s in ("text_config", "vision_config") for key in SOUND[s]]
)


@given(fields, json_values)
def test_any_value_is_read_or_refused(
    field: tuple[str | None, str], value: Any
) -> None:
    section, key = field
    try:
        MllamaConfig.from_dict(changed(section, **{key: value}))
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017


def test_sound_config_survives_a_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SOUND), encoding="utf-8")
    assert MllamaConfig.from_path(tmp_path) == MllamaConfig.from_dict(SOUND)
