"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from mllama.utils.allocator import MemoryTrimmer, limit_allocator, resident_bytes
limit_allocator()
trimmer = MemoryTrimmer()
assert not trimmer.is_due()
before = resident_bytes()
# Blocks between which some stay in use; bytearrays come from malloc.
blocks = [bytearray(b"x") * 2000 for _ in range(50_000)]
kept = blocks[::1000]
del blocks
assert resident_bytes() > before + (80 << 20)
assert trimmer.is_due()
trimmer.trim()
# Most is freed later.
assert trimmer.is_due()
for _ in range(30):
    trimmer.is_due()
assert not trimmer.is_due()
print(resident_bytes() - before >> 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_memory_goes_back() -> None:
    program = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(program, check=True, capture_output=True, text=True)
    assert int(result.stdout) < 20
