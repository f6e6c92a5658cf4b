"""A model of torchvision by its name, with weights that are published, in a file, or by chance.

What the weights' own record says comes along: labels, size of pictures, mean and deviation.
"""

from __future__ import annotations

import inspect
import os
import re
import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torchvision import models

from exporter.ranges import Range
from exporter.said import first_line
from exporter.sources.made import Made
from exporter.sources.state_file import weights_only
from exporter.weights import file_sha256, load_weights
from runtime.errors import ExportError, NotFound
from runtime.manifest import Preprocessing
from runtime.tensors import TensorSpec

_PREFIX = "torchvision:"
_RANGES: dict[str, Range] = {"ImageClassification": (1, 16)}
_SMALL: Range = (1, 2)
"""Where nothing else is said: a proof runs the largest batch in float64, which takes a while."""
_RESAMPLES = {"bilinear"}
_HASH = re.compile(r"-([a-f0-9]+)\.")
"""In a file's name: how its sha256 begins."""


def made_from_torchvision(model: str, weights: Path | None) -> Made:
    """Build ``torchvision:NAME``.

    Args:
        model: With the prefix.
        weights: A file, or the name of published weights (``DEFAULT``); none gives values by
            chance, the same ones each time.

    Raises:
        NotFound: There is no such model, and no such weights of it.
        ExportError: The weights cannot be fetched or do not fit.
    """
    name = model.removeprefix(_PREFIX)
    if name not in models.list_models():
        near = get_close_matches(name, models.list_models(), n=3)
        raise NotFound(
            f"torchvision has no model '{name}'; "
            + (f"there are {', '.join(near)}" if near else "see torchvision.models.list_models()")
        )
    known: Mapping[str, Any] = models.get_model_weights(name).__members__
    if weights is None:
        made, entry, sha256 = _built(name, None), None, None
    elif weights.is_file():
        made, entry = _built(name, None), None
        sha256 = load_weights(made, weights)
    else:
        entry = _published(name, str(weights), known)
        sha256 = _fetch(name, entry)
        made = _built(name, entry)
    record = entry or known.get("DEFAULT")
    inputs = _inputs(made, record)
    return Made(
        name=name,
        factory=model,
        module=made,
        inputs=inputs,
        ranges={"batch": _RANGES.get(_kind(record), _SMALL)},
        output_names=("logits",) if _classifies(record) else (),
        checkpoint_sha256=sha256,
        labels=_labels(entry),
        preprocessing=_preprocessing(entry, inputs),
    )


def _built(name: str, entry: Any) -> torch.nn.Module:
    """Seeded, so that weights by chance are the same ones next time."""
    builder = models.get_model_builder(name)
    given: dict[str, Any] = {"weights": entry}
    if "weights_backbone" in builder.__annotations__:
        given["weights_backbone"] = None  # else it would be fetched
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), weights_only():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            module: torch.nn.Module = builder(**given)
    except Exception as error:
        kept = "" if entry is None else f"; if {_cached(entry)} is damaged, delete it"
        raise ExportError(f"torchvision cannot build {name}: {first_line(error)}{kept}") from error
    return module


def _published(name: str, text: str, known: Mapping[str, Any]) -> Any:
    entry = known.get(text.rpartition(".")[2])
    if entry is None:
        raise NotFound(
            f"weights {text} are no file, and {name} has none of that name; "
            f"there are {', '.join(known) or 'none'}"
        )
    return entry


def _cached(entry: Any) -> Path:
    """Where torch keeps what it fetched; ``TORCH_HOME`` moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name


def _fetch(name: str, entry: Any) -> str:
    """Make sure that the weights' file is there; gives its hash."""
    file = _cached(entry)
    if not file.is_file():
        begins = _HASH.search(file.name)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                entry.url, str(file), begins[1] if begins else None, progress=_is_watched()
            )
        except (OSError, RuntimeError, ValueError) as error:
            why = error.reason if isinstance(error, URLError) else first_line(error)
            raise ExportError(
                f"the weights {entry.name} of {name} cannot be fetched from {entry.url}: {why}; "
                f"put the file to {file}, or give one with --weights FILE"
            ) from error
    return file_sha256(file)


def _is_watched() -> bool:
    """Whether a person sees the progress."""
    return os.isatty(2)


def _kind(record: Any) -> str:
    """What the weights' transforms are for: ``ImageClassification`` and so on."""
    return type(record.transforms()).__name__ if record is not None else ""


def _classifies(record: Any) -> bool:
    return _kind(record) in ("ImageClassification", "VideoClassification")


def _inputs(module: torch.nn.Module, record: Any) -> tuple[TensorSpec, ...]:
    """One batch of pictures or films of the size that the published weights are for."""
    kind = _kind(record)
    if kind == "ImageClassification":
        below = (3, *record.transforms().crop_size * 2)
    elif kind == "SemanticSegmentation":
        below = (3, *record.transforms().resize_size * 2)
    elif kind == "VideoClassification":
        frames = max(record.meta.get("min_temporal_size", 1), 16)
        below = (3, frames, *record.transforms().crop_size)
    else:
        return ()
    name = next(iter(inspect.signature(module.forward).parameters))
    return (TensorSpec(name, "float32", ("batch", *below)),)


def _labels(entry: Any) -> tuple[str, ...] | None:
    categories = entry.meta.get("categories") if entry is not None else None
    return tuple(categories) if categories and _classifies(entry) else None


def _preprocessing(entry: Any, inputs: tuple[TensorSpec, ...]) -> Preprocessing | None:
    """The recipe of the published weights, where it is one that clients know."""
    if entry is None or _kind(entry) != "ImageClassification":
        return None
    recipe = entry.transforms()
    if recipe.interpolation.value not in _RESAMPLES:
        return None
    height, width = inputs[0].shape[2:]
    return Preprocessing(
        input=inputs[0].name,
        color="rgb",
        height=int(height),
        width=int(width),
        mean=tuple(recipe.mean),
        std=tuple(recipe.std),
        short_side=int(recipe.resize_size[0]),
    )
