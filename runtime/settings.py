"""How a server runs: one frozen record, checked when it is made."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import InvalidInput
from runtime.shadow.settings import ShadowSettings

UNPROVED = ("refuse", "allow")
DEVICES = ("cpu", "cuda")
ENGINE_CODE = ("refuse", "allow")
TRANSPORTS = ("grpcio", "envoy")
COMPRESSIONS = ("none", "gzip")
MODEL_CONTROLS = ("none", "explicit", "poll")
LOG_FORMATS = ("text", "json")
MAX_WORKERS = 256
METRICS_PORT = 8002
"""Triton's."""
EXPERTS_LOAD = 1.0
"""By default; ``benchmarks/experts_load.py`` says what it costs."""
MAX_MESSAGE_MB = 2047
"""What gRPC can count: a message is shorter than 2 GiB."""


def default_state_folder() -> Path:
    """``$XDG_STATE_HOME/twinport``, ``~/.local/state/twinport`` where that is not set."""
    base = os.environ.get("XDG_STATE_HOME", "")
    # The specification has relative paths ignored.
    folder = Path(base) if base and Path(base).is_absolute() else Path.home() / ".local" / "state"
    return folder / "twinport"


@dataclass(frozen=True)
class ServerSettings:
    """Everything that ``twinport serve`` can be told.

    Attributes:
        repository: The folder with the models; never written.
        host: The address to listen on.
        port: 0 lets the system choose a free one.
        state: Where the verdicts of replays and the load of experts are kept.
        unproved: ``allow`` serves models without a passed replay too, and says so.
        device: ``cpu`` or ``cuda``, for ONNX Runtime; engines run on a GPU always.
        engine_code: ``allow`` lets version-compatible engines run the code that they bring,
            in this process.
        threads: Threads inside one call of a model.
        drain_seconds: How long running requests may go on after SIGTERM.
        max_message_mb: Largest request or answer in MiB.
        transport: Who speaks HTTP/2: ``grpcio``, or ``envoy``, the faster one.
        workers: Processes that share the port; more than one with ``grpcio`` alone.
        compression: ``gzip`` compresses answers.
        tls_cert: The server's certificate, PEM; without one it speaks plain text.
        tls_key: Its private key, PEM.
        model_control: What of the repository is served: all that is there at the start
            (``none``), what clients load (``explicit``), what is there at any time (``poll``).
        load_models: Loaded at the start where control is explicit; ``*`` is everything.
        poll_seconds: Between two looks at the repository where control is ``poll``.
        tls_client_ca: Who must have signed the certificates of clients, PEM; none lets
            clients without a certificate in.
        metrics: Whether metrics are served over HTTP.
        metrics_host: The address for them.
        metrics_port: 0 lets the system choose; none is ``METRICS_PORT``, or 0 where ``port`` is.
        log_format: ``json`` makes every line of the log an object.
        shadow: Share of the answered requests that is computed again on a reference.
        shadow_action: ``unready`` takes a model that drifts from it out of service.
        shadow_seed: The same choice of requests each time; by chance without one.
        experts_load: Share of the calls whose load of experts is counted.
    """

    repository: Path
    host: str = "127.0.0.1"
    port: int = 8001
    state: Path = field(default_factory=default_state_folder)
    unproved: str = "refuse"
    device: str = "cpu"
    engine_code: str = "refuse"
    threads: int = 1
    drain_seconds: float = 30.0
    max_message_mb: int = MAX_MESSAGE_MB
    transport: str = "grpcio"
    workers: int = 1
    compression: str = "none"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    model_control: str = "none"
    load_models: tuple[str, ...] = ()
    poll_seconds: float = 15.0
    metrics: bool = True
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    log_format: str = "text"
    shadow: float = 0.0
    shadow_action: str = "report"
    shadow_seed: int | None = None
    experts_load: float = EXPERTS_LOAD

    def __post_init__(self) -> None:
        """Refuse what no server can do."""
        if not self.host:
            raise InvalidInput("the host is empty; use 127.0.0.1 for this machine alone")
        _within("port", self.port, 0, 65535)
        _within("threads", self.threads, 1, 1024)
        _within("max_message_mb", self.max_message_mb, 1, MAX_MESSAGE_MB)
        if not 0 <= self.drain_seconds <= 86400:
            raise InvalidInput(f"drain_seconds is {self.drain_seconds}; wanted 0 to 86400")
        _one_of("unproved", self.unproved, UNPROVED)
        _one_of("device", self.device, DEVICES)
        _one_of("engine_code", self.engine_code, ENGINE_CODE)
        self._check_transport()
        self._check_control()
        if not self.metrics_host:
            raise InvalidInput("metrics_host is empty; use 127.0.0.1 for this machine alone")
        if self.metrics_port is not None:
            _within("metrics_port", self.metrics_port, 0, 65535)
        _one_of("log_format", self.log_format, LOG_FORMATS)
        ShadowSettings(self.shadow, self.shadow_action, self.shadow_seed)
        if not 0 <= self.experts_load <= 1:
            raise InvalidInput(
                f"experts_load is {self.experts_load}; wanted 0 (none) to 1 (every call)"
            )

    @property
    def metrics_port_wanted(self) -> int:
        """The port to listen on for metrics; a server on any free port has any free one there."""
        if self.metrics_port is not None:
            return self.metrics_port
        return METRICS_PORT if self.port else 0

    def _check_control(self) -> None:
        _one_of("model_control", self.model_control, MODEL_CONTROLS)
        if not 0.05 <= self.poll_seconds <= 86400:
            raise InvalidInput(f"poll_seconds is {self.poll_seconds}; wanted 0.05 to 86400")
        if self.load_models and self.model_control != "explicit":
            raise InvalidInput(
                f"models to load are named with model_control '{self.model_control}', which loads "
                "everything; use explicit"
            )
        if self.workers > 1 and self.model_control == "explicit":
            raise InvalidInput(
                f"{self.workers} workers do not know what a client loads into one of them; "
                "use 1 with model_control explicit"
            )

    def _check_transport(self) -> None:
        _one_of("transport", self.transport, TRANSPORTS)
        _one_of("compression", self.compression, COMPRESSIONS)
        _within("workers", self.workers, 1, MAX_WORKERS)
        if self.transport == "envoy" and self.workers > 1:
            raise InvalidInput(
                f"workers is {self.workers} with the transport envoy, which is one process; "
                "leave --workers out, or use --transport grpcio"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidInput("TLS needs both a certificate and its key; give both or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise InvalidInput("tls_client_ca is given without tls_cert and tls_key; give them too")


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidInput(f"{name} is {value}; wanted {low} to {high}")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidInput(f"{name} is '{value}'; wanted {' or '.join(choices)}")
