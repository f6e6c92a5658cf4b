"""An ONNX file becomes a TensorRT network, or one line that says why not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import DecodeError

from exporter.engine.faults import Fault, fault_from_error, fault_from_log, short_text
from exporter.engine.library import Library, check_machine
from exporter.engine.listen import log_of
from exporter.engine.origins import Origins
from runtime.errors import BackendUnavailable, ExportError, RepositoryError

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True)
class Session:
    """A builder and what it logged as errors so far."""

    library: Library
    builder: trt.Builder
    log: trt.ILogger
    errors: list[str]


@dataclass(frozen=True)
class Parsed:
    """A network; it lives as long as its parser, which owns the weights.

    Attributes:
        network: What the builder takes.
        owners: Everything that must outlive it.
    """

    network: trt.INetworkDefinition
    owners: tuple[Any, ...]


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read the graph, without weights that lie in files of their own.

    Raises:
        RepositoryError: It is no ONNX file.
    """
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RepositoryError(f"{path} is not an ONNX model: {first}") from error
    if not model.graph.output:
        raise RepositoryError(f"{path} is not an ONNX model: it has no graph")
    return model


def open_session(library: Library) -> Session:
    """A builder of this library.

    Raises:
        BackendUnavailable: There is no GPU and it needs one, or it makes none.
    """
    check_machine(library)
    errors: list[str] = []
    log = log_of(library, errors)
    try:
        builder = library.api.Builder(log)
    except TypeError as error:  # what the bindings make of a builder that is not there
        said = short_text(errors[0]) if errors else str(error)
        raise BackendUnavailable(f"{library.title} makes no builder here: {said}") from error
    return Session(library, builder, log, errors)


def parsed_network(session: Session, path: Path, origins: Origins) -> Parsed:
    """Parse a file.

    Raises:
        ExportError: The parser does not take it; the text names node, operator and module.
    """
    network, parser = _network_and_parser(session)
    fault = _fault(session, parser, taken=parser.parse_from_file(str(path)), origins=origins)
    if fault is not None:
        raise ExportError(
            f"{session.library.title} does not take the graph: {fault}; "
            "--check says it of every node"
        )
    if network.num_outputs == 0:
        # Nothing at all is parsed with success.
        raise ExportError(f"{session.library.title} finds no outputs in {path}: it is empty")
    return Parsed(network, (parser, session))


def first_fault(session: Session, model: bytes, path: Path, origins: Origins) -> Fault | None:
    """What the parser does not take of a serialised graph; it stops at the first such node.

    Args:
        session: Where to parse.
        model: The graph.
        path: Where weights in files of their own are looked for.
        origins: The graph's names.
    """
    _, parser = _network_and_parser(session)
    return _fault(session, parser, taken=parser.parse(model, str(path)), origins=origins)


def _network_and_parser(session: Session) -> tuple[trt.INetworkDefinition, trt.OnnxParser]:
    session.errors.clear()
    network: trt.INetworkDefinition = session.builder.create_network(0)
    return network, session.library.api.OnnxParser(network, session.log)


def _fault(
    session: Session, parser: trt.OnnxParser, *, taken: bool, origins: Origins
) -> Fault | None:
    if parser.num_errors:
        return fault_from_error(parser.get_error(0), origins)
    return None if taken else fault_from_log(session.errors, origins)
