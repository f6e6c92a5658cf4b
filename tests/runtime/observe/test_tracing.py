"""Spans of inferences: what they say, whose children they are, and when there are any."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading

import numpy as np
import pytest
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from protos import SERVICE
from runtime.backends.base import BackendOptions
from runtime.codec import request_from_arrays
from runtime.errors import NotFound, TwinportError
from runtime.loading import LoadOptions
from runtime.observe.failures import RequestNames
from runtime.observe.otel import OtelTracer
from runtime.observe.tracing import tracer_from_environment
from runtime.repository import Repository
from runtime.servicer import Call, Servicer
from runtime.verdicts import VerdictStore

X = np.ones((3, 4), np.float32)
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
async def service(write_toy, repository, tmp_path, exporter):
    write_toy("linear")
    models = Repository(
        repository, LoadOptions(BackendOptions(), False, VerdictStore(tmp_path / "state"))
    )
    await models.load()
    tracer = OtelTracer(exporter)
    yield Servicer(models, tracer=tracer), tracer
    models.close()
    tracer.close()


async def infer(service, call=None, **changes):
    request = request_from_arrays({"x": X}, **{"model": "linear", **changes})
    method = f"/{SERVICE}/ModelInfer"
    return await service[0].unary(method, request.SerializeToString(), call or Call())


def spans_of(service, exporter):
    service[1]._provider.force_flush()
    return exporter.get_finished_spans()


async def test_a_span_says_where_the_time_of_a_request_went(service, exporter):
    await infer(service, request_id="r7")
    (span,) = spans_of(service, exporter)
    assert span.name == "inference.GRPCInferenceService/ModelInfer"
    found = dict(span.attributes)
    assert found["twinport.model.name"] == "linear"
    assert found["twinport.model.version"] == "1"
    assert found["twinport.request.id"] == "r7"
    assert found["rpc.grpc.status_code"] == 0
    assert (found["twinport.batch.rows"], found["twinport.batch.requests"]) == (3, 1)
    parts = [found[f"twinport.compute.{name}_seconds"] for name in ("input", "infer", "output")]
    assert found["twinport.compute_seconds"] == pytest.approx(sum(parts))
    whole = (span.end_time - span.start_time) * 1e-9
    assert 0 < found["twinport.queue_seconds"] + found["twinport.compute_seconds"] <= whole
    assert span.parent is None
    assert span.resource.attributes["service.name"] == "twinport"


async def test_the_parent_is_the_clients_span(service, exporter):
    metadata = (("traceparent", f"00-{TRACE}-{PARENT}-01"), ("key-bin", b"\xff"))
    await infer(service, Call(None, metadata))
    (span,) = spans_of(service, exporter)
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT


async def test_a_client_that_samples_not_gets_no_span(service, exporter):
    await infer(service, Call(None, (("traceparent", f"00-{TRACE}-{PARENT}-00"),)))
    assert not spans_of(service, exporter)


async def test_a_clients_mistake_is_no_error_of_the_server(service, exporter):
    with pytest.raises(NotFound):
        await infer(service, model="nothing")
    (span,) = spans_of(service, exporter)
    assert span.attributes["rpc.grpc.status_code"] == 5
    assert span.attributes["error.type"] == "NOT_FOUND"
    assert span.status.status_code is StatusCode.UNSET


async def test_a_failure_of_the_server_is_an_error(service, exporter, monkeypatch):
    def fail(*arguments, **names):
        raise TwinportError("broken")

    monkeypatch.setattr("runtime.service.inference.PlainAnswers.answer", fail)
    with pytest.raises(TwinportError):
        await infer(service)
    (span,) = spans_of(service, exporter)
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "broken")


async def test_requests_that_share_a_call_have_spans_of_their_own(service, exporter):
    await asyncio.gather(*(infer(service, request_id=str(i)) for i in range(2)))
    spans = spans_of(service, exporter)
    assert {span.attributes["twinport.request.id"] for span in spans} == {"0", "1"}
    assert {span.attributes["twinport.batch.requests"] for span in spans} == {2}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {ENDPOINT: ""},
        {ENDPOINT: "http://x", "OTEL_SDK_DISABLED": "true"},
        {ENDPOINT: "http://x", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_without_an_endpoint_nothing_is_traced(environment):
    assert tracer_from_environment(environment) is None


def test_a_missing_library_is_a_line_in_the_log_and_no_reason_not_to_serve(monkeypatch, caplog):
    monkeypatch.delitem(sys.modules, "runtime.observe.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with caplog.at_level(logging.WARNING):
        assert tracer_from_environment({ENDPOINT: "http://127.0.0.1:4318"}) is None
    assert "pip install 'twinport[otel]'" in caplog.text


def test_a_receiver_that_never_answers_does_not_hold_up_the_end(monkeypatch):
    monkeypatch.setattr("runtime.observe.otel.CLOSE_SECONDS", 0.01)
    answered = threading.Event()

    class Stuck(InMemorySpanExporter):
        def export(self, spans):
            answered.wait(60)
            return SpanExportResult.SUCCESS

    tracer = OtelTracer(Stuck())
    with tracer.inference("ModelInfer", RequestNames(), ()):
        pass
    tracer.close()
    assert not answered.is_set(), "it ended although nothing was answered"
    answered.set()
