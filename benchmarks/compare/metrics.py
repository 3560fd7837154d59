"""The metrics of a run, in the order of the tables."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A row of the table: the workload's letter, its title, unit and scale."""

    letter: str
    title: str
    unit: str = "s"
    factor: float = 1.0
    digits: int = 2


FORCED = {"none": None, "0": 0.0, "50": 0.5, "80": 0.8, "100": 1.0}
"""Acceptance rates that workload i forces, by name; "none" guesses nothing."""

FORCED_WITH_PICTURE = {"none": None, "80": 0.8}
"""The same in a conversation about a picture of 4 tiles."""

LOOKUPS = {
    f"lookup_{name}_{streams}": (kind, streams)
    for name, kind in (
        ("random", "random tokens"),
        ("few", "16 tokens at random"),
        ("greedy", "greedy"),
        ("picture", "random tokens about a picture"),
    )
    for streams in (1, 8)
}
"""Answers with prompt lookup and without: their kind, and how many at once."""

METRICS = {
    "vision_4_tiles": Metric("a", "pixels to cross-attention K/V, 4 valid tiles"),
    "vision_1_tile": Metric("a", "pixels to cross-attention K/V, 1 valid tile"),
    "first_token_image": Metric("b", "first token, 4 tiles, 176 tokens of text"),
    "first_token_image_1_tile": Metric("b", "first token, 1 tile, 176 tokens of text"),
    "decode_image": Metric("c", "a token after a 4-tile image", "ms", 1e3, 1),
    "decode_image_1_tile": Metric("c", "a token after a 1-tile image", "ms", 1e3, 1),
    "step_4_tiles": Metric("c", "its text graph alone, 4 tiles", "ms", 1e3, 1),
    "step_1_tile": Metric("c", "its text graph alone, 1 tile", "ms", 1e3, 1),
    "readable_in_a_step": Metric("c", "what can be read in its time", "GB", digits=3),
    "bandwidth_between_steps": Metric(
        "c", "read bandwidth between its steps", "GB/s", digits=1
    ),
    "first_token_text": Metric("d", "first token, text of 512"),
    "decode_text": Metric("d", "a token after text of 512", "ms", 1e3, 1),
    "step_text": Metric("d", "its text graph alone", "ms", 1e3, 1),
    "readable_in_a_text_step": Metric(
        "d", "what can be read in its time", "GB", digits=3
    ),
    "bandwidth_between_text_steps": Metric(
        "d", "read bandwidth between its steps", "GB/s", digits=1
    ),
    "first_token_text_in_turn": Metric("d", "first token, text of 512, asked in turn"),
    "decode_text_in_turn": Metric(
        "d", "a token after text of 512, asked in turn", "ms", 1e3, 1
    ),
    "follow_up": Metric("e", "first token, another question on that image", digits=3),
    "streams_1": Metric("f", "1 stream", "tokens/s", digits=1),
    "streams_4": Metric("f", "4 streams", "tokens/s", digits=1),
    "streams_8": Metric("f", "8 streams", "tokens/s", digits=1),
    "demo_token": Metric("g", "demo model, a token", "ms", 1e3, 2),
    "around_the_model": Metric("g", "of it not in the text graph", "ms", 1e3, 2),
    "sampling": Metric("g", "of that choosing tokens", "ms", 1e3, 2),
    "install": Metric("h", "installing the wheel in an empty environment", digits=1),
    "first_generate": Metric("h", "first `mllama generate` about a picture", digits=1),
    "first_generate_load": Metric("h", "of it loading MAX and the model"),
    "first_generate_answer": Metric("h", "of it the answer"),
    "later_generate": Metric("h", "the same again"),
    "later_generate_load": Metric("h", "of it loading MAX and the model"),
    "later_generate_answer": Metric("h", "of it the answer"),
    "import_max": Metric("h", "importing MAX's pipelines"),
    "first_demo": Metric("h", "first `mllama demo`, nine answers", digits=1),
    "compile": Metric("h", "compiling and saving the benchmarked model", digits=0),
    "forced_none": Metric("i", "no guesses", "tokens/s", digits=1),
    **{
        f"forced_{name}": Metric(
            "i", f"4 guesses a step, {name} % of them right", "tokens/s", digits=1
        )
        for name in FORCED
        if name != "none"
    },
    **{
        f"forced_picture_{name}": Metric(
            "i",
            f"a 4-tile image, {'no guesses' if rate is None else f'{name} % right'}",
            "tokens/s",
            digits=1,
        )
        for name, rate in FORCED_WITH_PICTURE.items()
    },
    **{
        metric: Metric("i", f"lookup over no guesses, {kind}, {streams} at once", "x")
        for metric, (kind, streams) in LOOKUPS.items()
    },
    "streams_8_pictures": Metric(
        "j", "8 streams, each about a picture of 4 tiles", "tokens/s", digits=1
    ),
    "attention_8_pictures": Metric(
        "j", "its cross-attention ops, a decoded token", "ms", 1e3, 3
    ),
    "pictures_in_4_gib": Metric(
        "j", "pictures of 4 tiles that 4 GiB hold at 11B's shape", "", digits=0
    ),
    "read_bandwidth": Metric("", "read bandwidth", "GB/s", digits=1),
    "read_bandwidth_1_thread": Metric("", "the same of 1 thread", "GB/s", digits=1),
    "bandwidth_after_operations": Metric(
        "", "read bandwidth just after c's operations were timed", "GB/s", digits=1
    ),
    "float32_peak": Metric("", "float32 multiply-adds", "GFLOP/s", digits=0),
    "int8_peak": Metric("", "int8 multiply-adds", "Gop/s", digits=0),
}
"""All metrics in the order of the table."""
