"""Validation errors become one line that gives the path of the value."""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar

import pytest
from pydantic.dataclasses import dataclass

from mllama.config.validation import ConfigSection, Size
from mllama.errors import ConfigError


@dataclass(frozen=True)
class Example(ConfigSection):
    """A section with each kind of container."""

    file: ClassVar[str] = "example.json"
    section: ClassVar[str] = "part"

    sizes: dict[str, Size] = field(default_factory=dict)
    pair: tuple[Size, Size] = (1, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "example.json: part must be an object, not []"),
        ({"pair": [1]}, "example.json: part.pair[1] is missing"),
        ({"pair": 5}, "example.json: part.pair must be a list, not 5"),
        (
            {"pair": [1, 2, 3]},
            "example.json: part.pair must have at most 2 items, not [1, 2, 3]",
        ),
        (
            {"pair": [1, True]},
            "example.json: part.pair[1] must be a valid integer, not True",
        ),
        (
            {"sizes": {"a\nb": 1.0}},
            "example.json: part.sizes['a\\nb'] must be a valid integer, not 1.0",
        ),
    ],
)
def test_message_is_one_line_with_the_path(values: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Example.from_dict(values)
    assert str(caught.value) == message


def test_long_keys_and_values_are_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        Example.from_dict({"sizes": {1000 * "a-": 1000 * "x"}})
    assert len(str(caught.value)) < 300
