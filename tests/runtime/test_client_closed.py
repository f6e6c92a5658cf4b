"""A client that another thread closes says so to whoever waits."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from runtime.client import Client
from runtime.errors import InvalidInput


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
