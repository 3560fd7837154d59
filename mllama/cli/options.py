"""Options of the commands, made from the tables that describe them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from mllama.cli.command_table import ALL_OPTIONS
from mllama.cli.sections import SectionedOption
from mllama.demo_model import MODEL_PATH
from mllama.errors import shortened
from mllama.launch.option import Kind, Option, Taker

USING_DEMO: Final = (
    "mllama: no --model-path given: using the small demo model that ships with this "
    "package, which knows only simple drawn scenes"
)

_Command = Callable[..., Any]


class _Bias(click.ParamType[tuple[int, float]]):
    """A token's id and its bias, ``ID=BIAS``."""

    name = "bias"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, float]:
        """Returns the id and the bias."""
        token, _, bias = str(value).partition("=")
        try:
            return int(token), float(bias)
        except ValueError:
            self.fail(
                f"{value!r} is not a token's id and a number, ID=BIAS", param, ctx
            )


class _Json(click.ParamType[Any]):
    """A JSON object or list, or the name of a file with one."""

    name = "json"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Returns the plain data."""
        text = str(value)
        is_file = not text.lstrip().startswith(("{", "["))
        try:
            if is_file:
                text = Path(text).read_text(encoding="utf-8-sig")
            return json.loads(text)
        except OSError as error:
            self.fail(
                f"{shortened(text)} is neither JSON nor a file: {error.strerror}",
                param,
                ctx,
            )
        except (ValueError, RecursionError) as error:
            name = f"{shortened(str(value))} is" if is_file else "the value is"
            self.fail(f"{name} not JSON: {error}", param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Has the shell complete the name of a file."""
        return click.Path().shell_complete(ctx, param, incomplete)


_TYPES: Final[dict[Kind, click.ParamType[Any] | None]] = {
    "text": None,
    "path": click.Path(),
    "integer": click.INT,
    "count": click.IntRange(min=1),
    "number": click.FLOAT,
    "flag": None,
    "switch": None,
    "bias": _Bias(),
    "json": _Json(),
}


def options_of(
    command: Taker, **settings: dict[str, Any]
) -> Callable[[_Command], _Command]:
    """Adds every option that the tables list for a command.

    Args:
        command: Name of the command.
        settings: Arguments of ``click.Option`` by the names of the options, for those
            that need more than the tables say.
    """
    options = [option for option in ALL_OPTIONS if command in option.takers]

    def add(function: _Command) -> _Command:
        # A decorator adds its option before those that were added already.
        for option in reversed(options):
            extra = settings.get(option.name, {})
            function = _click_option(option, extra)(function)
        return function

    return add


def _click_option(
    option: Option, extra: dict[str, Any]
) -> Callable[[_Command], _Command]:
    arguments: dict[str, Any] = {
        "help": f"{option.help} Repeatable." if option.repeatable else option.help,
        "metavar": option.metavar,
        "required": option.required,
        "section": option.section,
        "type": click.Choice(option.choices) if option.choices else _TYPES[option.kind],
    }
    if option.repeatable:
        arguments["multiple"] = True
    elif option.kind in ("flag", "switch"):
        arguments["is_flag"] = True
        arguments |= {"default": None} if option.kind == "switch" else {}
    elif option.default is not None:
        arguments["default"] = option.default
    spelled = option.option_name
    if option.kind == "switch":
        spelled += f"/{option.opposite}"
    names = [name for name in (spelled, option.alias, option.name) if name]
    return click.option(*names, cls=SectionedOption, **(arguments | extra))


def model_or_demo(model_path: str | None) -> str:
    """Returns the given model, or announces the demo model on stderr and returns it."""
    if model_path is None:
        click.echo(USING_DEMO, err=True)
        return str(MODEL_PATH)
    return model_path
