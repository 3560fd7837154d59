"""``--config-file``: a YAML file whose values become the command's defaults.

MAX reads such files for its own options.  Here a file may set every option of the
command, and its values are checked like those of the command line: a model that MAX
itself read from a file would miss this package's checks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import click

from mllama.errors import MllamaError

SECTIONS: Final = frozenset(
    {
        "model",
        "runtime",
        "sampling",
        "kv_cache",
        "profiling",
        "lora",
        "denoising_cache",
        "speculative",
    }
)
"""Sections that MAX groups its options under; they are optional."""

_ALIASES: Final = {"model": "model_path", "device_specs": "devices"}


def read_config_file(path: str, names: Collection[str]) -> dict[str, Any]:
    """Returns the values in a file, by the names of the command's parameters.

    Args:
        path: A YAML file with options such as ``max-length`` or ``max_length``, at the
            top level or in MAX's sections.
        names: Names of the command's parameters.

    Raises:
        MllamaError: If the file can't be read, or names an unknown option.
    """
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise MllamaError(f"{path} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise MllamaError(f"{path} is not YAML: {reason}") from error
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise MllamaError(
            f"{path} must contain options and their values, such as `port: 8000`"
        )
    values: dict[str, Any] = {}
    for key, value in _flattened(content):
        name = str(key).replace("-", "_")
        name = _ALIASES.get(name, name)
        if name not in names or name == "config_file":
            raise MllamaError(
                f"{path} names {key!r}, which is not an option of this command"
            )
        if name in values:
            raise MllamaError(f"{path} names {key!r} twice")
        if value is not None:
            values[name] = value
    return values


def _flattened(content: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    for key, value in content.items():
        if key in SECTIONS and isinstance(value, Mapping):
            yield from _flattened(value)
        else:
            yield key, value


def use_config_file(
    context: click.Context, param: click.Parameter, path: str | None
) -> None:
    """Makes a file's values the defaults of the options that are not given.

    Raises:
        MllamaError: If the file can't be read, names an unknown option, or has a list
            for an option that takes one value.
    """
    if path is None or context.resilient_parsing:
        return
    options = {
        str(option.name): option
        for option in context.command.get_params(context)
        if isinstance(option, click.Option)
    }
    values = read_config_file(path, options)
    for name, value in values.items():
        if options[name].multiple and not isinstance(value, list):
            values[name] = [value]
        elif isinstance(value, list) and not options[name].multiple:
            raise MllamaError(f"{path}: {name} takes one value, not a list")
    context.default_map = values


CONFIG_FILE_SETTINGS: Final[dict[str, Any]] = {
    "type": click.Path(dir_okay=False),
    "is_eager": True,
    "expose_value": False,
    "callback": use_config_file,
}
"""What makes an option of click the one that names such a file."""
