"""The one tree of errors, each with its gRPC status and its exit code.

::

    TwinportError                INTERNAL
    ├── InvalidInput             INVALID_ARGUMENT     the request or the argument is wrong
    │   ├── UsageProblem         INVALID_ARGUMENT     the command line is wrong (exit 2)
    │   └── PlacementError       INVALID_ARGUMENT     experts cannot be placed as asked
    ├── NotFound                 NOT_FOUND            no such model, version or file
    ├── AlreadyExists            ALREADY_EXISTS       the name is taken
    ├── Unavailable              UNAVAILABLE          not now: loading, draining, not ready
    │   └── BackendUnavailable   UNAVAILABLE          the library or the device is missing
    ├── DeadlineExceeded         DEADLINE_EXCEEDED
    ├── ResourceExhausted        RESOURCE_EXHAUSTED
    ├── Unimplemented            UNIMPLEMENTED        a call that this server does not have
    ├── RepositoryError          FAILED_PRECONDITION  the folder on disk is not as it must be
    │   └── ManifestError        FAILED_PRECONDITION
    ├── ExportError              FAILED_PRECONDITION  the module cannot become an artifact
    ├── TrainingError            FAILED_PRECONDITION  data or checkpoint of the built-in models
    └── ProofFailed              FAILED_PRECONDITION  the artifact is not the same model

No gRPC library is needed to import this: the codes are the numbers of the gRPC
specification (``doc/statuscodes.md``).
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class Status(IntEnum):
    """gRPC status codes by their numbers in the specification."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


def with_article(noun: str) -> str:
    """``an int``, ``a str``."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


class TwinportError(Exception):
    """A failure that Twinport foresaw; its text is one line for the user.

    Attributes:
        noted: Whether a call that it ended is counted and logged.
    """

    status: ClassVar[Status] = Status.INTERNAL
    exit_code: ClassVar[int] = 1
    noted: bool = False


class InvalidInput(TwinportError):
    """What was given is not what is wanted; the text says both."""

    status = Status.INVALID_ARGUMENT


class UsageProblem(InvalidInput):
    """The command line asks for something that does not go together."""

    exit_code = 2


class PlacementError(InvalidInput):
    """Experts cannot be placed as asked; the text names the constraint that breaks."""


class NotFound(TwinportError):
    """There is no such model, version or file."""

    status = Status.NOT_FOUND


class AlreadyExists(TwinportError):
    """The name is taken."""

    status = Status.ALREADY_EXISTS


class Unavailable(TwinportError):
    """Not now: the model is loading, not ready, or the server is draining."""

    status = Status.UNAVAILABLE


class BackendUnavailable(Unavailable):
    """A library or a device that the artifact needs is not here; the text names the cure."""


class DeadlineExceeded(TwinportError):
    """The caller's time was over before the answer was there."""

    status = Status.DEADLINE_EXCEEDED


class ResourceExhausted(TwinportError):
    """A queue or a limit is full; trying later may help."""

    status = Status.RESOURCE_EXHAUSTED


class Unimplemented(TwinportError):
    """A call of the protocol that this server does not have."""

    status = Status.UNIMPLEMENTED


class RepositoryError(TwinportError):
    """The model repository on disk is not as it must be."""

    status = Status.FAILED_PRECONDITION


class ManifestError(RepositoryError):
    """A ``manifest.json`` that cannot be read as one."""


class ExportError(TwinportError):
    """The module cannot become an artifact; the text names the module and the cure."""

    status = Status.FAILED_PRECONDITION


class TrainingError(TwinportError):
    """Data, checkpoint or recipe of a built-in model is not usable."""

    status = Status.FAILED_PRECONDITION


class ProofFailed(TwinportError):
    """The artifact was made but is not shown to be the same model."""

    status = Status.FAILED_PRECONDITION
