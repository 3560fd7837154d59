"""Commands whose help lists their options under headings."""

from __future__ import annotations

from typing import Any

import click

from mllama.cli.repeated_options import SingleValueCommand


class SectionedOption(click.Option):
    """An option that belongs under a heading."""

    def __init__(self, *args: Any, section: str, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.section = section


class SectionedCommand(SingleValueCommand):
    """A command whose help lists its options under their headings, in their order.

    The last section lists the options without a heading.
    """

    last_section = "Other options"
    """Heading of the last section."""

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Lists the options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                heading = getattr(param, "section", self.last_section)
                sections.setdefault(heading, []).append(record)
        last = sections.pop(self.last_section, [])
        for heading, records in [*sections.items(), (self.last_section, last)]:
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
