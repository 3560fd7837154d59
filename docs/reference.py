"""Writes what is made of the option tables: ``python -m docs.reference``.

That is ``docs/options.md``, the descriptions of arguments in ``mllama/llm/``, and the
tables of the APIs' fields in the pages of ``docs.api_fields.PAGES``.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from docs.api_fields import PAGES, with_tables
from mllama.cli.command_table import ALL_OPTIONS
from mllama.launch.option import Option

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "options.md"
API_PAGES = {ROOT / "docs" / name: sections for name, sections in PAGES.items()}
LLM_FILES = [ROOT / "mllama" / "llm" / name for name in ("model.py", "answering.py")]

_WIDTH = 88

_INTRODUCTION = """\
# Options

Every option of `mllama generate`, `chat`, `batch`, `serve`, `compile` and `quantize`,
with the argument of `mllama.LLM` or `LLM.chat` that means the same. `mllama COMMAND
--help` shows those of one command.

`mllama serve` also takes MAX Serve's own options, which `mllama serve --help` lists
last. MAX offers them for all of its models, and not every one has an effect on this
model.

This page is generated from the tables in `mllama/launch/model_options.py`,
`mllama/launch/prompt_options.py`, `mllama/launch/sampling_options.py` and
`mllama/cli/*_options.py`: change those, then run `python -m docs.reference`.
"""

_TYPES = {
    "text": "text",
    "path": "path",
    "integer": "integer",
    "count": "integer, at least 1",
    "number": "number",
    "flag": "flag, takes no value",
    "switch": "flag, takes no value",
    "json": "JSON, or the name of a file with it; plain data in Python",
    "bias": "a token's id, an equals sign and a number",
}

_OPTION_NAME = re.compile(r"(--[a-z-]+)")

_ARGUMENT = re.compile(r"^( +)(\w+): .*\n(?:\1 +\S.*\n)*", re.MULTILINE)
"""An argument in a docstring: its indent, its name and its description."""


def options_page() -> str:
    """Returns the text of ``docs/options.md``."""
    sections: dict[str, dict[str, list[Option]]] = {}
    for option in ALL_OPTIONS:
        entries = sections.setdefault(option.section, {})
        entries.setdefault(_heading(option), []).append(option)
    lines = [_INTRODUCTION]
    for section, entries in sections.items():
        lines.append(f"## {section}\n")
        for heading, options in entries.items():
            lines.append(f"### {heading}\n")
            for option in options:
                lines += [*_entry(option), ""]
    return "\n".join(lines).rstrip() + "\n"


def _heading(option: Option) -> str:
    if not _commands(option):
        return f"`{option.name}`"
    names = [option.option_name, *([option.alias] if option.alias else [])]
    if option.kind == "switch":
        names.append(option.opposite)
    return ", ".join(f"`{name}`" for name in names)


def _entry(option: Option) -> list[str]:
    text = f"{option.description} {option.details}".strip()
    lines = [_wrapped(_OPTION_NAME.sub(r"`\1`", text)), ""]
    takers = [f"`{command}`" for command in _commands(option)]
    if "LLM" in option.takers:
        callee = "LLM.chat" if option.request_field else "LLM"
        takers.append(f"`{callee}({option.name}=...)`")
    if option.request_field:
        takers.append(f"`{option.request_field}` in requests to the server")
    lines.append(_wrapped(f"- Taken by: {', '.join(takers)}", "  "))
    kind = _TYPES[option.kind]
    if option.choices:
        kind = "one of " + ", ".join(f"`{choice}`" for choice in option.choices)
    if option.repeatable:
        kind += "; may be given several times"
        form = "dict" if option.kind == "bias" else "list"
        kind += f", and is a {form} in Python" if "LLM" in option.takers else ""
    lines.append(f"- Type: {kind}")
    if option.required:
        lines.append("- Required")
    elif default := _default(option):
        default = _OPTION_NAME.sub(r"`\1`", default)
        lines.append(_wrapped(f"- Default: {default}", "  "))
    return lines


def _default(option: Option) -> str:
    if option.kind == "flag":
        return "off"
    if option.python_default_text:
        return f"{option.shown_default}; for `LLM` {option.python_default_text}"
    return option.shown_default


def _commands(option: Option) -> list[str]:
    return [taker for taker in option.takers if taker != "LLM"]


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def with_descriptions(source: str) -> str:
    """Returns Python source whose docstrings describe the arguments as the tables do.

    Args:
        source: Source in which the tables' options are arguments of ``LLM``.
    """
    options = {option.name: option for option in ALL_OPTIONS if "LLM" in option.takers}

    def described(match: re.Match[str]) -> str:
        indent, name = match.groups()
        if name not in options:
            return match[0]
        text = textwrap.fill(
            f"{name}: {options[name].docstring}",
            _WIDTH,
            initial_indent=indent,
            subsequent_indent=f"{indent}    ",
            break_on_hyphens=False,
        )
        return f"{text}\n"

    parts = source.split('"""')
    parts[1::2] = [_ARGUMENT.sub(described, docstring) for docstring in parts[1::2]]
    return '"""'.join(parts)


def main() -> None:
    """Writes the pages and the docstrings."""
    for page, sections in API_PAGES.items():
        text = page.read_text(encoding="utf-8")
        page.write_text(with_tables(text, sections), encoding="utf-8")
    PAGE.write_text(options_page(), encoding="utf-8")
    for file in LLM_FILES:
        source = file.read_text(encoding="utf-8")
        file.write_text(with_descriptions(source), encoding="utf-8")


if __name__ == "__main__":
    main()
