"""Write the report of a version."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from exporter.report.facts import Draw, gather_facts
from exporter.report.page import page_from_facts
from runtime.backends.base import BackendOptions
from runtime.commands.parity import find_version
from runtime.errors import RepositoryError
from runtime.layout import write_atomically
from runtime.manifest import FILE_NAME as MANIFEST_FILE
from runtime.manifest import read_manifest

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class ReportRequest:
    """One report.

    Attributes:
        model: ``REPOSITORY/NAME``.
        version: The highest sound one where none is given.
        file: Where to; ``report.html`` in the version's folder where none is given.
        options: How the artifact is run for its examples.
    """

    model: Path
    version: int | None = None
    file: Path | None = None
    options: BackendOptions = field(default_factory=BackendOptions)


def write_report(
    request: ReportRequest,
    notify: Callable[[str], None] = lambda _: None,
    drawing: Draw | None = None,
) -> Path:
    """Make the page of one version; it appears whole or not at all.

    Args:
        request: Of what, and where to.
        notify: Called with a line as each step begins.
        drawing: What draws the graph; Netron where nothing is given.

    Returns:
        The file.

    Raises:
        NotFound: There is no such version.
        ManifestError: It has no manifest that can be read.
        RepositoryError: The file cannot be written.
    """
    folder = find_version(request.model, request.version)
    manifest = read_manifest(folder / MANIFEST_FILE)
    target = request.file or folder / REPORT_FILE
    _check_target(target)
    notify(f"reading {manifest.name} version {manifest.version}")
    # Of a place that is written out, the page knows what to leave away.
    facts = gather_facts(folder.absolute(), manifest, request.options, drawing)
    page = page_from_facts(facts)
    try:
        write_atomically(target, page)
    except OSError as error:
        raise RepositoryError(_unwritable(target, error.strerror or str(error))) from error
    return target


def _check_target(target: Path) -> None:
    """Say before the work is done what can be told by then."""
    if target.is_dir():
        raise RepositoryError(_unwritable(target, "it is a folder"))
    if not target.parent.is_dir():
        raise RepositoryError(_unwritable(target, "there is no such folder"))
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise RepositoryError(_unwritable(target, "permission denied"))


def _unwritable(target: Path, reason: str) -> str:
    return f"{target} cannot be written: {reason}; name another file with -o"
