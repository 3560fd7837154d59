"""Writes a GGUF file of 11B's size with random q4_k weights and a full tokenizer."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm

from mllama.config import MllamaConfig
from mllama.weights.gguf.tensor_encoding import PlannedTensor, planned_tensors
from mllama.weights.gguf.writing import write_tensors
from tests.reference.configs import config_json, published_widths_config, write_json
from tests.reference.text_files import (
    BOS,
    END_OF_MESSAGE,
    END_OF_TEXT,
    END_OF_TURN,
    IMAGE,
    NAMED_SPECIALS,
    PAD,
    write_image_processor,
    write_tokenizer,
)

VOCAB_SIZE = 128_256
SPECIALS = 256
SPREAD = 0.02
"""Standard deviation of the weights."""


def full_size_tokenizer() -> Tokenizer:
    """Returns a tokenizer of the published size: all byte pairs, and triples."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(a, b) for a in alphabet for b in alphabet]
    missing = VOCAB_SIZE - SPECIALS - len(alphabet) - len(pairs)
    triples = [(a + b, c) for a, b in pairs for c in alphabet[:1]][:missing]
    words = [*alphabet, *(a + b for a, b in [*pairs, *triples])]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={word: index for index, word in enumerate(words)},
            merges=[*pairs, *triples],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    reserved = SPECIALS - len(NAMED_SPECIALS)
    specials = [*NAMED_SPECIALS]
    specials += [f"<|reserved_special_token_{i + 2}|>" for i in range(reserved)]
    tokenizer.add_special_tokens(
        [
            AddedToken(text, normalized=False, special=True)
            for text in [*specials, IMAGE]
        ]
    )
    assert tokenizer.token_to_id(IMAGE) == VOCAB_SIZE
    return tokenizer


@dataclass(frozen=True)
class Depth:
    """The layers of a model; the defaults are those of 11B."""

    vision_layers: int = 32
    global_layers: int = 8
    text_layers: int = 40
    cross: tuple[int, ...] = (3, 8, 13, 18, 23, 28, 33, 38)
    intermediate_layers: tuple[int, ...] = (3, 7, 15, 23, 30)


FULL_DEPTH = Depth()


def write_small_files(folder: Path, depth: Depth = FULL_DEPTH) -> MllamaConfig:
    """Writes a configuration, tokenizer and image processor with 11B's widths."""
    tokenizer = full_size_tokenizer()
    config = published_widths_config(
        vision_layers=depth.vision_layers,
        global_layers=depth.global_layers,
        text_layers=depth.text_layers,
        cross=list(depth.cross),
        intermediate_layers=list(depth.intermediate_layers),
        vocab_size=VOCAB_SIZE,
    )
    token_id = tokenizer.token_to_id
    config.text_config.bos_token_id = token_id(BOS)
    config.text_config.eos_token_id = [
        token_id(text) for text in (END_OF_TEXT, END_OF_MESSAGE, END_OF_TURN)
    ]
    config.text_config.pad_token_id = token_id(PAD)
    write_json(
        folder / "config.json",
        config_json(config, rope_spelling="old", dtype="bfloat16"),
    )
    write_tokenizer(folder, tokenizer, "jinja")
    write_image_processor(folder, tile=560, max_tiles=4, layout="preprocessor_config")
    return MllamaConfig.from_path(folder)


def random_values(
    tensor: PlannedTensor, generator: np.random.Generator
) -> npt.NDArray[Any]:
    """Returns random values of a tensor in its format in the file.

    GGUF blocks get random levels and scales, and float16 units that give the weights a
    mean near zero and a standard deviation of ``SPREAD``.
    """
    kind, shape = tensor.kind, tensor.shape
    if kind is GGMLQuantizationType.F32:
        is_norm = "norm" in tensor.name and tensor.name.endswith("weight")
        if is_norm:
            return np.ones(shape, np.float32)
        return generator.normal(0, SPREAD, shape).astype(np.float32)
    if kind is GGMLQuantizationType.F16:
        return (generator.standard_normal(shape, np.float32) * SPREAD).astype(
            np.float16
        )
    length, size = GGML_QUANT_SIZES[kind]
    rows, width = shape
    blocks = generator.integers(0, 256, (rows * width // length, size), np.uint8)
    if kind is GGMLQuantizationType.Q4_K:
        # scale (0..63) * level (0..15) - minimum (0..63): 32 * 7.5 is 7.5 * 32.
        unit = SPREAD / 180
        blocks[:, 0:2] = np.array([unit], np.float16).view(np.uint8)
        blocks[:, 2:4] = np.array([unit * 7.5], np.float16).view(np.uint8)
    elif kind is GGMLQuantizationType.Q6_K:
        # scale (-128..127) * level (-32..31).
        unit = SPREAD / (74 * 18.5)
        blocks[:, -2:] = np.array([unit], np.float16).view(np.uint8)
    else:
        raise ValueError(f"no random blocks of {kind.name}")
    return blocks.reshape(rows, width // length * size)


def write_random_gguf(target: Path, depth: Depth = FULL_DEPTH) -> None:
    """Writes the file, which has about 8 GB at full depth."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        config = write_small_files(Path(folder), depth)
        with tqdm(desc=f"writing {target.name}", unit="B", unit_scale=True) as bar:

            def show(_: str, written: int, total: int) -> None:
                bar.total = total
                bar.update(written - bar.n)

            write_tensors(
                target,
                Path(folder),
                config,
                planned_tensors(config, "q4_k"),
                lambda tensor: [random_values(tensor, generator)],
                show,
            )
