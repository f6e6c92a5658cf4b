"""Weights as safetensors, and the JSON card beside them that says how they came to be."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from models.errors import CheckpointProblem
from models.files import write_atomically


@dataclass(frozen=True)
class Card:
    """Where a checkpoint came from and how good it is."""

    model: str
    parameters: int
    sha256: str
    """Of the safetensors file."""
    data: dict[str, Any]
    """Name, sizes of the parts, and SHA-256 over all images and labels."""
    recipe: dict[str, Any]
    seed: int
    command: str
    epoch: int
    """The epoch that these weights are from, counted from 1."""
    chosen_by: str
    accuracy: dict[str, float]
    """Share of right answers, by part of the data."""
    made_with: dict[str, str]
    """Versions and device."""
    experts: dict[str, Any] | None = None
    """How evenly the experts are used, where there are any: ``balance`` of each layer by part
    of the data, ``test_tokens`` ``[layers][experts]`` that each got of the test images, and
    ``test_least_share``, what the least used one got of its even share."""


def card_path(weights: Path) -> Path:
    """The card of ``lenet5.safetensors`` is ``lenet5.json``."""
    return weights.with_suffix(".json")


def save_checkpoint(state: Mapping[str, Tensor], path: Path, card: Card) -> Card:
    """Write weights and card; the card comes back with the file's SHA-256 in it."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    content = save(tensors, metadata={"format": "pt"})
    card = dataclasses.replace(card, sha256=hashlib.sha256(content).hexdigest())
    # In between there are weights without a card, never weights with a wrong one.
    card_path(path).unlink(missing_ok=True)
    write_atomically(path, content)
    facts = {name: fact for name, fact in dataclasses.asdict(card).items() if fact is not None}
    text = json.dumps(facts, indent=2, allow_nan=False) + "\n"
    write_atomically(card_path(path), text.encode())
    return card


def read_card(weights: Path) -> Card | None:
    """The card beside the weights; None where there is none.

    Raises:
        CheckpointProblem: There is a card, but it cannot be read as one.
    """
    path = card_path(weights)
    if not path.is_file():
        return None
    try:
        return Card(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointProblem(f"the card '{path}' cannot be read: {reason}") from error


def load_checkpoint(module: nn.Module, path: Path) -> Card | None:
    """Fill a module with the weights of a file, every one of them and no other.

    Args:
        module: Changed in place.
        path: A safetensors file; where a card lies beside it, the hashes must agree.

    Returns:
        The card, where there is one.

    Raises:
        CheckpointProblem: No such file, not safetensors, not what the card says, or
            another module's weights; the text names the first that is wrong.
    """
    content = _content(path)
    card = read_card(path)
    found = hashlib.sha256(content).hexdigest()
    if card is not None and card.sha256 != found:
        raise CheckpointProblem(
            f"'{path}' has the SHA-256 {found}, its card '{card_path(path)}' says {card.sha256}; "
            "one of the two was changed: restore it, or remove the card to load it all the same"
        )
    try:
        weights = load(content)
    except SafetensorError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointProblem(f"'{path}' is not a safetensors file: {reason}") from error
    _check_weights(weights, module.state_dict(), path)
    module.load_state_dict(weights)
    return card


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CheckpointProblem(f"the checkpoint '{path}' cannot be read: {reason}") from error


def _check_weights(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    for problem, names in (
        ("has no", [name for name in wanted if name not in given]),
        ("has an unexpected", [name for name in given if name not in wanted]),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointProblem(
                f"'{path}' {problem} '{names[0]}'{more}; it holds {len(given)} tensors, the model "
                f"has {len(wanted)}; give the checkpoint of this model"
            )
    for name, tensor in wanted.items():
        is_so, should = _describe(given[name]), _describe(tensor)
        if is_so != should:
            raise CheckpointProblem(
                f"'{name}' in '{path}' is {is_so}; the model wants {should}; "
                "give the checkpoint of this model"
            )


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
