"""``twinport serve``: answer requests to the models of a repository over gRPC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from runtime.observe.failures import use_json_lines
from runtime.settings import (
    COMPRESSIONS,
    DEVICES,
    ENGINE_CODE,
    EXPERTS_LOAD,
    LOG_FORMATS,
    MAX_MESSAGE_MB,
    METRICS_PORT,
    MODEL_CONTROLS,
    TRANSPORTS,
    UNPROVED,
    ServerSettings,
)
from runtime.shadow.settings import ACTIONS, REPORT
from runtime.start import say, start_server

_SHOWN: dict[str, Any] = {"show_default": True}
_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("repository", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", help="Address to listen on.", **_SHOWN)
@click.option("--port", default=8001, help="0 lets the system choose a free one.", **_SHOWN)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where verdicts and the load of experts are kept.  [default: $XDG_STATE_HOME/twinport]",
)
@click.option(
    "--unproved",
    type=click.Choice(UNPROVED),
    default="refuse",
    help="What to do with a version whose proof is missing or fails here.",
    **_SHOWN,
)
@click.option(
    "--device",
    type=click.Choice(DEVICES),
    default="cpu",
    help="For ONNX Runtime; engines run on the GPU.",
    **_SHOWN,
)
@click.option(
    "--engine-code",
    type=click.Choice(ENGINE_CODE),
    default="refuse",
    help="Whether version-compatible engines may run code that they bring.",
    **_SHOWN,
)
@click.option(
    "--model-control",
    type=click.Choice(MODEL_CONTROLS),
    default="none",
    help="Serve what is there at the start, what clients load, or what is there at any time.",
    **_SHOWN,
)
@click.option(
    "--load-model",
    "load_models",
    multiple=True,
    help="Model to load at the start with explicit control; may be repeated, '*' is all.",
)
@click.option("--poll-seconds", default=15.0, help="Between two looks at the repository.", **_SHOWN)
@click.option("--threads", default=1, help="Threads inside one call of a model.", **_SHOWN)
@click.option("--drain-seconds", default=30.0, help="For running requests after SIGTERM.", **_SHOWN)
@click.option(
    "--max-message-mb",
    default=MAX_MESSAGE_MB,
    help="Largest request or answer in MiB; gRPC itself takes no more than the default.",
    **_SHOWN,
)
@click.option(
    "--transport",
    type=click.Choice(TRANSPORTS),
    default="grpcio",
    help="Who speaks HTTP/2; envoy is the faster one (pip install 'twinport[envoy]').",
    **_SHOWN,
)
@click.option("--workers", default=1, help="Processes that share the port (grpcio).", **_SHOWN)
@click.option(
    "--compression",
    type=click.Choice(COMPRESSIONS),
    default="none",
    help="Of answers; requests may be compressed in any case.",
    **_SHOWN,
)
@click.option("--tls-cert", type=_FILE, help="The server's certificate, PEM.")
@click.option("--tls-key", type=_FILE, help="Its private key, PEM.")
@click.option(
    "--tls-client-ca", type=_FILE, help="Who signs the certificates that clients must show."
)
@click.option(
    "--metrics/--no-metrics", default=True, help="Prometheus metrics over HTTP.", **_SHOWN
)
@click.option(
    "--metrics-host", default="127.0.0.1", help="Address to listen on for them.", **_SHOWN
)
@click.option(
    "--metrics-port",
    type=int,
    help=f"0 lets the system choose a free one.  [default: {METRICS_PORT}; 0 with --port 0]",
)
@click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS),
    default="text",
    help="Of the log on stderr; json is one object a line.",
    **_SHOWN,
)
@click.option(
    "--shadow",
    default=0.0,
    help="Share of the requests to compute again on a reference, such as 0.01.",
    **_SHOWN,
)
@click.option(
    "--shadow-action",
    type=click.Choice(ACTIONS),
    default=REPORT,
    help="What to do with a model whose answers drift from it.",
    **_SHOWN,
)
@click.option("--shadow-seed", type=int, help="The same choice of requests each time.")
@click.option(
    "--experts-load",
    metavar="SHARE",
    default=EXPERTS_LOAD,
    help="Of the calls to mixtures of experts, whose experts to count.",
    **_SHOWN,
)
def serve(state: Path | None, **options: Any) -> None:
    """Serve every model of REPOSITORY over gRPC (Open Inference Protocol v2).

    Each version's proof is run again on this machine's backend and device before it
    answers; one that fails is listed as not ready, with the reason, while the others
    work. Prints the address, then a line for each version. Ctrl-C or SIGTERM lets running
    requests finish.
    """
    if state is not None:
        options["state"] = state
    settings = ServerSettings(**options)
    if settings.log_format == "json":
        use_json_lines()
    start_server(settings, say)
