"""The program as a function, a server whose answers the test writes, the service itself."""

from __future__ import annotations

import logging
import runpy
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from protos import METHODS, SERVICE
from runtime.backends.base import BackendOptions
from runtime.cli import main
from runtime.errors import TwinportError
from runtime.loading import LoadOptions
from runtime.repository import NONE, Repository
from runtime.servicer import Call, Servicer
from runtime.verdicts import VerdictStore

Handler = Callable[[Any, grpc.ServicerContext], Any]


class Ran(NamedTuple):
    """What a run of the program left."""

    code: int
    out: str
    err: str


@pytest.fixture
def twinport(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ran]]:
    """Run ``twinport`` with arguments in this process; logging is put back afterwards."""
    loggers = [logging.getLogger(name) for name in ("exporter", "models", "runtime")]
    levels = [logger.level for logger in loggers]

    def run(*argv: object) -> Ran:
        code = main([str(item) for item in argv])
        return Ran(code, *capsys.readouterr())

    yield run
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def hanging(serve_with):
    """A server that answers nothing until the test is over, and what is set by each call."""
    arrived, over = threading.Event(), threading.Event()

    def hanging(answer):
        def hang(request, context):
            arrived.set()
            over.wait(30)
            return answer

        return hang

    handlers = {name: METHODS[name].response() for name in ("ServerLive", "ModelInfer")}
    streams = {"ModelStreamInfer": iter(())}
    calls = {name: hanging(answer) for name, answer in (handlers | streams).items()}
    yield serve_with(**calls), arrived
    over.set()


_KINDS = {
    False: grpc.unary_unary_rpc_method_handler,
    True: grpc.stream_stream_rpc_method_handler,
}


@pytest.fixture
def serve_with() -> Iterator[Callable[..., str]]:
    """Start a server with one function a call (``ModelInfer=...``); returns its address."""
    servers: list[grpc.Server] = []

    def start(address: str = "127.0.0.1:0", **handlers: Handler) -> str:
        server = grpc.server(ThreadPoolExecutor(4))
        methods = {
            name: _KINDS[METHODS[name].client_streaming](
                handler,
                request_deserializer=METHODS[name].request.FromString,
                response_serializer=METHODS[name].response.SerializeToString,
            )
            for name, handler in handlers.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        port = server.add_insecure_port(address)
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None).wait()


@pytest.fixture
def open_models(repository, tmp_path):
    """Open the test's repository and load it; everything is unloaded at the end."""
    opened = []

    async def open_models(control=NONE, *, load=True, load_models=(), unproved=False):
        options = LoadOptions(BackendOptions(), unproved, VerdictStore(tmp_path / "state"))
        models = Repository(repository, options, control=control, load_models=load_models)
        opened.append(models)
        if load:
            await models.load()
        return models

    yield open_models
    for models in opened:
        models.close()


@pytest.fixture
def open_service(open_models):
    """Make the service over the test's repository."""

    async def open_service(**how):
        return Servicer(await open_models(**how))

    return open_service


@pytest.fixture
async def servicer(write_toy, open_service):
    """One model with two sound versions."""
    write_toy("linear", version=1)
    write_toy("linear", version=2)
    return await open_service()


@pytest.fixture(scope="session")
def ask():
    """Send one message to a servicer, as a record or as bytes; gives the answer's record."""

    async def ask(servicer, method, request=None, call=None, **fields):
        kinds = METHODS[method]
        message = kinds.request(**fields) if request is None else request
        payload = message if isinstance(message, bytes) else message.SerializeToString()
        answer = await servicer.unary(f"/{SERVICE}/{method}", payload, call or Call())
        return kinds.response.FromString(answer)

    return ask


@pytest.fixture(scope="session")
def status_of():
    """The status and the text of the error that a call ends with."""

    async def status_of(awaitable):
        with pytest.raises(TwinportError) as caught:
            await awaitable
        assert "\n" not in str(caught.value)
        return caught.value.status, str(caught.value)

    return status_of


@pytest.fixture
def standin(monkeypatch):
    """Stand-ins in the place of TensorRT and CUDA; ``state`` is what lies on the device."""
    install = runpy.run_path(str(Path(__file__).parents[1] / "standin" / "install.py"))
    monkeypatch.setattr("runtime.backends.cuda._has_driver", lambda: True)
    with install["installed"]() as found:
        yield found


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``NAME.pem`` and ``NAME.key`` of ``ca``, which signed all but ``stranger``, and of others.

    ``server`` and ``client`` are sound, ``elsewhere`` is another host's, ``old`` has expired,
    ``young`` is not valid yet.
    """
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key")
    here = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name, more in (
        ("ca", ()), ("stranger", here), ("server", (*signed, *here)), ("client", (*signed, *here)),
        ("elsewhere", (*signed, "-addext", "subjectAltName=DNS:elsewhere.example")),
    ):  # fmt: skip
        files = ("-keyout", f"{name}.key", "-out", f"{name}.pem")
        openssl("req", "-x509", *curve, *files, "-subj", f"/CN={name}", "-days", "2", *more)
    (folder / "index.txt").touch()
    (folder / "serial").write_text("01")
    (folder / "ca.cnf").write_text(
        "[ca]\ndefault_ca=own\n[own]\ndatabase=index.txt\nnew_certs_dir=.\nserial=serial\n"
        "default_md=sha256\npolicy=any\n[any]\ncommonName=supplied\n"
    )
    for name, begins, ends in (
        ("old", "20200101000000Z", "20200102000000Z"),
        ("young", "20990101000000Z", "20990102000000Z"),
    ):
        openssl("req", "-new", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr",
                "-subj", f"/CN={name}")  # fmt: skip
        openssl("ca", "-config", "ca.cnf", "-batch", "-notext", "-cert", "ca.pem",
                "-keyfile", "ca.key", "-in", f"{name}.csr", "-out", f"{name}.pem",
                "-startdate", begins, "-enddate", ends)  # fmt: skip
    return folder
