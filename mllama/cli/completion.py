"""``mllama completion``: prints the script that lets a shell complete this command."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that lets SHELL complete commands, options and paths.

    \b
    mllama completion bash >> ~/.bashrc
    mllama completion zsh >> ~/.zshrc
    mllama completion fish > ~/.config/fish/completions/mllama.fish
    """
    script = get_completion_class(shell)
    assert script is not None
    group = ctx.find_root().command
    click.echo(script(group, {}, "mllama", "_MLLAMA_COMPLETE").source())
