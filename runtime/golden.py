"""``golden.safetensors``: the evidence of a proof, and how to run the proof again.

Whoever holds the artifact and this file can repeat the proof on the backend, provider
and device at hand, without torch and without the source. Inputs that would be too large
to keep are kept as seed and generator, large truths as the values at seeded positions.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from runtime.draws import Draw
from runtime.error_pool import ErrorPool, Scale
from runtime.errors import RepositoryError
from runtime.precision import FULL, rule_of
from runtime.proof import is_load, judge
from runtime.proof_records import Judgement
from runtime.tensors import Array

FILE_NAME = "golden.safetensors"
SIZE_LIMIT_BYTES = 4 * 2**20
REPLAY_SIZES = (1, 2, 7)
"""Rows of a batchable case are run in batches of these sizes, then the rest at once."""

Infer = Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True)
class Drawn:
    """An input kept as what it was drawn with; the checksum is of its bytes."""

    draw: Draw
    crc32: int

    def array(self) -> Array:
        """Draw it again.

        Raises:
            RepositoryError: What is drawn is not what was drawn before.
        """
        array = self.draw.array()
        if zlib.crc32(array.tobytes()) != self.crc32:
            raise RepositoryError(
                f"seed {self.draw.seed} draws other numbers here than where the evidence "
                "was made; export the model again"
            )
        return array


def drawn_from_draw(draw: Draw) -> Drawn:
    """The record of a draw, with its checksum."""
    return Drawn(draw, zlib.crc32(draw.array().tobytes()))


@dataclass(frozen=True)
class Kept:
    """A truth: whole, or some values of each sample at positions that a seed gives again.

    Attributes:
        values: The truth of ``shape``, or ``[samples, count]`` of its values.
        shape: The whole truth's shape.
        positions_seed: Set where only some values are kept.
    """

    values: Array
    shape: tuple[int, ...]
    positions_seed: int | None = None

    def of(self, array: Array) -> Array:
        """The part of an answer that is kept here, to compare with ``values``."""
        if self.positions_seed is None or array.shape != self.shape:
            return array
        samples, count = self.values.shape
        flat = array.reshape(samples, -1)
        return flat[:, sampled_positions(self.positions_seed, flat.shape[1], count)]

    def rows(self, part: slice) -> Kept:
        """The same of some samples of a batch."""
        shape = (part.stop - part.start, *self.shape[1:])
        return Kept(self.values[part], shape, self.positions_seed)


def sampled_positions(seed: int, width: int, count: int) -> Array:
    """``[count]`` sorted positions below ``width``."""
    return np.sort(np.random.RandomState(seed).randint(0, width, size=count))


def kept_sample(truth: Array, samples: int, seed: int, count: int) -> Kept:
    """Keep ``count`` values of each of ``samples`` samples of a large truth."""
    flat = truth.reshape(samples, -1)
    positions = sampled_positions(seed, flat.shape[1], count)
    return Kept(np.ascontiguousarray(flat[:, positions]), truth.shape, seed)


@dataclass(frozen=True)
class Case:
    """Inputs and truth of one call; on a batchable model the rows may be cut and joined."""

    kind: str
    extreme: bool
    inputs: Mapping[str, Array | Drawn]
    truth: Mapping[str, Kept]
    stable: tuple[bool, ...] | None = None
    """For a mixture of experts: whether a sample's routing is stable."""

    def arrays(self) -> dict[str, Array]:
        """The inputs, drawn where they were kept as a seed."""
        return {
            name: value.array() if isinstance(value, Drawn) else value
            for name, value in self.inputs.items()
        }

    def rows(self) -> int:
        """Size of the first axis of the first input."""
        first = next(iter(self.inputs.values()))
        shape = first.draw.shape if isinstance(first, Drawn) else first.shape
        return shape[0] if shape else 1


@dataclass(frozen=True)
class Golden:
    """All the evidence of one version."""

    batchable: bool
    cases: tuple[Case, ...]
    scales: Mapping[tuple[str, str], Scale] = field(default_factory=dict)
    """PyTorch's pooled float32 error by (output, kind)."""

    def samples(self) -> int:
        """Rows of a batchable model, calls of any other."""
        return sum(case.rows() if self.batchable else 1 for case in self.cases)


def golden_to_bytes(golden: Golden) -> bytes:
    """Serialise; the same evidence gives the same bytes."""
    tensors: dict[str, Array] = {}
    cases = [_case_to_json(case, index, tensors) for index, case in enumerate(golden.cases)]
    scales = [
        {"output": output, "kind": kind, **asdict(scale)}
        for (output, kind), scale in sorted(golden.scales.items())
    ]
    record = {"version": 1, "batchable": golden.batchable, "cases": cases, "scales": scales}
    # One key only: safetensors writes several in the order of a hash table.
    return bytes(save(tensors, {"twinport": json.dumps(record, sort_keys=True)}))


