"""A server sends the traces of its requests to a collector, and nothing else."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.server.conftest import running
from tests.server.otlp_collector import Collector

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.long
def test_a_collector_gets_the_spans_of_both_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    for name in ("OTEL_SDK_DISABLED", "MLLAMA_TRACES"):
        monkeypatch.delenv(name, raising=False)
    with (
        collector.running(),
        running(tmp_path / "log", "--log-format", "json") as server,
    ):
        response = httpx.post(
            f"{server.url}/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3},
            headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
            timeout=600,
        )
        assert response.status_code == 200
        name = "POST /v1/chat/completions"
        spans = collector.wait_for(name, "max.phase.prefill", "max.phase.decode")
        log = server.log.read_text()
    (root,) = (span for span in spans if span.name == name)
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    assert root.parent_span_id.hex() == PARENT
    others = [span for span in spans if span is not root]
    assert {span.parent_span_id for span in others} == {root.span_id}
    assert {"mllama.prepare", "mllama.prefill", "mllama.decode"} <= {
        span.name for span in others
    }
    assert collector.services == {"mllama"}
    # Neither logs nor metrics.
    assert collector.paths == {"/v1/traces"}
    assert TRACE in log
