"""A client that another thread closes says so to whoever waits."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import protos
from runtime.client import Client
from runtime.errors import InvalidInput


@pytest.fixture
def hanging(serve_with):
    """A server that answers nothing until the test is over, and what is set by each call."""
    arrived, over = threading.Event(), threading.Event()

    def hang(request, context):
        arrived.set()
        over.wait(30)
        return protos.ModelInferResponse()

    def hang_in_a_stream(requests, context):
        arrived.set()
        over.wait(30)
        yield protos.ModelStreamInferResponse()

    yield serve_with(ModelInfer=hang, ModelStreamInfer=hang_in_a_stream), arrived
    over.set()


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.infer("m", {"x": np.zeros(1)}),
        lambda client: list(client.stream("m", [])),
    ],
    ids=["infer", "stream"],
)
def test_a_call_that_waits_while_another_thread_closes_the_client_says_so(hanging, call):
    url, arrived = hanging
    client = Client(url)

    def close():
        arrived.wait(30)
        client.close()

    closing = threading.Thread(target=close)
    closing.start()
    with pytest.raises(InvalidInput, match="is closed"):
        call(client)
    closing.join()
