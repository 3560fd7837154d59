"""The parts of a request, computed from recorded spans."""

from __future__ import annotations

import ctypes
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.compare import ceilings
from benchmarks.compare.request_parts import (
    ATTENTION,
    KEYS_VALUES,
    MATMULS,
    OTHER_VISION,
    kind_of,
    request_parts,
)
from benchmarks.compare.results import Results
from benchmarks.compare.spans import read_shares, read_spans


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("mo.matmul", MATMULS),
        ("mllama_patch_attention", ATTENTION),
        ("mllama_gguf_fused_qkv", KEYS_VALUES),
        ("mllama_store_kv", KEYS_VALUES),
        ("Epilogue(matmul, gelu, operandIndices=[0])", MATMULS),
        ("reduce.softmax", ATTENTION),
        ("flash_attention_cpu", ATTENTION),
        ("vroom_q4_k_matmul", KEYS_VALUES),
        ("mo.kv_cache.store", KEYS_VALUES),
        ("layer_norm", OTHER_VISION),
    ],
)
def test_operations_are_assigned_to_parts_by_name(operation: str, kind: str) -> None:
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


@pytest.fixture
def spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    monkeypatch.setattr(ceilings, "FOLDER", tmp_path)
    library = ceilings.compiled("spans", "-shared", "-fPIC", suffix=".so")
    return ctypes.CDLL(str(library))


def written(spans: ctypes.CDLL, folder: Path) -> str:
    path = folder / "spans"
    assert spans.spans_write(str(path).encode())
    return path.read_text()


def test_the_time_of_a_span_excludes_its_children(
    spans: ctypes.CDLL, tmp_path: Path
) -> None:
    spans.m_ext_profiler_range_push(b"outer", 0)
    time.sleep(0.02)
    spans.m_ext_profiler_range_push(b"inner\tname", 0)
    time.sleep(0.5)
    spans.m_ext_profiler_range_pop()
    spans.m_ext_profiler_range_pop()
    assert spans.m_ext_profiler_range_pop() == 0
    found = read_spans(written(spans, tmp_path))
    assert set(found) == {"outer", "inner\tname"}
    assert found["inner\tname"] >= 0.5
    assert 0.02 <= found["outer"] < found["inner\tname"]
    spans.spans_reset()
    assert read_spans(written(spans, tmp_path)) == {}


def test_concurrent_operations_share_the_time(
    spans: ctypes.CDLL, tmp_path: Path
) -> None:
    together = threading.Barrier(2)

    def run(name: bytes) -> None:
        named = ctypes.CDLL(None).pthread_setname_np
        named(ctypes.c_ulong(threading.get_ident()), b"Thread" + name)
        spans.m_ext_profiler_range_push(name, 0)
        together.wait()
        time.sleep(0.05)
        together.wait()
        spans.m_ext_profiler_range_pop()

    spans.spans_reset()
    spans.m_ext_profiler_range_push(b"max.waits", 0)
    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, (b"q", b"k")))
    took = time.perf_counter() - started
    spans.m_ext_profiler_range_pop()
    text = written(spans, tmp_path)
    own, shares = read_spans(text), read_shares(text)
    assert set(own) == {"q", "k", "max.waits"}
    assert min(own["q"], own["k"]) >= 0.05
    assert set(shares) == {"q", "k"}
    assert 0.05 <= sum(shares.values()) <= took
    assert min(shares.values()) >= 0.025
