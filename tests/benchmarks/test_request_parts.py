"""The parts of a request, from what the annotations add up to."""

from __future__ import annotations

import ctypes
import shutil
import time
from pathlib import Path

import pytest

from benchmarks.compare import ceilings
from benchmarks.compare.request_parts import (
    ATTENTION,
    KEYS_VALUES,
    MATMULS,
    OTHER_VISION,
    kind_of,
    read_spans,
    request_parts,
)
from benchmarks.compare.results import Results


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("mo.matmul", MATMULS),
        ("mllama_padded_attention", ATTENTION),
        ("mllama_three_block_products", KEYS_VALUES),
        ("mllama_image_store", KEYS_VALUES),
        ("Epilogue(matmul, gelu, operandIndices=[0])", MATMULS),
        ("reduce.softmax", ATTENTION),
        ("flash_attention_cpu", ATTENTION),
        ("vroom_q4_k_matmul", KEYS_VALUES),
        ("mo.kv_cache.store", KEYS_VALUES),
        ("layer_norm", OTHER_VISION),
    ],
)
def test_operations_belong_to_parts(operation: str, kind: str) -> None:
    assert kind_of(operation) == kind


def test_parts_add_up_to_the_request() -> None:
    found = Results(date="", command="", machine={})
    assert request_parts(found) == {}
    found.operations = {
        "vision graph": {
            "matmul": 3.0,
            "softmax": 1.0,
            "qmatmul": 0.5,
            "gather": 0.5,
            "max._core.engine.Model._execute_device_tensors": 9.0,
        },
        "request": {
            "whole": 20.0,
            "preparing": 1.0,
            "vision": 10.0,
            "prefill_graph": 2.0,
            "decode_graphs": 4.0,
            "sampling": 1.0,
        },
    }
    parts = request_parts(found)
    assert sum(parts.values()) == pytest.approx(20)
    assert parts[MATMULS] == pytest.approx(6)
    assert parts[ATTENTION] == pytest.approx(2)
    assert parts[KEYS_VALUES] == pytest.approx(1)
    assert parts["scheduler"] == pytest.approx(2)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_spans_lose_what_their_children_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceilings, "FOLDER", tmp_path)
    library = ceilings.compiled("spans", "-shared", "-fPIC", suffix=".so")
    spans = ctypes.CDLL(str(library))
    spans.m_ext_profiler_range_push(b"outer", 0)
    time.sleep(0.02)
    spans.m_ext_profiler_range_push(b"inner\tname", 0)
    time.sleep(0.05)
    spans.m_ext_profiler_range_pop()
    spans.m_ext_profiler_range_pop()
    assert spans.m_ext_profiler_range_pop() == 0
    path = tmp_path / "spans"
    assert spans.spans_write(str(path).encode())
    found = read_spans(path.read_text())
    assert set(found) == {"outer", "inner\tname"}
    assert found["inner\tname"] >= 0.05
    assert 0.02 <= found["outer"] < found["inner\tname"]
    spans.spans_reset()
    spans.spans_write(str(path).encode())
    assert read_spans(path.read_text()) == {}
