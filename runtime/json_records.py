"""Frozen dataclasses out of JSON, checked field by field.

Standard library only. A field that is not known, missing or of the wrong kind is refused,
so that a record is either understood whole or not used.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, TypeVar, get_args, get_origin

from runtime.errors import ManifestError, TwinportError

T = TypeVar("T")


def record_from_data(kind: type[T], data: dict[str, Any], where: str) -> T:
    """Read one record from what JSON gave; ``where`` names it in errors.

    Raises:
        ManifestError: A field is missing, not known or of the wrong kind.
    """
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(typing.cast(Any, kind))}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ManifestError(f"{where} has the field '{unknown[0]}', which is not known")
    values: dict[str, Any] = {}
    for name, item in fields.items():
        if name in data:
            values[name] = _value(hints[name], data[name], f"{where}.{name}")
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ManifestError(f"{where} has no field '{name}'")
    try:
        return kind(**values)
    except TwinportError as error:
        raise ManifestError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    """``value`` as ``hint`` wants it; the cases are those that records use."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return _union(args, value, where)
    if origin is Literal:
        return _checked(value in args, value, where, f"one of {', '.join(map(str, args))}")
    if dataclasses.is_dataclass(hint):
        _checked(isinstance(value, dict), value, where, "an object")
        return record_from_data(typing.cast("type[Any]", hint), value, where)
    if origin is tuple:
        return _sequence(args, _checked(isinstance(value, list), value, where, "a list"), where)
    if origin is dict:
        _checked(isinstance(value, dict), value, where, "an object")
        return {key: _value(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(_checked(number, value, where, "a number"))
    exact = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    return _checked(exact, value, where, f"a {hint.__name__}")


def _union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    choices = [arg for arg in args if arg is not type(None)]
    for choice in choices[:-1]:
        try:
            return _value(choice, value, where)
        except ManifestError:
            continue
    return _value(choices[-1], value, where)


def _sequence(args: tuple[Any, ...], value: list[Any], where: str) -> tuple[Any, ...]:
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_value(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    _checked(len(value) == len(args), value, where, f"{len(args)} items")
    pairs = zip(args, value, strict=True)
    return tuple(_value(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(pairs))


def _checked(holds: bool, value: Any, where: str, wanted: str) -> Any:
    if not holds:
        raise ManifestError(f"{where} is {value!r}; wanted {wanted}")
    return value
