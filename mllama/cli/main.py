"""The command ``mllama`` and how it ends."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from importlib.metadata import version
from types import FrameType

import click

from mllama.errors import MllamaError
from mllama.utils.atomic_file import remove_unfinished
from mllama.version import __version__

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the signal's number."""

BAD_INPUT = 2

COMMANDS = {
    "demo": "Ask a small model about pictures, to see everything work.",
    "generate": "Answer conversations about images.",
    "serve": "Serve an OpenAI-compatible endpoint with MAX Serve.",
    "quantize": "Quantize a checkpoint to one GGUF file.",
    "compile": "Compile a model ahead of its start.",
    "cache": "Show or empty the cache.",
    "doctor": "Show what a report of a problem needs.",
    "completion": "Print a shell's script for completing this command.",
}
"""Commands and their line in the list; each is a module of this package."""


class LazyGroup(click.Group):
    """A group that imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Imports a command."""
        if name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"mllama.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Lists the commands without importing them."""
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
    """Runs the command line; a mistake of the user's is one line and exit code 2."""
    signal.signal(signal.SIGINT, _interrupted)
    try:
        group.main(prog_name="mllama", standalone_mode=False)
    except MllamaError as error:
        _refuse(str(error))
    except click.UsageError as error:
        _refuse(error.format_message(), error.ctx)
    except click.ClickException as error:
        _refuse(error.format_message())
    except (KeyboardInterrupt, click.Abort):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the answer has gone.  Nothing may be flushed to the pipe.
        os._exit(128 + signal.SIGPIPE)


def _refuse(message: str, ctx: click.Context | None = None) -> None:
    line = " ".join(message.split())
    if ctx is not None:
        line += f" (see '{ctx.command_path} --help')"
    print(f"error: {line}", file=sys.stderr)
    sys.exit(BAD_INPUT)


def _interrupted(signum: int, frame: FrameType | None) -> None:
    """Ends the program at once, wherever it is.

    A compilation can't be interrupted, and nothing here needs tidying up but a file
    that is being quantized: ``generate`` has no other process, and ``serve`` puts a
    handler of its own in this one's place before it starts any.
    """
    remove_unfinished()
    sys.stderr.write("\n")
    sys.stderr.flush()
    os._exit(INTERRUPTED)
