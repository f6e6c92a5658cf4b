"""A source that takes pictures as they are: its inputs and its record with the pixels first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from exporter.preprocess.module import Preprocess, put_before
from exporter.preprocess.words import EXAMPLE, PreprocessWords
from exporter.ranges import Range
from exporter.source import Source, SourceRequest, load_source
from runtime.errors import InvalidInput
from runtime.manifest import Preprocessing
from runtime.tensors import TensorSpec

PIXEL_VALUES = (0, 256)
SIDES: Range = (1, 4096)
"""Pixels that a side of a picture may have where no ``--range`` says it."""
_AXES = ("height", "width")
_COLORS = {1: "gray", 3: "rgb"}


def load_prepared(request: SourceRequest, words: PreprocessWords | None) -> Source:
    """Load a source; with ``words`` it takes pixels.

    Raises:
        TwinportError: As ``load_source``; or the words do not fit the model.
    """
    if words is None:
        return load_source(request)
    described = {axis for spec in request.inputs for axis in spec.shape}
    own = {name: size for name, size in request.ranges.items()
           if name in _pixel_names() and name not in described}  # fmt: skip
    rest = {name: size for name, size in request.ranges.items() if name not in own}
    return with_pixels(load_source(replace(request, ranges=rest)), words, own)


def load_as_exported(request: SourceRequest, record: Preprocessing | None) -> Source:
    """Load a source as a version of it was exported.

    Args:
        request: Its inputs and ranges are the version's own.
        record: The version's; where the artifact prepares pictures, the module does it again.

    Raises:
        TwinportError: As ``load_source``.
    """
    if record is None or record.done_by != "artifact":
        return load_source(request)
    pixels = next(spec for spec in request.inputs if spec.name == record.input)
    batch, height, width, channels = pixels.shape
    sides = (record.height or height, record.width or width)
    prepared = TensorSpec(pixels.name, "float32", (batch, channels, *sides))
    inputs = tuple(prepared if spec is pixels else spec for spec in request.inputs)
    left = {axis for spec in inputs for axis in spec.shape}
    ranges = {axis: size for axis, size in request.ranges.items() if axis in left}
    source = load_source(replace(request, inputs=inputs, ranges=ranges))
    put_before(source.module, Preprocess(record, resizes=sides != (height, width)))
    return replace(
        source,
        inputs=tuple(pixels if spec.name == record.input else spec for spec in source.inputs),
        ranges=dict(request.ranges),
        values={**source.values, record.input: PIXEL_VALUES},
        preprocessing=record,
        program=None,
    )


def with_pixels(
    source: Source, words: PreprocessWords, ranges: Mapping[str, Range] | None = None
) -> Source:
    """The same source behind its preprocessing; its module is changed.

    Args:
        source: Takes the prepared picture.
        words: What the user says; the source's own record fills what is empty.
        ranges: Sizes of the pictures' axes, ``height`` and ``width``.

    Raises:
        InvalidInput: Nothing says how a picture becomes the input, or it does not fit.
    """
    spec = _image_input(source, words)
    record, resizes = _record(source, spec, words)
    axes = _axes(source, spec, resizes)
    _check_ranges(ranges or {}, axes if resizes else ())
    pixels = TensorSpec(spec.name, "uint8", (spec.shape[0], *axes, spec.shape[1]))
    own = {str(axis): (ranges or {}).get(str(axis), SIDES) for axis in axes} if resizes else {}
    fixed = {axis: low for axis, (low, high) in own.items() if low == high}
    pixels = replace(pixels, shape=tuple(fixed.get(str(axis), axis) for axis in pixels.shape))
    put_before(source.module, Preprocess(record, resizes=resizes))
    inputs = tuple(pixels if item is spec else item for item in source.inputs)
    left = {axis for item in inputs for axis in item.shape}
    sizes = {**source.ranges, **own}
    return replace(
        source,
        inputs=inputs,
        ranges={axis: size for axis, size in sizes.items() if axis in left},
        values={**source.values, spec.name: PIXEL_VALUES},
        preprocessing=record,
        program=None,  # what was captured takes no pixels
    )


def _image_input(source: Source, words: PreprocessWords) -> TensorSpec:
    """The input that pictures become."""
    known = words.input or (source.preprocessing.input if source.preprocessing else None)
    fitting = [item for item in source.inputs if _takes_image(item)]
    chosen = [item for item in fitting if known in (None, item.name)]
    if len(chosen) == 1:
        return chosen[0]
    listed = ", ".join(f"{item.name} {item}" for item in source.inputs)
    if known is not None or not fitting:
        raise InvalidInput(
            f"--preprocess wants {f'the input {known!r}' if known else 'an input'} as float32 "
            f"[batch, 1 or 3 channels, height, width]; the model takes {listed}"
        )
    raise InvalidInput(
        f"--preprocess cannot tell which input is the picture; add input=NAME, one of "
        f"{', '.join(item.name for item in fitting)}"
    )


def _takes_image(spec: TensorSpec) -> bool:
    return spec.dtype == "float32" and len(spec.shape) == 4 and spec.shape[1] in _COLORS


def _record(source: Source, spec: TensorSpec, words: PreprocessWords) -> tuple[Preprocessing, bool]:
    """What is done, and whether pictures are resized."""
    given, own = words, source.preprocessing
    if words.auto and own is None:
        raise InvalidInput(
            f"'{source.name}' does not say how a picture becomes its input; say it: "
            f"--preprocess {EXAMPLE}"
        )
    channels, *sides = spec.shape[1:]
    size, short = (
        given.crop or given.resize,
        given.resize[0] if given.crop and given.resize else None,
    )
    if size is None and own is not None:
        size, short = (own.height, own.width), own.short_side
    resizes = size is not None
    if size is None:
        # No words about the size: pictures have the model's own.
        size = tuple(side if isinstance(side, int) else 0 for side in sides)  # type: ignore[assignment]
    assert size is not None
    for name, side, wanted in zip(_AXES, sides, size, strict=True):
        if isinstance(side, int) and side != wanted:
            raise InvalidInput(
                f"--preprocess makes pictures {size[0]}x{size[1]}; input '{spec.name}' has {name} "
                f"{side}"
            )
    mean, std = _statistics(words, own)
    if {len(mean), len(std)} - {1, channels}:
        raise InvalidInput(
            f"--preprocess has {len(mean)} means and {len(std)} deviations; input '{spec.name}' "
            f"has {channels} channels"
        )
    color = _COLORS[int(channels)]
    record = Preprocessing(
        spec.name, color, *size, mean, std, short_side=short, done_by="artifact"  # type: ignore[arg-type]
    )  # fmt: skip
    return record, resizes


def _statistics(
    words: PreprocessWords, own: Preprocessing | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of pixels in ``[0, 1]``, whatever scale the words are in."""
    if own is not None and words.scale is None and words.mean is None and words.std is None:
        return own.mean, own.std
    unit = 255 * words.scale if words.scale is not None else 1.0
    mean, std = words.mean or (0.0,), words.std or (1.0,)
    if abs(unit - 1) < 1e-12:
        return mean, std
    return tuple(value / unit for value in mean), tuple(value / unit for value in std)


def _axes(source: Source, spec: TensorSpec, resizes: bool) -> tuple[int | str, int | str]:
    """Names of the picture's axes, or the model's own where nothing is resized."""
    if not resizes:
        return spec.shape[2], spec.shape[3]
    others = {axis for item in source.inputs if item is not spec for axis in item.shape}
    taken = others | {spec.shape[0]}
    high, wide = (name if name not in taken else f"pixel_{name}" for name in _AXES)
    return high, wide


def _pixel_names() -> tuple[str, ...]:
    return (*_AXES, *(f"pixel_{name}" for name in _AXES))


def _check_ranges(ranges: Mapping[str, Range], axes: tuple[int | str, ...]) -> None:
    for name, (low, high) in ranges.items():
        if name not in axes:
            raise InvalidInput(
                f"--range names the axis '{name}'; pictures have "
                f"{' and '.join(map(str, axes)) or 'the size that the model wants'}"
            )
        if not 1 <= low <= high:
            raise InvalidInput(f"--range {name}={low}:{high}: wanted 1 <= low <= high")
