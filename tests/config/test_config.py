"""The config is read as transformers reads it, and errors name the field."""

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

VALID = config_json(tiny_config(), rope_spelling="old", dtype="float32")


def with_fields(section: str | None, **fields: Any) -> dict[str, Any]:
    values = copy.deepcopy(VALID)
    (values[section] if section else values).update(fields)
    return values


def test_old_and_new_spellings_give_the_same_config() -> None:
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


def test_rope_scaling_accepts_type_for_rope_type() -> None:
    scaling = {"type": "llama3", "factor": 2.0}
    config = MllamaConfig.from_dict(with_fields("text_config", rope_scaling=scaling))
    assert config.text_config.rope_scaling is not None
    assert config.text_config.rope_scaling.factor == 2.0


def test_missing_fields_get_the_defaults_of_transformers() -> None:
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


def test_reads_the_dict_of_a_transformers_config() -> None:
    reference = tiny_config()
    values = reference.to_dict()
    config = MllamaConfig.from_dict(values)
    assert config.text_config.hidden_size == reference.text_config.hidden_size


@pytest.mark.parametrize("eos", [7, [7, 8], None])
def test_eos_token_id_accepts_one_several_or_none(eos: Any) -> None:
    config = MllamaConfig.from_dict(with_fields("text_config", eos_token_id=eos))
    expected = () if eos is None else (7,) if eos == 7 else (7, 8)
    assert config.text_config.eos_token_id == expected


def test_published_config_has_1601_patches_padded_to_1608() -> None:
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
def test_error_names_the_field_in_one_line(
    section: str | None, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        MllamaConfig.from_dict(with_fields(section, **fields))
    assert "\n" not in str(caught.value)


NOT_INTEGERS = [True, "12", 1.0, float("nan"), float("inf"), [3], {"a": 3}]
NOT_POSITIVE_NUMBERS = [True, "1", 0, -1, float("nan"), float("inf"), 10**400, [1.0]]
NOT_LAYER_LISTS = [
    5,
    "3",
    {"3": 3},
    [True],
    [1.0],
    ["3"],
    [None],
    [[3]],
    [-1],
    [10**30],
]
NOT_ASPECT_RATIOS = [5, [], [1], ["ab"], [[1]], [[1, 1, 1]], [[1, True]], [[0, 1]]]
NOT_TOKEN_IDS = [True, "2", 2.0, -1, 2**31, [1, True], [1, None], [[1]], {"id": 1}]
NOT_ROPE_SCALINGS = [
    5,
    "llama3",
    ["llama3"],
    {"rope_type": ["llama3"]},
    {"rope_type": "", "type": "llama3"},
    {"type": "linear", "factor": 2.0},
    *({"rope_type": "llama3", "factor": value} for value in NOT_POSITIVE_NUMBERS),
    *(
        {"rope_type": "llama3", "original_max_position_embeddings": value}
        for value in NOT_INTEGERS
    ),
]


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        (section, field, value)
        for section, field, values in [
            ("text_config", "hidden_size", [*NOT_INTEGERS, 0, 2**31, 10**400]),
            ("text_config", "num_hidden_layers", [*NOT_INTEGERS, 0, 1025]),
            ("text_config", "bos_token_id", [*NOT_INTEGERS, -1, 2**31]),
            ("text_config", "eos_token_id", NOT_TOKEN_IDS),
            ("text_config", "pad_token_id", [True, "2", 2.0, -1, 2**31, [True]]),
            ("text_config", "rms_norm_eps", NOT_POSITIVE_NUMBERS),
            ("text_config", "rope_theta", NOT_POSITIVE_NUMBERS),
            ("text_config", "cross_attention_layers", NOT_LAYER_LISTS),
            ("text_config", "rope_scaling", NOT_ROPE_SCALINGS),
            ("text_config", "rope_parameters", NOT_ROPE_SCALINGS),
            ("text_config", "tie_word_embeddings", [0, 1, "true", []]),
            ("vision_config", "num_global_layers", [*NOT_INTEGERS, 0, 1025]),
            ("vision_config", "attention_heads", [*NOT_INTEGERS, 0]),
            ("vision_config", "norm_eps", NOT_POSITIVE_NUMBERS),
            ("vision_config", "max_num_tiles", [*NOT_INTEGERS, 0, 65]),
            ("vision_config", "intermediate_layers_indices", NOT_LAYER_LISTS),
            ("vision_config", "supported_aspect_ratios", NOT_ASPECT_RATIOS),
            (None, "image_token_index", [*NOT_INTEGERS, -1, 2**31]),
            (None, "dtype", [True, 16, ["float32"]]),
            (None, "text_config", [True, 5, "text", []]),
            (None, "vision_config", [True, 5, "vision", []]),
        ]
        for value in values
    ],
)
def test_wrong_kind_or_range_is_refused(
    section: str | None, field: str, value: Any
) -> None:
    path = rf"{section}\.{field}" if section else field
    with pytest.raises(ConfigError, match=rf"^config\.json.*: {path}\b") as caught:
        MllamaConfig.from_dict(with_fields(section, **{field: value}))
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("section", [None, "text_config", "vision_config"])
def test_null_counts_as_missing(section: str | None) -> None:
    values = with_fields(None)
    fields = values[section] if section else values
    kept = ("model_type", "eos_token_id", "pad_token_id")
    nulls = {"model_type": "mllama"}
    (nulls.setdefault(section, {}) if section else nulls).update(
        {name: None for name in fields if name not in kept}
    )
    assert MllamaConfig.from_dict(nulls) == MllamaConfig.from_dict(
        {"model_type": "mllama"}
    )


def test_null_in_rope_parameters_counts_as_missing() -> None:
    rope = {"rope_theta": None, "rope_type": "llama3", "factor": None}
    values = {"rope_parameters": rope, "rope_theta": 7}
    text = MllamaConfig.from_dict(
        {"model_type": "mllama", "text_config": values}
    ).text_config
    assert (text.rope_theta, text.rope_scaling) == (7.0, Llama3RopeScaling())


def test_integers_are_read_as_floats_where_numbers_are_expected() -> None:
    text = MllamaConfig.from_dict(with_fields("text_config", rope_theta=7)).text_config
    assert isinstance(text.rope_theta, float)


def test_name_of_another_model_is_shown_in_one_line() -> None:
    values = with_fields(None, architectures=["Llava\nForever" + 1000 * "!"])
    with pytest.raises(ConfigError, match="mllama serves") as caught:
        MllamaConfig.from_dict(values)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 200


def test_error_names_the_other_model() -> None:
    values = with_fields(
        None, model_type="llava", architectures=["LlavaForConditionalGeneration"]
    )
    with pytest.raises(ConfigError, match="is a LlavaForConditionalGeneration; mllama"):
        MllamaConfig.from_dict(values)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"[]", b"[" * 100000])
def test_unreadable_config_file_raises_config_error(
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
    [(None, key) for key in VALID]
    + [(s, key) for s in ("text_config", "vision_config") for key in VALID[s]]
)


@given(fields, json_values)
def test_any_value_is_accepted_or_refused_in_one_line(
    field: tuple[str | None, str], value: Any
) -> None:
    section, key = field
    try:
        MllamaConfig.from_dict(with_fields(section, **{key: value}))
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017


def test_from_path_reads_what_from_dict_reads(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(VALID), encoding="utf-8")
    assert MllamaConfig.from_path(tmp_path) == MllamaConfig.from_dict(VALID)
