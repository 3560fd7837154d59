"""The command ``mllama`` and its exit codes."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from importlib.metadata import version

import click

from mllama.cli.interrupt import INTERRUPTED, exit_on_interrupt
from mllama.errors import MllamaError
from mllama.version import __version__

BAD_INPUT = 2
"""Exit code after an error in the user's input."""

COMMANDS = {
    "demo": "Ask a small model about pictures, to see everything work.",
    "chat": "Chat about pictures in the terminal.",
    "generate": "Answer conversations about images.",
    "batch": "Answer a file of requests, or ask about many pictures.",
    "explain": "Show where in its images each word of an answer looked.",
    "serve": "Serve the APIs of OpenAI, Anthropic and Ollama with MAX Serve.",
    "cluster": "Serve many replicas of the model on a Ray cluster.",
    "quantize": "Quantize a checkpoint to one GGUF file.",
    "compile": "Compile a model ahead of time.",
    "cache": "List or clear the cache.",
    "doctor": "Show information for a problem report.",
    "completion": "Print the script that lets a shell complete this command.",
}
"""Commands with their line in the help; each is a module of this package."""


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names of the subcommands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Imports a subcommand and returns it, or None if the name is unknown."""
        if name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"mllama.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Lists the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"max_content_width": 100})
@click.version_option(
    __version__,
    prog_name="mllama",
    message=f"%(prog)s %(version)s (MAX {version('max')})",
)
def group() -> None:
    """Llama 3.2 Vision on MAX: chat about images on your own machine."""


def main() -> None:
    """Runs the command line.

    An error in the user's input ends it with one line and exit code 2.
    """
    exit_on_interrupt()
    try:
        group.main(prog_name="mllama", standalone_mode=False)
    except MllamaError as error:
        _exit_with_error(str(error))
    except click.UsageError as error:
        _exit_with_error(error.format_message(), error.ctx)
    except click.ClickException as error:
        _exit_with_error(error.format_message())
    except (KeyboardInterrupt, click.Abort):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader of the answer has gone, so nothing may be flushed to the pipe.
        os._exit(128 + signal.SIGPIPE)


def _exit_with_error(message: str, ctx: click.Context | None = None) -> None:
    line = " ".join(message.split())
    if ctx is not None:
        line += f" (see '{ctx.command_path} --help')"
    print(f"error: {line}", file=sys.stderr)
    sys.exit(BAD_INPUT)