def _case_to_json(case: Case, index: int, tensors: dict[str, Array]) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for name, value in case.inputs.items():
        key = f"{index}/input/{name}"
        if isinstance(value, Drawn):
            inputs[name] = asdict(value)
        else:
            inputs[name] = key
            tensors[key] = np.asarray(value, order="C")
    truth: dict[str, Any] = {}
    for name, kept in case.truth.items():
        key = f"{index}/truth/{name}"
        truth[name] = {"key": key, "shape": kept.shape, "positions_seed": kept.positions_seed}
        tensors[key] = np.asarray(kept.values, order="C")
    return {
        "kind": case.kind, "extreme": case.extreme, "inputs": inputs, "truth": truth,
        "stable": case.stable,
    }  # fmt: skip


def read_golden(path: Path) -> Golden:
    """Read the evidence.

    Raises:
        RepositoryError: The file is missing, cut, or not evidence of this release.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            record = json.loads((file.metadata() or {})["twinport"])
        return _golden_from_record(record, tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RepositoryError(
            f"{path} is no evidence that can be read ({type(error).__name__}: {error}); "
            "export the model again"
        ) from error


def _golden_from_record(record: dict[str, Any], tensors: dict[str, Array]) -> Golden:
    if record["version"] != 1:
        raise ValueError(f"evidence of version {record['version']}, this release reads 1")
    cases = tuple(_case_from_json(item, tensors) for item in record["cases"])
    scales = {
        (item["output"], item["kind"]): Scale(item["rms"], item["maximum"], item["moved"])
        for item in record["scales"]
    }
    return Golden(bool(record["batchable"]), cases, scales)


def _case_from_json(item: dict[str, Any], tensors: dict[str, Array]) -> Case:
    inputs = {
        name: tensors[value] if isinstance(value, str) else _drawn(value)
        for name, value in item["inputs"].items()
    }
    truth = {
        name: Kept(tensors[value["key"]], tuple(value["shape"]), value["positions_seed"])
        for name, value in item["truth"].items()
    }
    stable = None if item["stable"] is None else tuple(item["stable"])
    return Case(item["kind"], bool(item["extreme"]), inputs, truth, stable)


def _drawn(record: dict[str, Any]) -> Drawn:
    draw = {**record["draw"], "shape": tuple(record["draw"]["shape"])}
    return Drawn(Draw(**draw), record["crc32"])


def replay(
    golden: Golden, infer: Infer, *, max_batch_size: int = 0, precision: str = FULL
) -> tuple[Judgement, ...]:
    """Run the proof again with whatever ``infer`` runs.

    Rows of a batchable model are cut into batches of 1, 2, 7 and the rest, so that
    joined requests are shown to give the separate answers on this device too.

    Args:
        golden: The evidence.
        infer: One call of the artifact: inputs by name to outputs by name.
        max_batch_size: Largest batch that may be sent; 0 means no limit of its own.
        precision: Of the artifact, which chooses the rule that it is judged by.

    Returns:
        A judgement for each output and kind.

    Raises:
        RepositoryError: An answer lacks an output that the evidence has.
        ManifestError: No rule is known for the precision.
    """
    rule = rule_of(precision)
    pools: dict[tuple[str, str], ErrorPool] = {}
    extremes = {case.kind: case.extreme for case in golden.cases}
    for case in golden.cases:
        for call in _calls(case, golden.batchable, max_batch_size):
            answers = infer(call.inputs)
            for name, kept in call.wanted.items():
                if name not in answers:
                    raise RepositoryError(f"the artifact gives no output '{name}'")
                pool = pools.setdefault(
                    (name, case.kind), ErrorPool(golden.batchable, is_load(name))
                )
                pool.add(kept.of(answers[name]), kept.values, stable=call.stable)
    return tuple(
        judge(
            pool, name, kind, extreme=extremes[kind], scale=golden.scales.get((name, kind)),
            rule=rule,
        )
        for (name, kind), pool in pools.items()
    )  # fmt: skip


@dataclass(frozen=True)
class _Call:
    """One call of a replay, its truth, and which rows route stably."""

    inputs: dict[str, Array]
    wanted: dict[str, Kept]
    stable: Array | None


def _calls(case: Case, batchable: bool, limit: int) -> Iterator[_Call]:
    arrays, rows = case.arrays(), case.rows()
    stable = None if case.stable is None else np.array(case.stable, dtype=bool)
    if not batchable:
        yield _Call(arrays, dict(case.truth), stable)
        return
    for part in _slices(rows, REPLAY_SIZES, limit or rows):
        yield _Call(
            {name: array[part] for name, array in arrays.items()},
            {name: kept.rows(part) for name, kept in case.truth.items()},
            None if stable is None else stable[part],
        )


def _slices(rows: int, sizes: Iterable[int], limit: int) -> Iterator[slice]:
    start = 0
    for size in sizes:
        end = min(start + min(size, limit), rows)
        if end > start:
            yield slice(start, end)
        start = end
    while start < rows:
        end = min(start + limit, rows)
        yield slice(start, end)
        start = end
