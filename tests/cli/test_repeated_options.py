"""An option that takes one value is refused when it is given twice."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from mllama.cli.main import COMMANDS, group
from mllama.cli.serve import ServeCommand, serve


def _options(command: click.Command) -> list[click.Option]:
    context = click.Context(command)
    return [p for p in command.get_params(context) if isinstance(p, click.Option)]


def _refusal(command: click.Command, args: list[str]) -> str | None:
    context = click.Context(command)
    try:
        command.parse_args(context, args)
    except click.UsageError as error:
        return error.format_message()
    return None


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "serve"])
def test_every_option_with_one_value_is_refused_twice(name: str) -> None:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    for option in _options(command):
        if option.is_flag or option.multiple:
            continue
        flag = option.opts[-1]
        refusal = _refusal(command, [flag, "1", f"{flag}=2"])
        assert refusal is not None
        assert "is given 2 times, but takes one value" in refusal


@pytest.mark.parametrize("flag", ["--lora-path", "--port", "--kv-cache-page-size"])
def test_serve_refuses_its_own_and_max_options_twice(
    flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllama.cli.serve.prespawn_worker", lambda **_: None)
    monkeypatch.setattr("mllama.cli.serve.block_torch", lambda: None)
    assert isinstance(serve, ServeCommand)
    refusal = _refusal(serve, [flag, "1", flag, "1"])
    assert refusal == f"{flag} is given 2 times, but takes one value"


def test_an_alias_counts_as_the_option() -> None:
    command = group.get_command(click.Context(group), "generate")
    assert command is not None
    with_alias = [option for option in _options(command) if len(option.opts) > 1]
    option = next(each for each in with_alias if not each.is_flag)
    args = [option.opts[0], "1", option.opts[1], "1"]
    message = _refusal(command, args)
    assert message is not None
    assert f"{max(option.opts, key=len)} is given 2 times" in message


def test_repeatable_options_and_flags_may_be_repeated() -> None:
    args = ["generate", "--image", "a.png", "--image", "b.png", "--force-download"]
    done = CliRunner().invoke(group, [*args, "--force-download"])
    assert "takes one value" not in str(done.exception) + done.output
    assert "--prompt or --messages is needed" in str(done.exception) + done.output


def test_the_command_line_ends_with_one_line() -> None:
    args = ["quantize", "a", "b.gguf", "--lora-path", "a", "--lora-path", "b"]
    done = CliRunner().invoke(group, args)
    assert done.exit_code == 2
    assert "--lora-path is given 2 times, but takes one value" in done.output
