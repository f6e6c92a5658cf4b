"""``twinport infer``: send files to a served model and print what it answers."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import click
import numpy as np

from runtime.client import Client
from runtime.client_pictures import labels_of
from runtime.client_wire import Connection, ServedModel
from runtime.commands.connecting import connecting
from runtime.commands.ranges import Within
from runtime.errors import Unimplemented
from runtime.input_files import Prepared, answers_of, joined, read_inputs
from runtime.preprocess import Label
from runtime.tensors import Array, format_shape

LARGEST_BATCH = 64
"""Pictures in one request, whatever the model allows."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came back for one file.

    Attributes:
        file: Its name.
        outputs: By name.
        labels: For each sample the likeliest classes; none where the model has no labels.
    """

    file: str
    outputs: dict[str, Array]
    labels: list[list[Label]] | None


@click.command()
@click.argument("name")
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@connecting
@click.option("--version", type=click.IntRange(min=1), help="The server's choice by default.")
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True,
              help="How many of the likeliest labels to print.")  # fmt: skip
@click.option("--output", "outputs", multiple=True, help="Ask for this output; may be repeated.")
@click.option("--invert", is_flag=True, help="Swap light and dark: dark digits on light paper.")
@click.option("--timeout", "timeout_s", type=Within(min=0, min_open=True),
              default=60.0, show_default=True, help="Seconds for each request.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def infer(
    name: str,
    files: tuple[Path, ...],
    connection: Connection,
    version: int | None,
    top: int,
    outputs: tuple[str, ...],
    invert: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Send each FILE to the model NAME and print what it answers.

    PNG and JPEG pictures are prepared as the model's manifest says (transparent parts lie
    on white) and joined where the model takes batches. A .npy file is the input of a model
    that has one, a .npz file holds an array for each input by name. JSON is an object with
    nested lists for each input, a list of such objects, or the nested lists of the only
    input.
    """
    chosen = "" if version is None else str(version)
    with Client(
        connection.url, timeout_s=timeout_s, tls=connection.tls, token=connection.token
    ) as client:
        model = client.model_metadata(name, chosen)
        prepared = [item for path in files for item in read_inputs(path, model, invert=invert)]
        groups = joined(prepared, _largest_batch(client, name, chosen, prepared))
        results = answers_of(
            groups, lambda arrays: client.infer(name, arrays, version=chosen, outputs=outputs)
        )
    answers = [
        Answer(item.name, result, labels_of(result, model, top))
        for item, result in zip(prepared, results, strict=True)
    ]
    click.echo(_json(model, answers) if as_json else _text(answers))


def _largest_batch(client: Client, name: str, version: str, prepared: list[Prepared]) -> int:
    """How many pictures one request may have; asks the server only where it matters."""
    if sum(item.picture for item in prepared) < 2:
        return 1
    try:
        limit = client.model_config(name, version).max_batch_size
    except Unimplemented:  # the call is Triton's; other servers of the protocol lack it
        return 1
    return max(1, min(limit, LARGEST_BATCH))


def _text(answers: list[Answer]) -> str:
    """A line for each sample that has labels, the arrays of any other."""
    rows = [row for answer in answers for row in _rows(answer)]
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def _rows(answer: Answer) -> list[tuple[str, str]]:
    if answer.labels is None:
        return [(answer.file, _array_text(name, array)) for name, array in answer.outputs.items()]
    several = len(answer.labels) != 1
    return [
        (
            f"{answer.file}[{index}]" if several else answer.file,
            "  ".join(_label_text(label) for label in labels),
        )
        for index, labels in enumerate(answer.labels)
    ]


def _label_text(label: Label) -> str:
    if math.isnan(label.probability):
        return "no label  (the answer is not a number)"
    return f"{label.name}  ({label.probability:.3f})"


def _array_text(name: str, array: Array) -> str:
    values = np.array2string(array, precision=6, threshold=64, separator=", ")
    kind = "string" if array.dtype == object else array.dtype.name
    head = f"{name}: {kind} {format_shape(array.shape)}"
    return f"{head}\n{values}"


def _json(model: ServedModel, answers: list[Answer]) -> str:
    record = {"model": model.name, "answers": [_record(answer) for answer in answers]}
    return json.dumps(record, allow_nan=False)


def _record(answer: Answer) -> dict[str, Any]:
    record: dict[str, Any] = {
        "file": answer.file,
        "outputs": {
            name: {
                "dtype": "string" if array.dtype == object else array.dtype.name,
                "shape": list(array.shape),
                "data": _plain(array.tolist()),
            }
            for name, array in answer.outputs.items()
        },
    }
    if answer.labels is not None:
        record["labels"] = [
            [_plain(dataclasses.asdict(label)) for label in labels] for labels in answer.labels
        ]
    return record


def _plain(value: Any) -> Any:
    """JSON's kinds only: bytes as text, and no NaN or infinity, which become words."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
