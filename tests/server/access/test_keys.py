"""Keys from the command line, a file and the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllama.errors import MllamaError
from mllama.server.access.keys import KeyRing, read_keys


def test_keys_come_from_three_places(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# for the kitchen\nthree\n\n  four  \n")
    keys = read_keys(["one"], str(file), " two ,, ")
    assert keys == ("one", "two", "three", "four")
    ring = KeyRing(keys)
    assert all(ring.accepts(key) for key in keys)
    assert not any(ring.accepts(key) for key in ("", "five", "One", None))


def test_no_keys_are_no_ring() -> None:
    assert not KeyRing(read_keys([], None, None))
    assert not KeyRing(()).accepts("")


@pytest.mark.parametrize("key", ["", "a b", "schlüssel", "a\nb"])
def test_a_key_that_can_not_be_sent_is_refused(key: str) -> None:
    with pytest.raises(MllamaError, match="printable ASCII"):
        read_keys([key], None, None)


def test_a_file_without_keys_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# none\n")
    with pytest.raises(MllamaError, match="has no key"):
        read_keys([], str(file), None)
    with pytest.raises(MllamaError, match="can't be read"):
        read_keys([], str(tmp_path / "missing"), None)
