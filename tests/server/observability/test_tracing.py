"""Requests have spans, with the client's as their parent, if there is a collector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mllama.errors import EngineError
from mllama.max_compat.server import inject_trace_carrier
from mllama.server.observability import tracing
from tests.server.dialects.fake_engine import FakeEngine
from tests.server.dialects.in_process import InProcessServer

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "secret words"}]}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Gets the spans of this process's server."""
    # Commands that ran in this process have turned OpenTelemetry off.
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "are_spans_exported", lambda: True)
    monkeypatch.setattr(tracing, "_tracer", lambda: provider.get_tracer("mllama"))
    yield exporter
    provider.shutdown()


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_a_request_has_a_span_with_its_phases(spans: InMemorySpanExporter) -> None:
    api = InProcessServer(FakeEngine("Hello!"))
    response = api.request(
        "POST",
        f"{CHAT}?key=secret",
        json=HELLO,
        headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"},
    )
    usage = response.json()["usage"]
    found = by_name(spans)
    root = found.pop(f"POST {CHAT}")
    assert root.context is not None
    assert format(root.context.trace_id, "032x") == TRACE
    assert root.parent is not None
    assert format(root.parent.span_id, "016x") == PARENT
    attributes = dict(root.attributes or {})
    assert attributes["http.route"] == attributes["url.path"] == CHAT
    assert attributes["http.response.status_code"] == 200
    assert attributes["mllama.outcome"] == "ok"
    assert attributes["mllama.client_request_id"] == "mine"
    assert attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert "secret" not in str(attributes)
    phases = ["mllama.prepare", "mllama.prefill", "mllama.decode"]
    assert found.keys() - set(phases) == {"mllama.queue"}
    ends = [root.start_time]
    for name in phases:
        span = found[name]
        assert span.parent is not None
        assert span.parent.span_id == root.context.span_id
        assert span.start_time is not None
        assert ends[-1] is not None
        # The clocks are read one after the other.
        assert span.start_time >= ends[-1] - 10**6
        ends.append(span.end_time)


def test_an_error_is_in_its_span(spans: InMemorySpanExporter) -> None:
    api = InProcessServer()
    api.engine.error = EngineError("the model failed")
    api.post(CHAT, HELLO)
    root = by_name(spans)[f"POST {CHAT}"]
    assert not root.status.is_ok
    assert dict(root.attributes or {})["mllama.outcome"] == "error"


def test_images_have_spans(spans: InMemorySpanExporter) -> None:
    image = {"type": "image_url", "image_url": {"url": "http://pictures/one.png"}}
    content = {"messages": [{"role": "user", "content": [image]}]}
    InProcessServer().post(CHAT, content)
    assert "mllama.image" in by_name(spans)


def test_probes_and_unknown_paths_are_bounded(spans: InMemorySpanExporter) -> None:
    api = InProcessServer()
    api.request("GET", "/ping")
    assert by_name(spans) == {}
    api.request("GET", "/" + "x" * 5000)
    root = by_name(spans)["GET"]
    assert len(str(dict(root.attributes or {})["url.path"])) == 200


def test_the_workers_spans_get_the_requests_as_parent(
    spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from max.pipelines.context import TextContext

    context: Any = TextContext.__new__(TextContext)

    class Carrying(FakeEngine):
        async def generate(self, request: Any, **options: Any) -> Any:
            inject_trace_carrier(context)
            async for event in super().generate(request, **options):
                yield event

    InProcessServer(Carrying()).post(CHAT, HELLO)
    root = by_name(spans)[f"POST {CHAT}"]
    assert root.context is not None
    _, trace_id, span_id, _ = context.trace_carrier["traceparent"].split("-")
    assert trace_id == format(root.context.trace_id, "032x")
    assert span_id == format(root.context.span_id, "016x")


def test_without_a_collector_there_are_no_spans() -> None:
    api = InProcessServer()
    assert api.post(CHAT, HELLO).status_code == 200
    assert not tracing.are_spans_exported()
