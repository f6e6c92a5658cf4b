"""The errors of this package, each one line for the user.

::

    ModelsError
    ├── UnknownName         no built-in model, recipe or data set of that name
    ├── DataMissing         the data set is not here, or is not what it should be
    ├── CheckpointProblem   weights or their card cannot be used
    ├── DeviceMissing       the device that was asked for is not here
    ├── WriteProblem        a file or a folder cannot be written
    └── TrainingProblem     a run cannot begin, go on, or came to nothing

The package knows nothing of the other three; whoever calls it translates these.
"""

from __future__ import annotations

from typing import ClassVar


class ModelsError(Exception):
    """A failure that was foreseen; its text says what was given, wanted and to do."""

    exit_code: ClassVar[int] = 1


class UnknownName(ModelsError):
    """There is no built-in model, recipe or data set of that name."""


class DataMissing(ModelsError):
    """The data set is not here, or is not what it should be."""


class CheckpointProblem(ModelsError):
    """Weights or their card cannot be used."""


class DeviceMissing(ModelsError):
    """The device that was asked for is not here."""


class WriteProblem(ModelsError):
    """A file or a folder cannot be written."""


class TrainingProblem(ModelsError):
    """A run cannot begin, cannot go on, or came to nothing."""
