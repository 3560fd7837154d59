"""The instruction sets that a run is limited to: `--isa`.

A CPU has the instructions of older ones, so one machine can measure what several kinds
of machine would.  Every engine is compiled for, or told to use, the same instructions,
except mistral.rs: its wheel chooses by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Isa:
    """A level of x86-64 instructions.

    Attributes:
        name: Its name on the command line.
        march: gcc's name of a CPU with these instructions, and no others.
        target: The CPU to compile this project's graphs for in `mllama compile`, or
            None for this machine's.
        absent: What llama.cpp's description of its build must not list, so that a
            library for more instructions isn't measured by mistake.
        variables: Environment variables that make engines do without the others.
    """

    name: str
    march: str = "native"
    target: str | None = None
    absent: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def cmake_arguments(self) -> str:
        """cmake's options for ggml, which otherwise adds instructions by itself."""
        return f"-DGGML_NATIVE={'ON' if self.is_native else 'OFF'}"

    @property
    def compiler_variables(self) -> dict[str, str]:
        """Environment variables for compiling an engine."""
        if self.is_native:
            return {}
        return dict.fromkeys(("CFLAGS", "CXXFLAGS"), f"-march={self.march}")

    @property
    def is_native(self) -> bool:
        """Returns True if engines use whatever this machine has."""
        return self.target is None


NATIVE = Isa("native")

ISAS = {
    isa.name: isa
    for isa in (
        NATIVE,
        Isa(
            "avx2",
            "x86-64-v3",
            "cpu:x86-64-v3",
            ("AVX512", "AVX_VNNI"),
            {
                "MLLAMA_KERNELS": "avx2",
                "ATEN_CPU_CAPABILITY": "avx2",
                "ONEDNN_MAX_CPU_ISA": "AVX2",
                "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            },
        ),
        Isa(
            "avxvnni",
            "alderlake",
            "cpu:alderlake",
            ("AVX512",),
            {
                "MLLAMA_KERNELS": "avxvnni",
                "ATEN_CPU_CAPABILITY": "avx2",
                "ONEDNN_MAX_CPU_ISA": "AVX2_VNNI",
                "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            },
        ),
    )
}
"""All levels, by name."""


def form_of(kernels: str) -> str:
    """Returns the name of a form, such as AVX2, from what this project says of its
    kernels."""
    found = re.search(r"custom kernels \((.+)\)", kernels)
    return found.group(1) if found else kernels
