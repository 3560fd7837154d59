"""Random weights with which every part of the network has an effect.

transformers initializes every gate to zero and every norm to one; a parity test with
such weights would pass without whole layers.  Here every gate is far from zero (of
either sign), norms and biases vary, attention is neither uniform nor one-hot, and
logits spread over a few units.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers import MllamaConfig, MllamaForConditionalGeneration

# The head's rows differ in length, so that the best token leads clearly.
ROW_SPREAD = 0.25

# The head's rows for special tokens and for bytes that aren't text are small, so that
# greedy decoding neither ends by accident nor leaves printable ASCII.
DAMPED_ROWS = 0.1


def weight_shapes(config: MllamaConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor, by its name in transformers 5."""
    with torch.device("meta"):
        model = MllamaForConditionalGeneration(config)
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


def published_name(name: str) -> str:
    """Returns the published name of a tensor, given its name in transformers 5."""
    renamed = {
        "model.language_model.": "language_model.model.",
        "model.vision_model.": "vision_model.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "lm_head.": "language_model.lm_head.",
    }
    for new, old in renamed.items():
        if name.startswith(new):
            return old + name.removeprefix(new)
    raise ValueError(f"no published spelling for {name}")


def _generator(seed: int, name: str) -> np.random.Generator:
    """Returns a generator that depends on one tensor's name alone."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def is_gate(name: str) -> bool:
    return name.split(".")[-1] in {
        "gate",
        "gate_attn",
        "gate_ffn",
        "cross_attn_attn_gate",
        "cross_attn_mlp_gate",
    }


def is_norm(name: str) -> bool:
    return "norm" in name.split(".")[-2]


def spread(name: str, shape: tuple[int, ...]) -> float:
    """Returns the standard deviation of a tensor that is neither a gate nor a norm."""
    fan_in = int(np.prod(shape[1:]))
    if name.endswith("bias"):
        return 0.1
    if name.endswith("embed_tokens.weight"):
        return 1.0
    if "embedding" in name and "patch" not in name:
        return 0.5  # class, position and tile embeddings
    gain = 1.0
    if "patch_embedding" in name:
        gain = 1.5  # the image outweighs the embeddings
    elif ".q_proj" in name or ".k_proj" in name:
        gain = 1.4  # scores spread by about two
    elif ".o_proj" in name or ".down_proj" in name or ".fc2" in name:
        gain = 0.8
    elif name.startswith("lm_head"):
        gain = 3.0  # the spread of the logits, after a norm of about one
    return float(gain / np.sqrt(fan_in))


def random_tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Returns the float32 values of one tensor, which depend only on the arguments."""
    generator = _generator(seed, name)
    if is_gate(name):
        sign = generator.choice([-1.0, 1.0])
        return np.full(shape, sign * generator.uniform(0.4, 1.0), dtype=np.float32)
    values = generator.standard_normal(shape, dtype=np.float32)
    if is_norm(name):
        if name.endswith("bias"):
            return values * np.float32(0.1)
        return np.float32(1.0) + values * np.float32(0.2)
    values *= np.float32(spread(name, shape))
    return values


def random_weights(
    config: MllamaConfig, seed: int, favored: Sequence[int]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields float32 tensors with their names in transformers 5.

    ``favored`` are the token ids whose logits keep their full spread.
    """
    for name, shape in weight_shapes(config).items():
        values = random_tensor(name, shape, seed)
        if name == "lm_head.weight":
            damp = np.full((shape[0], 1), DAMPED_ROWS, dtype=np.float32)
            damp[list(favored)] = 1.0
            lengths = _generator(seed, "row lengths").standard_normal(damp.shape)
            values = values * damp * np.exp(ROW_SPREAD * lengths).astype(np.float32)
        yield name, torch.from_numpy(values)
