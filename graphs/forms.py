"""The forms of the published models that ``mllama-graphs`` has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mllama.aot.targets import CrossCompilation, find_target
from mllama.config import MllamaConfig
from mllama.weights.encodings import Encoding

CPU_ENCODINGS = ("q4_k", "float32", "bfloat16")
CPU_TARGETS = ("cpu:x86-64-v3", "cpu:cascadelake")
GPU_TARGETS = ("cuda:sm_80", "cuda:sm_89", "cuda:sm_90", "cuda:sm_100")

_VISION = {
    "attention_heads": 16,
    "hidden_size": 1280,
    "image_size": 560,
    "intermediate_layers_indices": [3, 7, 15, 23, 30],
    "intermediate_size": 5120,
    "max_num_tiles": 4,
    "norm_eps": 1e-05,
    "num_channels": 3,
    "num_global_layers": 8,
    "num_hidden_layers": 32,
    "patch_size": 14,
    "vision_output_dim": 7680,
}
"""The vision encoder, which both models have."""

_TEXT = {
    "max_position_embeddings": 131_072,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500_000.0,
    "tie_word_embeddings": False,
    "vocab_size": 128_256,
}

_SIZES = {
    "11b": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
    },
    "90b": {
        "hidden_size": 8192,
        "intermediate_size": 28_672,
        "num_attention_heads": 64,
        "num_hidden_layers": 100,
        "cross_attention_layers": list(range(3, 100, 5)),
    },
}

MODELS = {
    name: MllamaConfig.from_dict(
        {
            "model_type": "mllama",
            "text_config": _TEXT | size,
            "vision_config": _VISION,
        }
    )
    for name, size in _SIZES.items()
}
"""The published models' configurations, as far as graphs depend on them."""


@dataclass(frozen=True)
class Form:
    """A model in an encoding for a kind of device.

    Attributes:
        model: Name in :data:`MODELS`.
        encoding: The encoding of the weights.
        target: Name of the kind of device.
    """

    model: str
    encoding: str
    target: str

    @property
    def name(self) -> str:
        """Returns the name, which is that of the form's directory."""
        return f"{self.model}-{self.encoding}-{self.target.split(':')[1]}"

    @property
    def compilation(self) -> CrossCompilation:
        """Returns what to compile."""
        target = find_target(self.target)
        return CrossCompilation(
            MODELS[self.model],
            target,
            Encoding(self.encoding, "cpu" if target.is_cpu else "gpu"),
        )


def all_forms() -> Iterator[Form]:
    """Yields every form, those that most people use first."""
    for model in MODELS:
        for encoding in CPU_ENCODINGS:
            for target in CPU_TARGETS:
                yield Form(model, encoding, target)
        for target in GPU_TARGETS:
            yield Form(model, "bfloat16", target)
