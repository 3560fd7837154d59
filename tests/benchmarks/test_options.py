"""Options of `make bench`."""

from __future__ import annotations

import argparse

import pytest

from benchmarks.compare.__main__ import _isas, _letters, _variant
from benchmarks.compare.isa import ISAS, NATIVE
from benchmarks.compare.variants import Variant


def test_instruction_sets_are_measured_in_the_given_order() -> None:
    assert _isas("avx2,native") == [ISAS["avx2"], NATIVE]
    with pytest.raises(argparse.ArgumentTypeError, match="'avx3' is not of native"):
        _isas("avx2,avx3")


def test_another_option_makes_another_engine() -> None:
    made = _variant("int8:vision_encoding=int8")
    assert made == {"int8": Variant("abcdef", {"vision_encoding": "int8"})}
    for text in ("int8", "int8:vision_encoding", ":a=b", "a:=b"):
        with pytest.raises(argparse.ArgumentTypeError, match="NAME:OPTION=VALUE"):
            _variant(text)


def test_workloads_are_letters() -> None:
    assert _letters("a,c") == "ac"
    for text in ("", "a,z"):
        with pytest.raises(argparse.ArgumentTypeError, match="must be of a,b"):
            _letters(text)
