"""Verdicts on targets, and the figures that they need."""

from __future__ import annotations

import pytest

from benchmarks.compare.figures import figures
from benchmarks.compare.results import Results
from benchmarks.compare.targets import TARGETS, Target, Verdict, verdicts
from benchmarks.compare.workloads import WORKLOADS

LEAST = Target("a", "work", "figure", 2.0, "x", "other")
MOST = Target("g", "work", "figure", 0.003, "ms", "a token", is_most=True)
MODEL = {
    "parameters_per_token": 1000,
    "bytes_per_token": 600,
    "layer_parameters": 900,
    "llama_cpp_parameters_per_token": 750,
    "llama_cpp_layer_parameters": 650,
    "rows_per_tile": 10,
    "cross_layers": 1,
    "self_layers": 3,
    "kv_heads": 2,
    "head_dim": 4,
    "prompt_tokens": 5,
    "pool_item_bytes": 2,
    "decode_steps": 3,
}


@pytest.mark.parametrize(
    ("target", "value", "text"),
    [
        (LEAST, 2.0, "PASS"),
        (LEAST, 3.0, "PASS"),
        (LEAST, 1.5, "25 % short"),
        (LEAST, None, "not measured"),
        (MOST, 0.003, "PASS"),
        (MOST, 0.002, "PASS"),
        (MOST, 0.006, "100 % over"),
    ],
)
def test_a_verdict_is_pass_the_shortfall_or_not_measured(
    target: Target, value: float | None, text: str
) -> None:
    assert Verdict(target, value).text == text
    assert Verdict(target, value).passed == (text == "PASS")


def test_values_are_formatted_with_their_unit() -> None:
    assert LEAST.formatted(1.234) == "1.23 x"
    assert MOST.formatted(0.0025) == "2.50 ms"
    assert Target("c", "w", "f", 0.8, "%", "x").formatted(0.756) == "76 %"


def test_verdicts_cover_only_the_requested_workloads() -> None:
    assert {target.letter for target in TARGETS} == set(WORKLOADS)
    assert {v.target.letter for v in verdicts({}, "ag")} == {"a", "g"}
    assert not any(v.passed for v in verdicts({}, "abcdefg"))


def measured() -> Results:
    found = Results(date="", command="", machine={}, model=dict(MODEL))
    for metric, engine, value in (
        ("vision_4_tiles", "mllama", 2.0),
        ("vision_4_tiles", "transformers", 5.0),
        ("vision_4_tiles", "8bit", 1.0),
        ("vision_1_tile", "mllama", 1.0),
        ("vision_1_tile", "transformers", 4.0),
        ("first_token_image", "mllama", 3.0),
        ("first_token_image", "transformers", 9.0),
        ("first_token_image", "mistralrs", 12.0),
        ("first_token_image", "8bit", 2.0),
        ("follow_up", "mllama", 0.3),
        ("decode_image", "mllama", 2e-6),
        ("decode_text", "llama_cpp", 1.5e-6),
        ("first_token_text", "mllama", 1.0),
        ("first_token_text", "llama_cpp", 1.0),
        ("read_bandwidth", "machine", 2.0),
        ("step_4_tiles", "mllama", 1.5e-6),
        ("readable_in_a_step", "mllama", 6e-6),
        ("bandwidth_after_operations", "machine", 8.0),
        ("streams_1", "mllama", 10.0),
        ("streams_8", "mllama", 30.0),
        ("around_the_model", "demo", 0.004),
        ("first_generate", "mllama", 9.0),
        ("later_generate", "mllama", 3.0),
        ("import_max", "mllama", 2.0),
        ("first_demo", "mllama", 12.0),
    ):
        found.add(metric, engine, value)
    found.operations["decode"] = {
        "custom__mllama_image_attention": 4e-6,
        "custom__mllama_causal_attention": 9.0,
    }
    return found


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("vision_4_tiles_over_transformers", 2.5),
        ("vision_4_tiles_8bit_over_transformers", 5.0),
        ("vision_1_tile_over_transformers", 4.0),
        ("first_token_image_over_transformers", 3.0),
        ("first_token_image_over_mistralrs", 4.0),
        ("first_token_image_8bit_over_mistralrs", 6.0),
        ("follow_up_over_transformers", 30.0),
        # 600 of weights, 2*5*3*2*4*4 of text, 2*40*2*4*2 of the image: 2840 bytes.
        # 6,000 can be read in the graph's 1.5 of 2 us.
        ("decode_image_share_of_bandwidth", 2840 / 8000),
        # 1000 in 2 us against 750 in 1.5 us.
        ("decode_image_parameters_over_llama_cpp", 1.0),
        ("prompt_parameters_over_llama_cpp", 900 / 650),
        # Three steps, 1280 bytes each, in 4 us.
        ("cross_attention_share_of_bandwidth", 3 * 1280 / 8e9 / 4e-6),
        ("streams_8_over_1", 3.0),
        ("around_the_model", 0.004),
    ],
)
def test_figures_are_computed_from_samples(figure: str, value: float) -> None:
    assert figures(measured())[figure] == pytest.approx(value)


def test_every_target_has_a_figure() -> None:
    assert {target.figure for target in TARGETS} <= set(figures(measured()))


def test_unmeasured_metrics_have_no_figure() -> None:
    found = measured()
    del found.samples["readable_in_a_step"], found.samples["follow_up"]
    assert "decode_image_share_of_bandwidth" not in figures(found)
    assert "follow_up_over_transformers" not in figures(found)
    assert figures(Results(date="", command="", machine={})) == {}
