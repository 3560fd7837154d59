"""What asks for attention maps, and how clear maps are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mllama.errors import RequestError
from mllama.requests.attention import AttentionOptions, check_size
from mllama.requests.map_entropy import map_entropy

LAYERS, HEADS = (3, 8), 4


@pytest.mark.parametrize("value", [None, False])
def test_nothing_asks_for_no_maps(value: Any) -> None:
    assert AttentionOptions.of(value) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, [(layer, head) for layer in LAYERS for head in range(HEADS)]),
        ({"layers": "last"}, [(8, head) for head in range(HEADS)]),
        ({"layers": [3], "heads": [2, 1, 2]}, [(3, 1), (3, 2)]),
        ({"layers": "all", "heads": [0]}, [(3, 0), (8, 0)]),
        ({"heads": [[8, 3], [3, 0]]}, [(3, 0), (8, 3)]),
        (AttentionOptions(heads=[(3, 1)]), [(3, 1)]),
    ],
)
def test_heads_are_named(value: Any, expected: list[tuple[int, int]]) -> None:
    options = AttentionOptions.of(value)
    assert options is not None
    assert options.chosen(LAYERS, HEADS) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1, "attention must be true, false or an object"),
        ("yes", "attention must be true, false or an object"),
        ({"layer": [3]}, "attention has no layer; it has layers, heads, prompt"),
        ({"layers": []}, "attention.layers must be"),
        ({"layers": "first"}, "attention.layers must be"),
        ({"layers": [True]}, "attention.layers must be"),
        ({"heads": "best"}, "attention.heads must be"),
        ({"heads": [[1]]}, "attention.heads must be"),
        ({"heads": [1, [2, 3]]}, "attention.heads must be"),
        ({"layers": "last", "heads": [[3, 0]]}, "can't be combined with"),
        ({"prompt": 1}, "attention.prompt must be true or false"),
    ],
)
def test_other_values_are_refused(value: Any, message: str) -> None:
    with pytest.raises(RequestError) as error:
        AttentionOptions.of(value)
    assert message in str(error.value)
    assert error.value.param == "attention"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"layers": [4]},
            "layer 4 has no cross-attention; the layers that have it",
        ),
        ({"heads": [[2, 0]]}, "layer 2 has no cross-attention"),
        ({"heads": [4]}, "there is no head 4; heads are numbered from 0 to 3"),
        ({"heads": [-1]}, "there is no head -1"),
    ],
)
def test_heads_that_the_model_lacks_are_refused(value: Any, message: str) -> None:
    options = AttentionOptions.of(value)
    assert options is not None
    with pytest.raises(RequestError, match=message):
        options.chosen(LAYERS, HEADS)


def test_maps_that_are_too_large_are_refused() -> None:
    class Grid:
        image_tokens = 6404

    check_size(5000, [Grid()])  # type: ignore[list-item]
    with pytest.raises(RequestError, match="attention maps of 3000 tokens over 12808"):
        check_size(3000, [Grid(), Grid()])  # type: ignore[list-item]


def test_the_entropy_is_low_for_one_place_and_high_for_little_attention() -> None:
    one, even, little, none = np.zeros((4, 16), np.float32)
    one[3] = 1
    even[:] = 1 / 16
    little[3] = 0.25
    result = map_entropy(np.stack([one, even, little, none]))
    np.testing.assert_allclose(
        result[:3], [0, np.log(16), np.log(4)], rtol=1e-5, atol=1e-6
    )
    assert result[3] > np.log(16)
