"""``twinport serve`` with a servicer that computes nothing: what a transport costs by itself.

    python benchmarks/serving_empty.py REPOSITORY TRANSPORT PORT STATE

Adapters, drain and metrics are those of the product; ``ModelInfer`` alone answers a
constant, whatever it is sent, without a look at it. Where the environment names an artifact,
it is called for each request, with one image that is always the same: the least that a
request costs which is alone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

import runtime.server
import runtime.transports.envoy
from benchmarks.serving_session import ARTIFACT, session_of
from runtime.codec import response_from_arrays
from runtime.servicer import Call, Servicer
from runtime.settings import ServerSettings
from runtime.start import say, start_server
from runtime.transports.handoff import VARIABLE

METHOD = "/inference.GRPCInferenceService/ModelInfer"
ANSWER = response_from_arrays(
    {"logits": np.zeros((1, 10), np.float32)}, model="lenet5", version="1"
).SerializeToString()
IMAGE = np.random.default_rng(1).random((1, 1, 32, 32), dtype=np.float32)


class Empty(Servicer):
    """Answers inferences with a constant."""

    _session = session_of(Path(os.environ[ARTIFACT])) if ARTIFACT in os.environ else None

    async def unary(self, method: str, payload: bytes, call: Call) -> bytes:
        """See ``Servicer``."""
        if method == METHOD:
            if self._session is not None:
                self._session.run(["logits"], {"image": IMAGE})
            return ANSWER
        return await super().unary(method, payload, call)


# Envoy's interpreter imports this file by the name below, a command runs it by its path.
runtime.server.Servicer = Empty
if VARIABLE in os.environ:
    from runtime.transports.envoy_app import app as app
if __name__ == "__main__":
    runtime.transports.envoy.APP = "benchmarks.serving_empty:app"
    repository, transport, port, state = sys.argv[1:]
    start_server(
        ServerSettings(
            Path(repository), port=int(port), transport=transport, state=Path(state), metrics_port=0
        ),
        say,
    )
