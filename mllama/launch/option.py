"""An option of the commands and of ``LLM``, as the tables describe it.

The commands make their options from the tables: ``model_options.py``,
``prompt_options.py`` and ``sampling_options.py``, and ``mllama/cli/*_options.py``
for those of single commands.  ``python -m docs.reference`` writes ``docs/options.md``
and the argument descriptions of :class:`mllama.llm.LLM` from them, and a test fails if
one of the two is stale.

These modules import nothing heavy: ``--help`` reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

MODEL: Final = "Model"
COMPUTE: Final = "Compute and limits"
IMAGES: Final = "Images"
QUESTION: Final = "Question"
ANSWER: Final = "Answer"

Taker = Literal[
    "generate",
    "chat",
    "batch",
    "explain",
    "serve",
    "cluster serve",
    "compile",
    "quantize",
    "LLM",
]

Kind = Literal[
    "text", "path", "integer", "count", "number", "flag", "switch", "bias", "json"
]
"""Types of values.  A count is an integer of at least 1; a path is completed by shells,
but may also name something that is not a file; a switch is a flag with an opposite, and
may be left open; a bias is a token's id and a number; json is plain data, or a file
with it."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option and its description.

    Attributes:
        name: Name of the parameter in Python.
        section: Heading that the commands' help and the reference page list it under.
        takers: Commands that take it, and ``LLM``.
        kind: Type of its value.
        description: Its effect, in full sentences, for users of every taker.
        metavar: Placeholder of the value in the commands' help.
        default: Value that the commands use if it is not given.
        default_text: A description of ``default``; None shows the value itself.
        python_default_text: A description of the default of ``LLM``, if that is None
            and not ``default``.
        details: Further sentences for the reference page and the docstrings only.
        flag: Option of the command line, if ``name`` doesn't give it.
        alias: Second spelling of the option on the command line.
        choices: Values that it takes; empty if they are not a fixed list.
        repeatable: Whether it may be given several times.
        required: Whether it must be given.
        request_field: Field with the same meaning in requests to the server.
    """

    name: str
    section: str
    takers: tuple[Taker, ...]
    kind: Kind
    description: str
    metavar: str | None = None
    default: Any = None
    default_text: str | None = None
    python_default_text: str | None = None
    details: str = ""
    flag: str | None = None
    alias: str | None = None
    choices: tuple[str, ...] = ()
    repeatable: bool = False
    required: bool = False
    request_field: str | None = None

    @property
    def option_name(self) -> str:
        """Returns the option as it is typed: ``--max-length``."""
        return self.flag or f"--{self.name.replace('_', '-')}"

    @property
    def opposite(self) -> str:
        """Returns a switch's opposite as it is typed: ``--no-max-length``."""
        return f"--no-{self.name.replace('_', '-')}"

    @property
    def shown_default(self) -> str:
        """Returns the commands' default as text; may be empty."""
        if self.default_text is not None:
            return self.default_text
        return "" if self.default is None else str(self.default)

    @property
    def help(self) -> str:
        """Returns the text of the commands' help."""
        return _joined(self.description, self.shown_default)

    @property
    def docstring(self) -> str:
        """Returns the text of an argument's description in a docstring."""
        default = self.python_default_text or self.shown_default
        return _joined(self.description, default, self.details)


def _joined(description: str, default: str, details: str = "") -> str:
    texts = (description, details, default and f"Default: {default}.")
    return " ".join(text for text in texts if text)
