"""What ``--preprocess`` says: ``auto``, or ``resize=32,scale=1/255,mean=0.1307,std=0.3081``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite

from runtime.errors import InvalidInput

AUTO = "auto"
EXAMPLE = "resize=256,crop=224,mean=0.485:0.456:0.406,std=0.229:0.224:0.225"
_SIZE = re.compile(r"([1-9]\d*)(?:x([1-9]\d*))?")
_PARTS = ("resize", "crop", "scale", "mean", "std", "input")
LARGEST_SIDE = 16384


@dataclass(frozen=True)
class PreprocessWords:
    """The user's words; what is empty comes from the model's own record, or is not done.

    Attributes:
        resize: ``(height, width)`` that a picture is stretched to; with ``crop`` the shorter
            side becomes the first of them and the picture keeps its form.
        crop: ``(height, width)`` of the middle that is cut out after that.
        scale: What a pixel of 0 to 255 is multiplied by before ``mean`` is taken off.
        mean: One for all channels, or one each.
        std: The same.
        input: The input that pictures become; the only one that looks like it by default.
    """

    resize: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input: str | None = None

    @property
    def auto(self) -> bool:
        """Whether the model's own record is to be taken as it is."""
        return self == PreprocessWords(input=self.input)


def words_from_text(text: str) -> PreprocessWords:
    """Read the option.

    Raises:
        InvalidInput: It has another form, or what it says cannot be done.
    """
    found: dict[str, str] = {}
    for part in filter(None, (item.strip() for item in text.split(","))):
        key, sign, value = (item.strip() for item in part.partition("="))
        if key == AUTO and not sign:
            continue
        if key not in _PARTS or not value or key in found:
            raise InvalidInput(
                f"--preprocess '{text}' cannot be read at '{part}'; wanted {AUTO} or "
                f"{', '.join(_PARTS)}, each once: {EXAMPLE}"
            )
        found[key] = value
    words = PreprocessWords(
        resize=_size(found, "resize"),
        crop=_size(found, "crop"),
        scale=_numbers(found, "scale", 1)[0] if "scale" in found else None,
        mean=_numbers(found, "mean", 3) if "mean" in found else None,
        std=_numbers(found, "std", 3) if "std" in found else None,
        input=found.get("input"),
    )
    _check(words, text)
    return words


def _check(words: PreprocessWords, text: str) -> None:
    if words.scale is not None and words.scale <= 0:
        raise InvalidInput(f"--preprocess '{text}': wanted a scale above 0")
    if words.std is not None and min(words.std) <= 0:
        raise InvalidInput(f"--preprocess '{text}': wanted every std above 0")
    if words.crop is None:
        return
    if words.resize is None:
        raise InvalidInput(f"--preprocess '{text}': crop cuts what resize gives; add resize=SIZE")
    if words.resize[0] != words.resize[1]:
        raise InvalidInput(
            f"--preprocess '{text}': before a crop resize is one number, the shorter side"
        )
    if max(words.crop) > words.resize[0]:
        raise InvalidInput(
            f"--preprocess '{text}': a crop of {words.crop[0]}x{words.crop[1]} is more than a "
            f"shorter side of {words.resize[0]} has"
        )


def _size(found: dict[str, str], key: str) -> tuple[int, int] | None:
    if key not in found:
        return None
    read = _SIZE.fullmatch(found[key])
    if read is None or max(int(side) for side in read.groups() if side) > LARGEST_SIDE:
        raise InvalidInput(
            f"--preprocess {key}={found[key]} cannot be read; wanted HEIGHTxWIDTH or one number "
            f"for both, up to {LARGEST_SIDE}"
        )
    height = int(read[1])
    return height, int(read[2] or height)


def _numbers(found: dict[str, str], key: str, most: int) -> tuple[float, ...]:
    parts = found[key].split(":")
    try:
        numbers = tuple(_number(part) for part in parts)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise _unread(key, found[key], most) from error
    if len(numbers) not in {1, most} or not all(map(isfinite, numbers)):
        raise _unread(key, found[key], most)
    return numbers


def _unread(key: str, value: str, most: int) -> InvalidInput:
    wanted = "one number" if most == 1 else "one number, or three with ':' between"
    return InvalidInput(f"--preprocess {key}={value} cannot be read; wanted {wanted} (1/255, 0.5)")


def _number(text: str) -> float:
    above, _, below = text.partition("/")
    return float(above) / float(below) if below else float(text)
