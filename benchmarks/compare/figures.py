"""Computes figures from samples: ratios, and shares of the machine's peak."""

from __future__ import annotations

from benchmarks.compare.byte_counts import attention_bytes
from benchmarks.compare.results import Results

OURS, EIGHT_BIT, DEMO = "mllama", "8bit", "demo"
"""The engines: this project, also with its int8 vision path, and its demo model."""


def figures(results: Results) -> dict[str, float]:
    """Returns every figure that the samples suffice for, by name.

    A figure whose name ends in ``_over_ENGINE`` is this project's speedup over that
    engine; shares are from 0 to 1.
    """
    median, model = results.median, results.model
    found: dict[str, float | None] = {}

    def ratio(above: float | None, below: float | None) -> float | None:
        return above / below if above is not None and below else None

    for metric, by_engine in results.samples.items():
        for engine in by_engine:
            if engine != OURS:
                found[f"{metric}_over_{engine}"] = ratio(
                    median(metric, engine), median(metric, OURS)
                )
    found["vision_4_tiles_8bit_over_transformers"] = ratio(
        median("vision_4_tiles", "transformers"), median("vision_4_tiles", EIGHT_BIT)
    )
    found["first_token_image_8bit_over_mistralrs"] = ratio(
        median("first_token_image", "mistralrs"), median("first_token_image", EIGHT_BIT)
    )
    found["follow_up_over_transformers"] = ratio(
        median("first_token_image", "transformers"), median("follow_up", OURS)
    )
    decode = median("decode_image", OURS)
    theirs = median("decode_text", "llama_cpp")
    if model and decode:
        read = model["bytes_per_token"] + self_attention_bytes(model)
        read += image_bytes(model, 4)
        readable, step = (
            median("readable_in_a_step", OURS),
            median("step_4_tiles", OURS),
        )
        if readable and step:
            # The bandwidth is measured between runs of the graph, which take only part
            # of the time of a token.
            found["decode_image_share_of_bandwidth"] = (
                read / 1e9 / readable * step / decode
            )
        found["decode_image_parameters_per_second"] = (
            model["parameters_per_token"] / decode
        )
        if theirs:
            found["decode_image_parameters_over_llama_cpp"] = (
                model["parameters_per_token"] / decode
            ) / (model["llama_cpp_parameters_per_token"] / theirs)
    prompt, theirs = (
        median("first_token_text", OURS),
        median("first_token_text", "llama_cpp"),
    )
    if model and prompt and theirs:
        # Both compute the head for one token only, so it doesn't count.
        found["prompt_parameters_over_llama_cpp"] = (
            model["layer_parameters"] / prompt
        ) / (model["llama_cpp_layer_parameters"] / theirs)
    bandwidth = median("bandwidth_after_operations", "machine") or median(
        "read_bandwidth", "machine"
    )
    attending = _attending_to_images(results)
    if model and bandwidth and attending:
        found["cross_attention_share_of_bandwidth"] = (
            image_bytes(model, 4) * model["decode_steps"] / bandwidth / 1e9 / attending
        )
    found["streams_8_over_1"] = ratio(
        median("streams_8", OURS), median("streams_1", OURS)
    )
    found["streams_4_over_1"] = ratio(
        median("streams_4", OURS), median("streams_1", OURS)
    )
    found["around_the_model"] = median("around_the_model", DEMO)
    found["first_generate"] = median("first_generate", OURS)
    found["first_demo"] = median("first_demo", OURS)
    found["later_generate_over_import"] = ratio(
        median("later_generate", OURS), median("import_max", OURS)
    )
    return {name: value for name, value in found.items() if value is not None}


def _attending_to_images(results: Results) -> float:
    """Returns the seconds that all decode steps spend in cross-attention ops."""
    return sum(
        seconds
        for name, seconds in results.operations.get("decode", {}).items()
        if any(word in name for word in ("image_attention", "cross_attention"))
    )


def image_bytes(model: dict[str, float], tiles: int) -> int:
    """Returns the bytes of an image's keys and values that a decode step reads."""
    return attention_bytes(
        int(model["rows_per_tile"]) * tiles,
        int(model["cross_layers"]),
        int(model["kv_heads"]),
        int(model["head_dim"]),
        int(model["pool_item_bytes"]),
    )


def self_attention_bytes(model: dict[str, float]) -> int:
    """Returns the bytes of the prompt's float32 K/V that a decode step reads."""
    return attention_bytes(
        int(model["prompt_tokens"]),
        int(model["self_layers"]),
        int(model["kv_heads"]),
        int(model["head_dim"]),
        4,
    )
