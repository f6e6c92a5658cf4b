"""Spans of OpenTelemetry, sent as OTLP over HTTP; the only module that knows the library."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from runtime.errors import Status as GrpcStatus
from runtime.errors import TwinportError
from runtime.observe.failures import RequestNames
from runtime.observe.tracing import Metadata
from runtime.statistics import RequestTimes

CLOSE_SECONDS = 2.0
"""For the last spans; a receiver that is away may not hold up the end."""
SERVICE = "inference.GRPCInferenceService"

_OURS = (
    GrpcStatus.UNKNOWN, GrpcStatus.DEADLINE_EXCEEDED, GrpcStatus.UNIMPLEMENTED,
    GrpcStatus.INTERNAL, GrpcStatus.UNAVAILABLE, GrpcStatus.DATA_LOSS,
)  # fmt: skip
"""What makes the span of a server an error (OpenTelemetry's conventions for gRPC)."""


class OtelSpan:
    """One inference."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def answered(self, times: RequestTimes, version: str) -> None:
        """Set version, status, and where the time went, in seconds."""
        span = self._span
        span.set_attribute("rpc.grpc.status_code", GrpcStatus.OK.value)
        span.set_attribute("twinport.model.version", version)
        call = times.call
        if call is None:
            return
        span.set_attribute("twinport.batch.rows", call.rows)
        span.set_attribute("twinport.batch.requests", call.requests)
        for name, ns in (
            ("queue", times.queue_ns),
            ("compute", call.compute_ns),
            ("compute.input", call.input_ns),
            ("compute.infer", call.infer_ns),
            ("compute.output", call.output_ns),
        ):
            span.set_attribute(f"twinport.{name}_seconds", ns * 1e-9)

    def failed(self, error: BaseException) -> None:
        """Set the status; an error of the client's making is none of the server's span."""
        status = error.status if isinstance(error, TwinportError) else GrpcStatus.CANCELLED
        self._span.set_attribute("rpc.grpc.status_code", status.value)
        self._span.set_attribute("error.type", status.name)
        if status in _OURS:
            self._span.set_status(Status(StatusCode.ERROR, str(error)))


class OtelTracer:
    """A provider of its own: other users of the library in the process are left alone."""

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        """Begin to send.

        Args:
            exporter: Where to; none is what the environment says.
        """
        resource = Resource({"service.name": "twinport", "service.version": _version()})
        self._provider = TracerProvider(
            # What the environment says of the service goes before.
            resource=resource.merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("twinport")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def inference(self, method: str, names: RequestNames, metadata: Metadata) -> Iterator[OtelSpan]:
        """A span as long as the block."""
        carrier = {name: value for name, value in metadata if isinstance(value, str)}
        span = self._tracer.start_span(
            f"{SERVICE}/{method}",
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": SERVICE,
                "rpc.method": method,
                "twinport.model.name": names.model,
                "twinport.request.id": names.request_id,
            },
        )
        try:
            yield OtelSpan(span)
        finally:
            span.end()

    def close(self) -> None:
        """Send what is left."""
        # The exporter tries for a long time where nobody listens.
        closer = threading.Thread(target=self._provider.shutdown, daemon=True)
        closer.start()
        closer.join(CLOSE_SECONDS)


def _version() -> str:
    try:
        return version("twinport")
    except PackageNotFoundError:
        return "0"
