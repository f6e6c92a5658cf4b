"""Spans of the real server process, sent to a receiver of OTLP over HTTP."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from protos import SERVICE
from runtime.codec import request_from_arrays

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def received():
    return []


@pytest.fixture
def receiver(received):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_spans_arrive_at_the_endpoint_of_the_environment(
    receiver, received, start_server, write_toy, repository, monkeypatch
):
    write_toy("linear")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "digits")
    server = start_server(repository)
    request = request_from_arrays({"x": np.ones((2, 4), np.float32)}, model="linear")
    with grpc.insecure_channel(server.address) as channel:
        channel.unary_unary(f"/{SERVICE}/ModelInfer")(
            request.SerializeToString(),
            metadata=(("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),),
        )
    # The end sends what is left.
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()
    ((path, message),) = received
    assert path == "/v1/traces"
    (resource,) = message.resource_spans
    named = {item.key: item.value.string_value for item in resource.resource.attributes}
    assert named["service.name"] == "digits"
    ((span,),) = (scope.spans for scope in resource.scope_spans)
    assert span.trace_id.hex() == TRACE
    assert "twinport.queue_seconds" in {item.key for item in span.attributes}
