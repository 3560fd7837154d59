"""``mllama cache``: what is kept between starts."""

from __future__ import annotations

import time

import click

from mllama.cli.cache_entries import KINDS, cache_entries
from mllama.utils.cache_dir import cache_root
from mllama.utils.sizes import format_bytes

_kinds = click.argument("kinds", nargs=-1, type=click.Choice(list(KINDS)))


@click.group()
def cache() -> None:
    """Show or empty the cache: compiled models, quantized checkpoints, small files.

    It lies in ~/.cache/mllama, or where MLLAMA_CACHE says.  Whatever is removed is made
    again when it is needed.  MAX's own cache and the hub's are not touched.
    """


@cache.command("list")
@_kinds
def list_(kinds: tuple[str, ...]) -> None:
    """List what the cache holds, of these KINDS or of all."""
    click.echo(f"{cache_root()}")
    for kind in kinds or KINDS:
        things = list(cache_entries(kind))
        total = sum(thing.bytes for thing in things)
        click.echo(f"\n{KINDS[kind]}: {format_bytes(total)}")
        for thing in things:
            date = time.strftime("%Y-%m-%d %H:%M", time.localtime(thing.modified))
            line = f"  {date}  {format_bytes(thing.bytes):>10}  {thing.path.name}"
            click.echo(f"{line}  {thing.description}".rstrip())


@cache.command()
@_kinds
def clear(kinds: tuple[str, ...]) -> None:
    """Remove what the cache holds, of these KINDS or of all."""
    freed = 0
    for kind in kinds or KINDS:
        for thing in cache_entries(kind):
            thing.remove()
            freed += thing.bytes
    click.echo(f"removed {format_bytes(freed)} from {cache_root()}")
