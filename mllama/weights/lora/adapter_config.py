"""What ``adapter_config.json`` says of a LoRA adapter, in the form that PEFT writes.

PEFT knows many kinds of adapters and variants of LoRA.  Those that are no sum of the
weights and a product of two matrices are refused by their name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import regex

from mllama.config.fields import Section, is_integer
from mllama.errors import CheckpointError, ConfigError

CONFIG_FILE: Final = "adapter_config.json"

MERGE_WITH_PEFT: Final = (
    "merge it with PEFT's merge_and_unload, write the model with save_pretrained and "
    "give that directory as --model-path"
)
"""The way out where PEFT can do more than this package."""

_MAX_BYTES = 10_000_000
"""Real files have a few kilobytes."""

_MAX_PATTERN = 1000
_MATCH_SECONDS = 1.0
"""Limits of the regular expressions that a file may bring: they may take forever."""

_VARIANTS = (
    "alora_invocation_tokens",
    "layer_replication",
    "megatron_config",
    "target_parameters",
    "trainable_token_indices",
)
"""Settings that make an adapter more than two factors for each matrix."""

_HARMLESS = frozenset(
    (
        "use_dora",
        "use_rslora",
        # How the factors were initialized; what changes the weights is told by
        # init_lora_weights.
        "corda_config",
        "eva_config",
        "loftq_config",
        "lora_ga_config",
        "runtime_config",
    )
)
"""Settings that are read here or don't matter, of those named like a variant's."""

_CHANGES_WEIGHTS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initializations that take the first factors out of the weights that they train."""


@dataclass(frozen=True)
class AdapterConfig:
    """A LoRA adapter's settings.

    Attributes:
        rank: The factors' inner size, ``r``.
        alpha: ``lora_alpha``; by the rank, or its root, it is the product's factor.
        is_rank_stabilized: ``use_rslora``, whether it is by the root.
        has_magnitudes: ``use_dora``, whether rows have lengths of their own.
        has_biases: ``lora_bias``, whether the second factor adds to a bias.
        ranks: Regular expressions of modules with another rank.
        alphas: Regular expressions of modules with another alpha.
        modules_to_save: Modules that the adapter holds whole.
        base_model: What it was made for, as a hint.
    """

    rank: int
    alpha: float
    is_rank_stabilized: bool
    has_magnitudes: bool
    has_biases: bool
    ranks: Mapping[regex.Pattern[str], int]
    alphas: Mapping[regex.Pattern[str], float]
    modules_to_save: tuple[str, ...]
    base_model: str | None

    def rank_of(self, module: str) -> int:
        """The rank of a module.

        Args:
            module: Its path in the spelling of the adapter, as the patterns are.

        Raises:
            ConfigError: If a pattern takes too long.
        """
        return _first_match(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        """The factor of the product of a module's factors.

        Raises:
            ConfigError: If a pattern takes too long.
        """
        rank = self.rank_of(module)
        alpha = _first_match(self.alphas, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)


def read_adapter_config(directory: Path) -> AdapterConfig:
    """Reads ``adapter_config.json``.

    Raises:
        ConfigError: If it is damaged, or a setting is of another type.
        CheckpointError: If it is missing, or of an adapter that can't be merged.
    """
    section = Section("", _read(directory / CONFIG_FILE), CONFIG_FILE)
    kind = section.text("peft_type", None)
    if kind != "LORA":
        raise CheckpointError(
            f"{directory} is an adapter of the type {kind}; only LORA is supported, so "
            + (MERGE_WITH_PEFT if kind else "look for another directory")
        )
    _refuse_variants(directory, section)
    return AdapterConfig(
        rank=section.integer("r", 8),
        alpha=section.number("lora_alpha", 8.0),
        is_rank_stabilized=section.flag("use_rslora", False),
        has_magnitudes=section.flag("use_dora", False),
        has_biases=section.flag("lora_bias", False),
        ranks=_patterns(section, "rank_pattern", "whole numbers", _is_rank),
        alphas=_patterns(section, "alpha_pattern", "numbers", _is_alpha),
        modules_to_save=_names(section, "modules_to_save"),
        base_model=section.text("base_model_name_or_path", None),
    )


def _read(path: Path) -> Any:
    directory = path.parent
    if not directory.is_dir():
        raise CheckpointError(
            f"there is no directory {directory}; --lora-path takes one with "
            f"{CONFIG_FILE} and the adapter's weights"
        )
    if not path.is_file():
        whole = (directory / "config.json").is_file()
        raise CheckpointError(
            f"{directory} holds no {CONFIG_FILE}; "
            + (
                "it is a whole model, which --model-path takes"
                if whole
                else "--lora-path takes a directory that PEFT has written"
            )
        )
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(
            f"{path} can't be read: {error.strerror or error}"
        ) from error
    try:
        return json.loads(content if len(content) <= _MAX_BYTES else b"")
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON; download it again") from error


def _refuse_variants(directory: Path, section: Section) -> None:
    """Refuses what PEFT does with more than two factors and magnitudes."""
    for key, value in section.values.items():
        named_so = key.startswith("use_") or key.endswith("_config")
        if value and (key in _VARIANTS or (named_so and key not in _HARMLESS)):
            raise CheckpointError(
                f"{directory} was made with {key}, which is not supported; "
                f"{MERGE_WITH_PEFT}"
            )
    start = str(section.get("init_lora_weights", True)).lower()
    if start.startswith(_CHANGES_WEIGHTS):
        raise CheckpointError(
            f"{directory} was made with init_lora_weights {start!r}, which changes the "
            f"weights below the adapter; {MERGE_WITH_PEFT}"
        )


def _is_rank(value: Any) -> bool:
    return is_integer(value) and 0 < value < 2**31


def _is_alpha(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 < value < 2**31
    )


def _patterns(
    section: Section, key: str, wanted: str, is_valid: Any
) -> dict[regex.Pattern[str], Any]:
    """Patterns as PEFT matches them: the end of a module's path, from a dot on."""
    value = section.get(key, {})
    if not isinstance(value, dict) or not all(map(is_valid, value.values())):
        raise section.refusal(key, f"an object of {wanted} above 0")
    patterns = {}
    for pattern, number in value.items():
        try:
            if len(pattern) > _MAX_PATTERN:
                raise regex.error("too long")
            patterns[regex.compile(rf"(.*\.)?({pattern})$")] = number
        except regex.error as error:
            raise ConfigError(
                f"{CONFIG_FILE}: {key} has {pattern[:80]!r}, which is no regular "
                f"expression: {error}"
            ) from error
    return patterns


def _names(section: Section, key: str) -> tuple[str, ...]:
    value = section.get(key, [])
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise section.refusal(key, "a list of modules' names")
    return tuple(value)


def _first_match(
    patterns: Mapping[regex.Pattern[str], Any], module: str, default: Any
) -> Any:
    for pattern, value in patterns.items():
        try:
            if pattern.match(module, timeout=_MATCH_SECONDS):
                return value
        except TimeoutError:
            raise ConfigError(
                f"{CONFIG_FILE}: the regular expression {pattern.pattern[:80]!r} takes "
                f"too long to match {module}"
            ) from None
    return default
