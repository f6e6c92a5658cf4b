"""What a comparison of two artifacts says; ``a`` is the first, ``b`` the second."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fact:
    """Something that is said of both and differs."""

    what: str
    a: str
    b: str


@dataclass(frozen=True)
class NodeChanges:
    """Nodes of one module.

    Attributes:
        changed: There on both sides by name, with another operator, attribute or input.
    """

    module: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True)
class WeightChanges:
    """Weights of one module.

    Attributes:
        tensors: On both sides, of one shape.
        equal: Of these, those with the same numbers.
        relative_rms: Of the difference, in units of the first's; over the tensors of one shape.
        largest: Difference of two numbers.
        added: Names on the second side only; also where the shape is another.
        removed: Names on the first side only.
    """

    module: str
    tensors: int
    equal: int
    relative_rms: float
    largest: float
    added: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return self.equal == self.tensors and not self.added and not self.removed


@dataclass(frozen=True)
class OutputNumbers:
    """One output on the same inputs.

    Attributes:
        relative_rms: Of the difference, in units of the first's.
        largest: Difference of two numbers.
        labels: Share of rows whose largest value is at the same place; none where that is no
            question.
        differing: Share of elements that differ, of whole numbers.
    """

    output: str
    elements: int
    rms: float
    relative_rms: float
    largest: float
    labels: float | None
    differing: float
    note: str = ""


@dataclass(frozen=True)
class Speed:
    """Median milliseconds of a call, both in turns, one thread."""

    a_ms: float
    b_ms: float
    calls: int
    shapes: str

    @property
    def ratio(self) -> float:
        """How much longer the second takes."""
        return self.b_ms / self.a_ms if self.a_ms else 0.0


@dataclass(frozen=True)
class Difference:
    """Two artifacts compared.

    Attributes:
        facts: Of manifests and files.
        operators: Nodes on each side by operator, where the counts differ.
        shapes: Of inputs, outputs and inner values by name.
        left_out: What could not be compared, and why.
        inputs: Which inputs both were run on.
    """

    a: str
    b: str
    same_file: bool
    facts: tuple[Fact, ...] = ()
    operators: dict[str, tuple[int, int]] = field(default_factory=dict)
    nodes: tuple[NodeChanges, ...] = ()
    shapes: tuple[Fact, ...] = ()
    weights: tuple[WeightChanges, ...] = ()
    numbers: tuple[OutputNumbers, ...] = ()
    inputs: str = ""
    speed: Speed | None = None
    left_out: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether the model does: its graph, shapes, weights or numbers."""
        return bool(
            self.nodes
            or self.shapes
            or any(not item.same for item in self.weights)
            or any(item.largest or item.differing or item.note for item in self.numbers)
        )
