"""``--config-file``: a YAML file whose values are the command's defaults.

MAX has such files for its own options.  Here every option of the command may be in one,
and all take the same way as those of the command line: a model that MAX itself read
from a file would miss our checks.
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
"""What MAX groups its options under in a file; a file may also do without."""

_OTHER_NAMES: Final = {"model": "model_path", "device_specs": "devices"}


def read_config_file(path: str, names: Collection[str]) -> dict[str, Any]:
    """The values in a file, by the names of the command's parameters.

    Args:
        path: A YAML file: ``max-length`` or ``max_length`` and their values, at the top
            or in MAX's sections.
        names: Names of the parameters.

    Raises:
        MllamaError: If it can't be read, or names something that is no option.
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
        raise MllamaError(f"{path} must hold options and their values, as `port: 8000`")
    values: dict[str, Any] = {}
    for key, value in _flattened(content):
        name = str(key).replace("-", "_")
        name = _OTHER_NAMES.get(name, name)
        if name not in names or name == "config_file":
            raise MllamaError(
                f"{path} names {key!r}, which is no option of this command"
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
        MllamaError: As :func:`read_config_file`, or if a value is a list where one is
            asked for, or the other way round.
    """
    if path is None or context.resilient_parsing:
        return
    options = {
        str(each.name): each
        for each in context.command.get_params(context)
        if isinstance(each, click.Option)
    }
    values = read_config_file(path, options)
    for name, value in values.items():
        if options[name].multiple and not isinstance(value, list):
            values[name] = [value]
        elif isinstance(value, list) and not options[name].multiple:
            raise MllamaError(f"{path}: {name} takes one value, not a list")
    context.default_map = values
