"""Computes figures from samples: ratios, and shares of the machine's peak."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.compare.byte_counts import attention_bytes
from benchmarks.compare.metrics import LOOKUPS
from benchmarks.compare.results import Results
from benchmarks.compare.spans import seconds_attending_to_images
from benchmarks.compare.variants import (
    DEMO,
    EIGHT_BIT,
    INT8_IMAGES,
    OURS,
    SPECULATION,
    threads_name,
)


def figures(results: Results) -> dict[str, float]:
    """Returns every figure that the samples suffice for, by name.

    A figure whose name ends in ``_over_ENGINE`` is this project's speedup over that
    engine: the ratio of medians, or of two that were asked in turn the median ratio of
    neighbors.  Shares are from 0 to 1.
    """
    median, model = results.median, results.model
    found: dict[str, float | None] = {}

    def ratio(above: float | None, below: float | None) -> float | None:
        return above / below if above is not None and below else None

    for metric, by_engine in results.samples.items():
        for engine in by_engine:
            if engine == OURS:
                continue
            found[f"{metric}_over_{engine}"] = (
                _ratio_in_turn(by_engine[engine], by_engine.get(OURS, ()))
                if metric.endswith("_in_turn")
                else ratio(median(metric, engine), median(metric, OURS))
            )
    found["vision_4_tiles_8bit_over_float32"] = ratio(
        median("vision_4_tiles", OURS), median("vision_4_tiles", EIGHT_BIT)
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
        read = model["bytes_per_token"] + self_attention_bytes(model, "prompt_tokens")
        found["decode_image_share_of_bandwidth"] = _share_of_bandwidth(
            read + image_bytes(model, 4),
            median("readable_in_a_step", OURS),
            median("step_4_tiles", OURS),
            decode,
        )
        found["decode_image_parameters_per_second"] = (
            model["parameters_per_token"] / decode
        )
        if theirs:
            found["decode_image_parameters_over_llama_cpp"] = (
                model["parameters_per_token"] / decode
            ) / (model["llama_cpp_parameters_per_token"] / theirs)
    if model:
        # Without a picture nothing of a cross-attention layer is needed.
        read = model["llama_cpp_bytes_per_token"]
        read += self_attention_bytes(model, "text_tokens")
        for engine, name in ((OURS, "all_threads"), (threads_name(1), "1_thread")):
            found[f"decode_text_share_of_bandwidth_{name}"] = _share_of_bandwidth(
                read,
                median("readable_in_a_text_step", engine),
                median("step_text", engine),
                median("decode_text", engine),
            )
    bandwidth = median("bandwidth_after_operations", "machine") or median(
        "read_bandwidth", "machine"
    )
    attending = seconds_attending_to_images(results.operations.get("decode", {}))
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
    found["forced_80_over_none"] = ratio(
        median("forced_80", SPECULATION), median("forced_none", SPECULATION)
    )
    gains = [median(metric, SPECULATION) for metric in LOOKUPS]
    found["lookup_worst"] = min((gain for gain in gains if gain), default=None)
    found["int8_images_over_bfloat16"] = ratio(
        median("streams_8_pictures", INT8_IMAGES),
        median("streams_8_pictures", EIGHT_BIT),
    )
    found["int8_images_attention_over_bfloat16"] = ratio(
        median("attention_8_pictures", INT8_IMAGES),
        median("attention_8_pictures", EIGHT_BIT),
    )
    found["int8_images_held_over_bfloat16"] = ratio(
        median("pictures_in_4_gib", INT8_IMAGES), median("pictures_in_4_gib", EIGHT_BIT)
    )
    found["around_the_model"] = median("around_the_model", DEMO)
    found["first_generate"] = median("first_generate", OURS)
    found["first_demo"] = median("first_demo", OURS)
    found["later_generate_over_import"] = ratio(
        median("later_generate", OURS), median("import_max", OURS)
    )
    return {name: value for name, value in found.items() if value is not None}


def _ratio_in_turn(above: Sequence[float], below: Sequence[float]) -> float | None:
    """Returns the median ratio of samples that were taken next to each other."""
    ratios = [a / b for a, b in zip(above, below, strict=False)]
    return statistics.median(ratios) if ratios else None


def _share_of_bandwidth(
    read: float, readable: float | None, step: float | None, token: float | None
) -> float | None:
    """Returns the share of the plain read loop's bandwidth that decoding reaches.

    Args:
        read: Bytes that a token must read.
        readable: GB that the loop reads in a run of the graph.
        step: Seconds of a run of the graph, next to which the loop was timed.
        token: Seconds of a token, of which the graph takes only part.
    """
    if readable is None or step is None or not token:
        return None
    return read / 1e9 / readable * step / token


def image_bytes(model: dict[str, float], tiles: int) -> int:
    """Returns the bytes of an image's keys and values that a decode step reads."""
    return attention_bytes(
        int(model["rows_per_tile"]) * tiles,
        int(model["cross_layers"]),
        int(model["kv_heads"]),
        int(model["head_dim"]),
        int(model["pool_item_bytes"]),
    )


def self_attention_bytes(model: dict[str, float], tokens: str) -> int:
    """Returns the bytes of a prompt's float32 K/V that a decode step reads.

    Args:
        model: The model's properties.
        tokens: Name of the one that is the prompt's length.
    """
    return attention_bytes(
        int(model[tokens]),
        int(model["self_layers"]),
        int(model["kv_heads"]),
        int(model["head_dim"]),
        4,
    )
