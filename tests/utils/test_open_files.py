"""A server that may open too few files says so when it starts."""

from __future__ import annotations

import resource

import pytest

from mllama.errors import MllamaError
from mllama.utils.open_files import check_open_files


@pytest.mark.parametrize("hard", [resource.RLIM_INFINITY, 128, 4096])
def test_a_limit_that_is_enough(monkeypatch: pytest.MonkeyPatch, hard: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, hard))
    check_open_files()


def test_a_limit_that_is_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, 64))
    with pytest.raises(MllamaError, match=r"open files is 64, and .* at least 128"):
        check_open_files()
