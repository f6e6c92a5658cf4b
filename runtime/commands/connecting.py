"""Options of commands that call a server: its address, TLS, a token."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from runtime.client_wire import DEFAULT_URL, Connection, Tls

TOKEN = "TWINPORT_TOKEN"

_FILE = click.Path(path_type=Path, dir_okay=False)


def connecting(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options, and their values as one ``connection``."""

    @click.option("--url", default=DEFAULT_URL, show_default=True, help="HOST:PORT of the server.")
    @click.option("--tls", is_flag=True, help="Speak TLS; the files of TLS imply it.")
    @click.option("--tls-ca", type=_FILE, help="Who signs the server's certificate, PEM.")
    @click.option("--tls-cert", type=_FILE, help="The client's own certificate, PEM.")
    @click.option("--tls-key", type=_FILE, help="Its private key, PEM.")
    @click.option("--token", envvar=TOKEN, default="",
                  help=f"Sent as a bearer's token; better in the variable {TOKEN}.")  # fmt: skip
    @functools.wraps(command)
    def with_connection(
        url: str,
        tls: bool,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        token: str,
        **options: Any,
    ) -> None:
        wanted = tls or any((tls_ca, tls_cert, tls_key))
        files = Tls(tls_ca, tls_cert, tls_key) if wanted else None
        command(connection=Connection(url, files, token), **options)

    return with_connection
