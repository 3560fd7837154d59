"""The performance targets, and verdicts on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A figure with a limit.

    Attributes:
        letter: Letter of the workload that measures the figure.
        workload: Title of the workload.
        figure: Name of the figure in :func:`~benchmarks.compare.figures.figures`.
        limit: The minimum, or the maximum if ``is_most``.
        unit: "x", "%" (of a share), "s", or "ms" (of seconds).
        of: The reference of a multiple or a share.
        is_most: Whether the limit is a maximum.
        form: The form of the custom ops that the target is for; default: all.
    """

    letter: str
    workload: str
    figure: str
    limit: float
    unit: str
    of: str
    is_most: bool = False
    form: str | None = None

    def formatted(self, value: float) -> str:
        """Returns a value of this figure with its unit."""
        if self.unit == "%":
            return f"{100 * value:.0f} %"
        if self.unit == "ms":
            return f"{1000 * value:.2f} ms"
        if self.unit == "s":
            return f"{value:.1f} s"
        return f"{value:.2f} x"


@dataclass(frozen=True)
class Verdict:
    """A target and the measured value, which is None if it wasn't measured."""

    target: Target
    value: float | None

    @property
    def passed(self) -> bool:
        """Returns True if the target was measured and reached."""
        if self.value is None:
            return False
        if self.target.is_most:
            return self.value <= self.target.limit
        return self.value >= self.target.limit

    @property
    def text(self) -> str:
        """PASS, or the shortfall."""
        if self.value is None:
            return "not measured"
        if self.passed:
            return "PASS"
        short = self.value / self.target.limit - 1
        word = "over" if self.target.is_most else "short"
        return f"{abs(100 * short):.0f} % {word}"


TARGETS = (
    Target("a", "vision encoder, 4 valid tiles, float32-exact",
           "vision_4_tiles_over_transformers", 1.5, "x", "transformers"),
    Target("a", "vision encoder, 4 valid tiles, 8-bit path",
           "vision_4_tiles_8bit_over_transformers", 2.5, "x", "transformers"),
    Target("a", "vision encoder, 4 valid tiles, 8-bit path",
           "vision_4_tiles_8bit_over_float32", 1.25, "x", "float32-exact", form="AVX2"),
    Target("a", "vision encoder, 1 valid tile, float32-exact",
           "vision_1_tile_over_transformers", 2.5, "x", "transformers"),
    Target("b", "first token of an image question, float32-exact",
           "first_token_image_over_transformers", 2, "x", "transformers"),
    Target("b", "first token of an image question, float32-exact",
           "first_token_image_over_mistralrs", 4, "x", "mistral.rs"),
    Target("b", "first token of an image question, 8-bit path",
           "first_token_image_8bit_over_mistralrs", 4, "x", "mistral.rs"),
    Target("c", "decode with an image in context",
           "decode_image_share_of_bandwidth", 0.8, "%", "bytes over read bandwidth"),
    Target("c", "decode with an image in context",
           "decode_image_parameters_over_llama_cpp", 1.4, "x",
           "llama.cpp's parameters per second"),
    Target("c", "cross-attention decode",
           "cross_attention_share_of_bandwidth", 0.6, "%", "read bandwidth"),
    Target("d", "prompt of 512",
           "first_token_text_over_llama_cpp", 1.2, "x", "llama.cpp"),
    Target("d", "prompt of 512",
           "first_token_text_over_ik_llama_cpp", 1, "x", "ik_llama.cpp"),
    Target("d", "decode after a text of 512",
           "decode_text_in_turn_over_ik_llama_cpp", 1, "x", "ik_llama.cpp",
           form="AVX2"),
    Target("d", "decode after a text of 512, all threads",
           "decode_text_share_of_bandwidth_all_threads", 0.8, "%",
           "bytes over read bandwidth"),
    Target("d", "decode after a text of 512, 1 thread",
           "decode_text_share_of_bandwidth_1_thread", 0.8, "%",
           "bytes over 1 thread's read bandwidth"),
    Target("e", "follow-up on the same image",
           "follow_up_over_transformers", 20, "x", "transformers' first token"),
    Target("f", "8 streams", "streams_8_over_1", 2.5, "x", "tokens per second of one"),
    Target("g", "everything around the model, one stream",
           "around_the_model", 0.003, "ms", "a token", is_most=True),
    Target("h", "first `mllama generate` about a picture",
           "first_generate", 12, "s", "from nothing cached", is_most=True),
    Target("h", "the same again",
           "later_generate_over_import", 1.5, "x", "importing MAX's pipelines",
           is_most=True),
    Target("h", "first `mllama demo`",
           "first_demo", 15, "s", "to the last answer", is_most=True),
    Target("i", "4 guesses a step, 80 % of them right",
           "forced_80_over_none", 2, "x", "no guesses"),
    Target("i", "prompt lookup where it gains least",
           "lookup_worst", 0.97, "x", "no guesses"),
    Target("j", "8 streams about 8 pictures, image cache in int8",
           "int8_images_over_bfloat16", 1.05, "x", "tokens per second in bfloat16"),
    Target("j", "its cross-attention",
           "int8_images_attention_over_bfloat16", 0.6, "x", "the time in bfloat16",
           is_most=True),
    Target("j", "pictures of 4 tiles that 4 GiB hold, image cache in int8",
           "int8_images_held_over_bfloat16", 1.9, "x", "those in bfloat16"),
)  # fmt: skip
"""All targets."""


def verdict(target: Target, figures: Mapping[str, float], form: str) -> Verdict | None:
    """Returns the verdict of a run with custom ops of a form on a target, or None if
    the target is for another form."""
    if target.form not in (None, form):
        return None
    return Verdict(target, figures.get(target.figure))
