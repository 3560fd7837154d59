"""Options under headings, as the commands' help shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

MODEL: Final = "Model"
COMPUTE: Final = "Computing and limits"
IMAGES: Final = "Images"
QUESTION: Final = "Question"
ANSWER: Final = "Answer"
SERVER: Final = "Server"
OUTPUT: Final = "Output"
OTHERS: Final = "Others"


class SectionedOption(click.Option):
    """An option that belongs under a heading."""

    def __init__(self, *args: Any, section: str, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.section = section


def option(
    *names: str, section: str, **settings: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``click.option`` with the heading of the help that it belongs under."""
    return click.option(*names, cls=SectionedOption, section=section, **settings)


class SectionedCommand(click.Command):
    """A command whose help lists its options under their headings, as they come.

    Options without a heading are in the last section.
    """

    others = OTHERS
    """The last section's heading."""

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Lists the options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                heading = getattr(param, "section", self.others)
                sections.setdefault(heading, []).append(record)
        others = sections.pop(self.others, [])
        for heading, records in [*sections.items(), (self.others, others)]:
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
