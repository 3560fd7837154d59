"""The settings of a LoRA adapter: ``adapter_config.json``, as PEFT writes it.

PEFT knows many kinds of adapters and variants of LoRA.  Those that don't just add the
product of two matrices to the weights are refused by name.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import regex
from pydantic import AfterValidator, Field, StrictBool, StrictStr
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from mllama.config.validation import MAX_SIZE, ConfigSection, PositiveNumber, Size
from mllama.errors import CheckpointError, ConfigError, quoted

CONFIG_FILE: Final = "adapter_config.json"

MERGE_WITH_PEFT: Final = (
    "merge it with PEFT's merge_and_unload, write the model with save_pretrained and "
    "give that directory as --model-path"
)
"""The advice for adapters that PEFT can merge and this package can't."""

MAX_CONFIG_BYTES: Final = 10_000_000
"""Real files have a few kilobytes."""

_MAX_PATTERN = 1000
_MATCH_SECONDS = 1.0
"""Limits for the regular expressions in a file, which could take forever."""

_VARIANTS = (
    "alora_invocation_tokens",
    "layer_replication",
    "megatron_config",
    "target_parameters",
    "trainable_token_indices",
)
"""Settings of adapters that are more than two factors for each matrix."""

_HARMLESS = frozenset(
    (
        "use_dora",
        "use_rslora",
        # Initializations of the factors; init_lora_weights tells whether they change
        # the base model's weights.
        "corda_config",
        "eva_config",
        "loftq_config",
        "lora_ga_config",
        "runtime_config",
    )
)
"""Settings with a name like a variant's that are read here or don't matter."""

_CHANGES_WEIGHTS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initializations that subtract the initial factors from the base model's weights."""


@functools.cache
def _module_pattern(pattern: str) -> regex.Pattern[str]:
    """Compiles a pattern as PEFT matches it: the whole path, or its end after a dot.

    Raises:
        regex.error: If it is too long or not a regular expression.
    """
    if len(pattern) > _MAX_PATTERN:
        raise regex.error("too long")
    return regex.compile(rf"(.*\.)?({pattern})$")


def _check_patterns(values: dict[str, Any]) -> dict[str, Any]:
    for pattern in values:
        try:
            _module_pattern(pattern)
        except regex.error as error:
            raise PydanticCustomError(
                "regular_expression",
                "must have regular expressions as keys ({reason})",
                {"reason": str(error)},
            ) from error
    return values


@dataclass(frozen=True)
class AdapterConfig(ConfigSection):
    """A LoRA adapter's settings.

    Attributes:
        rank: The factors' inner size.
        alpha: Divided by the rank, or by its root, this scales the product.
        is_rank_stabilized: True if alpha is divided by the root of the rank.
        has_magnitudes: True for DoRA, which also learns the norm of each row.
        has_biases: True if the second factor has a bias, which adds to the module's.
        rank_patterns: Regular expressions of modules with another rank.
        alpha_patterns: Regular expressions of modules with another alpha.
        modules_to_save: Modules that the adapter replaces.
        base_model: The model that the adapter was trained for, as a hint.
    """

    file: ClassVar[str] = CONFIG_FILE

    rank: Size = Field(default=8, validation_alias="r")
    alpha: PositiveNumber = Field(default=8.0, validation_alias="lora_alpha")
    is_rank_stabilized: StrictBool = Field(default=False, validation_alias="use_rslora")
    has_magnitudes: StrictBool = Field(default=False, validation_alias="use_dora")
    has_biases: StrictBool = Field(default=False, validation_alias="lora_bias")
    rank_patterns: Annotated[dict[str, Size], AfterValidator(_check_patterns)] = Field(
        default_factory=dict, validation_alias="rank_pattern"
    )
    alpha_patterns: Annotated[
        dict[str, Annotated[PositiveNumber, Field(le=MAX_SIZE)]],
        AfterValidator(_check_patterns),
    ] = Field(default_factory=dict, validation_alias="alpha_pattern")
    modules_to_save: tuple[StrictStr, ...] = ()
    base_model: StrictStr | None = Field(
        default=None, validation_alias="base_model_name_or_path"
    )

    def rank_of(self, module: str) -> int:
        """Returns the rank of a module.

        Args:
            module: The module's path as the adapter spells it, like the patterns.

        Raises:
            ConfigError: If a pattern takes too long to match.
        """
        return _first_match(self.rank_patterns, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Returns the number that scales the product of a module's factors.

        Args:
            module: The module's path as the adapter spells it, like the patterns.

        Raises:
            ConfigError: If a pattern takes too long to match.
        """
        rank = self.rank_of(module)
        alpha = _first_match(self.alpha_patterns, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)


def read_adapter_config(directory: Path) -> AdapterConfig:
    """Reads ``adapter_config.json``.

    Raises:
        ConfigError: If it is damaged, or a setting has a wrong type or value.
        CheckpointError: If it is missing, or the adapter can't be merged here.
    """
    values = _read_json(directory / CONFIG_FILE)
    if isinstance(values, Mapping):
        _refuse_other_kinds(directory, values)
    return AdapterConfig.from_dict(values)


def _read_json(path: Path) -> Any:
    """Reads the file, and explains what else the directory may be if there is none."""
    directory = path.parent
    if not directory.is_dir():
        raise CheckpointError(
            f"there is no directory {directory}; --lora-path takes one with "
            f"{CONFIG_FILE} and the adapter's weights"
        )
    if not path.is_file():
        is_model = (directory / "config.json").is_file()
        raise CheckpointError(
            f"{directory} has no {CONFIG_FILE}; "
            + (
                "it is a whole model, which --model-path takes"
                if is_model
                else "--lora-path takes a directory that PEFT has written"
            )
        )
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise CheckpointError(
            f"{path} can't be read: {error.strerror or error}"
        ) from error
    try:
        return json.loads(content if len(content) <= MAX_CONFIG_BYTES else b"")
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON; download it again") from error


def _refuse_other_kinds(directory: Path, values: Mapping[str, Any]) -> None:
    """Refuses adapters that are more than low-rank factors and magnitudes."""
    kind = values.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{directory} is an adapter of the type {quoted(kind)}; only LORA is "
            "supported, so "
            + (MERGE_WITH_PEFT if kind else "look for another directory")
        )
    for key, value in values.items():
        is_named_like_one = key.startswith("use_") or key.endswith("_config")
        if value and (key in _VARIANTS or (is_named_like_one and key not in _HARMLESS)):
            raise CheckpointError(
                f"{directory} was made with {quoted(key)}, which is not supported; "
                f"{MERGE_WITH_PEFT}"
            )
    start = str(values.get("init_lora_weights")).lower()
    if start.startswith(_CHANGES_WEIGHTS):
        raise CheckpointError(
            f"{directory} was made with init_lora_weights {quoted(start)}, which "
            f"changes the base model's weights; {MERGE_WITH_PEFT}"
        )


def _first_match(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """Returns the value of the first pattern that matches a module's path."""
    for pattern, value in patterns.items():
        try:
            if _module_pattern(pattern).match(module, timeout=_MATCH_SECONDS):
                return value
        except TimeoutError:
            raise ConfigError(
                f"{CONFIG_FILE}: the regular expression {quoted(pattern)} takes too "
                f"long to match {module}"
            ) from None
    return default
