"""The module that a version was made from, found again and checked to be the one."""

from __future__ import annotations

from pathlib import Path

from exporter.preprocess.source import load_as_exported
from exporter.source import Source, SourceRequest
from runtime.errors import ExportError, NotFound, RepositoryError
from runtime.manifest import Manifest


def source_of_version(
    manifest: Manifest, model: str | None = None, weights: Path | None = None
) -> Source:
    """Make the module of a version again.

    Args:
        manifest: Of the version.
        model: The module as ``twinport export`` takes it; the manifest's own where none is given.
        weights: A file of its weights, where the factory does not load them.

    Raises:
        NotFound: The manifest's file is not here, as it names no folder.
        ExportError: The module cannot be made.
        RepositoryError: It is another module, or has other weights, than was exported.
    """
    named = model or manifest.source.factory
    request = SourceRequest(named, weights, manifest.inputs, dict(manifest.ranges))
    try:
        source = load_as_exported(request, manifest.preprocessing)
    except NotFound as error:
        if model is not None or (weights is not None and not weights.is_file()):
            raise
        raise NotFound(
            f"{error}; the manifest names no folder: run where the module lies, or give --source"
        ) from error
    wanted = manifest.source
    if wanted.state_sha256 is None:
        raise RepositoryError(
            f"the manifest of {manifest.name} has no hash of the weights; export it again"
        )
    try:
        found = source.state_sha256()
    except TypeError as error:  # a type that NumPy does not have
        raise ExportError(f"the weights of {named} cannot be read: {error}") from error
    if found != wanted.state_sha256:
        given = f"with {weights.name} " if weights else ""
        raise RepositoryError(
            f"{named} {given}has other weights than were exported ({found[:12]}…, the manifest "
            f"says {wanted.state_sha256[:12]}…); give the file with --weights"
        )
    return source
