"""A collector of OpenTelemetry's protocol: HTTP that decodes what it gets."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)


class Collector:
    """Keeps the spans that it gets, and the paths at which it is asked."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        self.paths: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.paths.add(self.path)
                if self.path == "/v1/traces":
                    collector.add(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def add(self, request: Any) -> None:
        for resource in request.resource_spans:
            attributes = {
                each.key: each.value.string_value
                for each in resource.resource.attributes
            }
            self.services.add(attributes.get("service.name", ""))
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def wait_for(self, *names: str, seconds: float = 60) -> list[Any]:
        """Waits for spans with these names, and returns all."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if set(names) <= {span.name for span in self.spans}:
                return self.spans
            time.sleep(0.1)
        raise AssertionError([span.name for span in self.spans])

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()
