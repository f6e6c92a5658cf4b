"""``twinport experts record``: keep the routing of a served model as a trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import click
import numpy as np

from runtime.client import Client
from runtime.client_wire import Connection
from runtime.commands.connecting import connecting
from runtime.errors import InvalidInput
from runtime.experts.arrays import IntArray
from runtime.experts.trace import (
    check_top_k,
    check_trace_file,
    trace_from_answers,
    write_trace,
)
from runtime.experts.traces import gini_of
from runtime.input_files import read_inputs
from runtime.manifest import LOAD_OUTPUT
from runtime.tensors import Array


class _Asks(Protocol):
    def infer(
        self, name: str, arrays: Mapping[str, Array], *, outputs: list[str]
    ) -> dict[str, Array]: ...


def routing_of(
    client: _Asks, model: str, arrays: Mapping[str, Array], top_k: int = 1
) -> Iterator[IntArray]:
    """Ask for the load of experts of each row, one request a row.

    Args:
        client: Of the server.
        model: Its name.
        arrays: An array for each input; all have as many rows.
        top_k: Experts that it is said to send a token to.

    Yields:
        ``[1, layers, experts]`` tokens.

    Raises:
        InvalidInput: Arrays have no rows, or not as many; or the first answer has fewer
            experts than ``top_k``.
    """
    rows = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    if len(rows) != 1 or not min(rows):
        raise InvalidInput("the inputs have no rows in common; give arrays of as many rows each")
    for row in range(rows.pop()):
        one = {name: array[row : row + 1] for name, array in arrays.items()}
        load = np.asarray(client.infer(model, one, outputs=[LOAD_OUTPUT])[LOAD_OUTPUT], np.int64)
        check_top_k(top_k, load.shape[-1])
        yield load


@click.command("record")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("model")
@click.argument("inputs", type=click.Path(path_type=Path))
@connecting
@click.option("--window", type=click.IntRange(1, 10**9), default=100, show_default=True,
              help="Requests of a window.")  # fmt: skip
@click.option("--top-k", type=click.IntRange(1, 10**6), default=1, show_default=True,
              help="Experts that the model sends a token to.")  # fmt: skip
@click.option("--timeout", "timeout_s", default=60.0, help="Seconds for a request.")
def record_command(
    file: Path, model: str, inputs: Path, connection: Connection, window: int, top_k: int,
    timeout_s: float,
) -> None:  # fmt: skip
    """Send each row of INPUTS to MODEL and write which experts it called to FILE (.npz).

    INPUTS is a .npy file, a .npz file with an array for each input, or JSON. The rows are
    sent in their order, so that what changes over them changes over the windows.
    """
    check_trace_file(file)
    with Client(
        connection.url, timeout_s=timeout_s, tls=connection.tls, token=connection.token
    ) as client:
        prepared = read_inputs(inputs, client.model_metadata(model))
        loads = [
            load for each in prepared for load in routing_of(client, model, each.arrays, top_k)
        ]
    trace = trace_from_answers(loads, window, f"{model}, recorded", top_k)
    write_trace(file, trace)
    windows, layers, experts = trace.counts.shape
    click.echo(
        f"{file}: {windows} windows of {window} requests, {layers} layers, {experts} experts, "
        f"Gini {gini_of(trace.counts):.3f}"
    )
