"""Commands that refuse an option which is given twice and takes one value."""

from __future__ import annotations

from collections import Counter

import click


class SingleValueCommand(click.Command):
    """A command that refuses repeated options, of which click takes the last.

    Options with several values may be repeated, and flags, whose repetition changes
    nothing.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments.

        Raises:
            click.UsageError: If an option that takes one value is given twice.
        """
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(list(args))
            for param, times in Counter(order).items():
                if times > 1 and _takes_one_value(param):
                    name = max(param.opts, key=len)
                    raise click.UsageError(
                        f"{name} is given {times} times, but takes one value", ctx
                    )
        return super().parse_args(ctx, args)


def _takes_one_value(param: click.Parameter) -> bool:
    return isinstance(param, click.Option) and not (
        param.multiple or param.is_flag or param.count
    )
