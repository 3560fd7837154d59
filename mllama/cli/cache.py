"""``mllama cache``: lists and clears the cache."""

from __future__ import annotations

import time

import click

from mllama.cli.cache_entries import KINDS, entries_of
from mllama.utils.cache_dir import cache_root
from mllama.utils.sizes import format_bytes

_kinds = click.argument("kinds", nargs=-1, type=click.Choice(list(KINDS)))


@click.group()
def cache() -> None:
    """List or clear the cache: compiled models, quantized checkpoints, small files.

    The cache is in ~/.cache/mllama, or in the directory that MLLAMA_CACHE names.
    Removed entries are recreated when they are needed. The caches of MAX and of the
    Hugging Face hub are left alone.
    """


@cache.command("list")
@_kinds
def list_(kinds: tuple[str, ...]) -> None:
    """List the cache entries of these KINDS, or of all."""
    click.echo(f"{cache_root()}")
    for kind in kinds or KINDS:
        entries = list(entries_of(kind))
        total = sum(entry.bytes for entry in entries)
        click.echo(f"\n{KINDS[kind]}: {format_bytes(total)}")
        for entry in entries:
            date = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.modified))
            line = f"  {date}  {format_bytes(entry.bytes):>10}  {entry.path.name}"
            click.echo(f"{line}  {entry.description}".rstrip())


@cache.command()
@_kinds
def clear(kinds: tuple[str, ...]) -> None:
    """Remove the cache entries of these KINDS, or of all."""
    freed = 0
    for kind in kinds or KINDS:
        for entry in entries_of(kind):
            entry.remove()
            freed += entry.bytes
    click.echo(f"removed {format_bytes(freed)} from {cache_root()}")
