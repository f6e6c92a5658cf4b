"""Traces of inferences, where the environment says where they go; nothing of it comes in elsewhere.

The variables are OpenTelemetry's own (its specification, "OTLP exporter configuration").
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from runtime.observe.failures import RequestNames
from runtime.statistics import RequestTimes

logger = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

Metadata = Sequence[tuple[str, str | bytes]]


class InferenceSpan(Protocol):
    """One inference while it runs."""

    def answered(self, times: RequestTimes, version: str) -> None:
        """It has an answer, from this version; the times are filled in."""
        ...

    def failed(self, error: BaseException) -> None:
        """It ended with an error, or was cancelled."""
        ...


class Tracer(Protocol):
    """Makes spans and sends them away."""

    def inference(
        self, method: str, names: RequestNames, metadata: Metadata
    ) -> AbstractContextManager[InferenceSpan]:
        """A span as long as the block; its parent is the ``traceparent`` in the metadata."""
        ...

    def close(self) -> None:
        """Send what is left, for a short time."""
        ...


def tracer_from_environment(environment: Mapping[str, str]) -> Tracer | None:
    """What traces, where an endpoint is set and tracing is not switched off."""
    endpoint = next((environment[name] for name in ENDPOINTS if environment.get(name)), "")
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not endpoint or off or environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return None
    try:
        from runtime.observe.otel import OtelTracer
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        # A variable that a whole cluster has is no reason not to serve.
        logger.warning(
            "no traces go to %s: OpenTelemetry is missing; pip install 'twinport[otel]'", endpoint
        )
        return None
    logger.info("traces go to %s", endpoint)
    return OtelTracer()
