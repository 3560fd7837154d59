"""Draws values that fit JSON schemas, with hypothesis-jsonschema."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import hypothesis_jsonschema._from_schema as from_schema_module
from hypothesis import strategies as st
from hypothesis.internal.conjecture import utils
from hypothesis_jsonschema import from_schema

# hypothesis-jsonschema 0.23, its last release, uses a class that Hypothesis has changed
# since. No public name of either takes its place, and without this one no value of an
# array or an object can be drawn.
if version("hypothesis-jsonschema").split(".")[:2] != ["0", "23"]:
    raise ImportError(
        "this file adapts hypothesis-jsonschema 0.23; try without it, or adapt it"
    )


class _Many(utils.many):
    """Hypothesis's collections in the form that hypothesis-jsonschema 0.23 uses."""

    def more(self) -> bool:
        """Returns True if another element is to be drawn."""
        if self._depth is None:
            self.__enter__()
            self._elements = iter(self)
        try:
            next(self._elements)
        except StopIteration:
            self.__exit__(None, None, None)
            return False
        return True


class _Utils:
    """Hypothesis's module with that class."""

    many = _Many

    def __getattr__(self, name: str) -> Any:
        return getattr(utils, name)


from_schema_module.cu = _Utils()


def instances(schema: Any) -> st.SearchStrategy[Any]:
    """Returns a strategy of values that fit a schema."""
    return from_schema(schema)
