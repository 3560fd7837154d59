"""A batch's tokens have room for each single sequence."""

from __future__ import annotations

import pytest

from mllama.errors import MllamaError
from mllama.server.scheduler_limits import check_total_tokens


@pytest.mark.parametrize(
    ("total", "longest"), [(None, 500), (512, 500), (512, 512), (1, None)]
)
def test_limits_with_room_for_a_sequence(
    total: int | None, longest: int | None
) -> None:
    check_total_tokens(total, longest, 128)


@pytest.mark.parametrize(("total", "longest"), [(500, 500), (511, 500), (512, 513)])
def test_limits_that_a_sequence_exceeds(total: int, longest: int) -> None:
    with pytest.raises(MllamaError, match=r"must be at least (512|640), the context"):
        check_total_tokens(total, longest, 128)
