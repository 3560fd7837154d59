"""Options of ``compile`` and ``quantize``, which write files."""

from __future__ import annotations

from typing import Final

from mllama.cli.option_sections import OUTPUT
from mllama.launch.option import COMPUTE, MODEL, Option

COMPILE_OPTIONS: Final = (
    Option(
        name="target",
        section=COMPUTE,
        takers=("compile",),
        kind="text",
        metavar="TARGET",
        description="Compile for this kind of device, which this machine need not "
        "have: cpu:x86-64-v3 (any CPU with AVX2), cpu:alderlake (AVX-VNNI), "
        "cpu:cascadelake (AVX-512 and VNNI), or in bfloat16 cuda:sm_90, hip:gfx942, "
        "... --devices says how many GPUs share the model.",
        default_text="this machine",
    ),
    Option(
        name="output",
        section=OUTPUT,
        takers=("compile",),
        kind="path",
        metavar="DIR",
        required=True,
        description="Directory to write the compiled model to.",
    ),
)

QUANTIZE_OPTIONS: Final = (
    Option(
        name="encoding",
        section=MODEL,
        takers=("quantize",),
        kind="text",
        choices=("q4_0", "q4_k", "q6_k"),
        default="q4_k",
        description="GGUF block format of the text matrices; the vision weights become "
        "float16.",
    ),
)
