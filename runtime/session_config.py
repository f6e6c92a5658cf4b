"""Threads of ONNX Runtime in the ``parameters`` of ``config.pbtxt``, as Triton's backend has them.

Other parameters are left alone: they are for backends that are not here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from protos import ModelConfig
from runtime.backends.base import BackendOptions
from runtime.errors import RepositoryError
from runtime.layout import CONFIG_FILE

_THREADS = "intra_op_thread_count"
_NODES = "inter_op_thread_count"
_MODE = "execution_mode"
_SPINNING = "session.intra_op.allow_spinning"
MOST_THREADS = 1024


@dataclass(frozen=True)
class SessionConfig:
    """What a model says itself; none leaves it to the server.

    Attributes:
        threads: Inside one node; 0 is one for each core.
        node_threads: For nodes that run side by side; 0 is one for each core.
        parallel: Whether nodes may run side by side.
        spinning: Whether threads that wait for work burn time meanwhile.
    """

    threads: int | None = None
    node_threads: int | None = None
    parallel: bool | None = None
    spinning: bool | None = None

    def applied(self, options: BackendOptions) -> BackendOptions:
        """The server's options, but for what the model says."""
        stated = {name: value for name, value in vars(self).items() if value is not None}
        return replace(options, **stated)


def session_from_config(config: ModelConfig, where: str = CONFIG_FILE) -> SessionConfig:
    """The threads that a model asks for.

    Raises:
        RepositoryError: A parameter that is no such number.
    """
    return SessionConfig(
        _number(config, _THREADS, MOST_THREADS, where),
        _number(config, _NODES, MOST_THREADS, where),
        _switch(config, _MODE, where),
        _switch(config, _SPINNING, where),
    )


def _switch(config: ModelConfig, name: str, where: str) -> bool | None:
    number = _number(config, name, 1, where)
    return None if number is None else bool(number)


def _number(config: ModelConfig, name: str, most: int, where: str) -> int | None:
    if name not in config.parameters:
        return None
    text = config.parameters[name].string_value
    if not (text.isascii() and text.isdecimal() and len(text) <= 4 and int(text) <= most):
        raise RepositoryError(
            f"{where} has the parameter {name} '{text[:80]}'; "
            f"wanted a whole number from 0 to {most}"
        )
    return int(text)
