"""The document has all metrics, and what it says of them is so."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from mllama.image_cache.verdict import CheckStage, ImageMode, ImageVerdict
from mllama.server.observability.metrics import LABEL_VALUES, ServerMetrics
from mllama.server.observability.process_memory import MemorySizes, ProcessMemory
from mllama.server.observability.shared_stats import SharedStats

DOCUMENT = Path(__file__).parents[3] / "docs" / "monitoring.md"
_ROW = re.compile(r"^\| `(mllama_\w+)` \| (\w+) \|(.*?)\| (.+?) \|$", re.MULTILINE)


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Metrics of the document by name: type and labels."""
    return {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels, _ in _ROW.findall(DOCUMENT.read_text("utf-8"))
    }


def exported() -> dict[str, tuple[str, frozenset[str]]]:
    """All metrics of a server on a GPU that has answered requests."""
    registry = CollectorRegistry()
    metrics = ServerMetrics(registry)
    labels: dict[str, frozenset[str]] = {}
    for value in vars(metrics).values():
        if isinstance(value, MetricWrapperBase) and value._labelnames:
            labels[value._name] = frozenset(value._labelnames)
            value.labels(*value._labelnames)
    with SharedStats.temporary() as stats:
        stats.write_verdict(ImageVerdict(ImageMode.DIRECT, CheckStage.NONE, 0))
        families = [
            *registry.collect(),
            *stats.collect(),
            *ProcessMemory(MemorySizes).collect(),
        ]
    return {
        family.name + "_total" * (family.type == "counter"): (
            family.type,
            labels.get(family.name)
            or frozenset(name for sample in family.samples for name in sample.labels)
            - {"le"},
        )
        for family in families
    }


def test_the_document_has_all_metrics() -> None:
    assert documented() == exported()


def test_the_document_has_all_values_of_labels() -> None:
    text = DOCUMENT.read_text("utf-8")
    for values in LABEL_VALUES.values():
        for value in values:
            assert f"`{value}`" in text


def test_names_are_those_of_prometheus() -> None:
    for name, (kind, _) in exported().items():
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search("_(ms|milliseconds|mb|pct)(_|$)", name)


def test_modes_are_in_the_document() -> None:
    text = DOCUMENT.read_text("utf-8")
    for mode in ImageMode:
        if mode is not ImageMode.UNCHECKED:
            assert f"`{mode.name.lower()}`" in text
