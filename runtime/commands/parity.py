"""``twinport parity``: run the proof of a version again, here and without torch."""

from __future__ import annotations

import dataclasses
import json
from contextlib import closing
from pathlib import Path

import click

from runtime.backends.base import Backend, BackendOptions
from runtime.backends.factory import open_backend
from runtime.cli import LAYER_PROOF, load_target
from runtime.errors import NotFound, ProofFailed, RepositoryError, UsageProblem
from runtime.layout import CONFIG_FILE, FAILED_FOLDER, version_numbers
from runtime.loading import backend_of, backend_options, check_backend
from runtime.manifest import FILE_NAME, Manifest, read_manifest
from runtime.model_config import read_config
from runtime.replay import Replayed, check_artifact, replay_version
from runtime.settings import DEVICES, ENGINE_CODE
from runtime.tables import console, judgement_table


@click.command()
@click.argument("model", metavar="REPOSITORY/NAME", type=click.Path(path_type=Path))
@click.option("--version", type=click.IntRange(min=1), help="The highest where none is given.")
@click.option(
    "--device",
    type=click.Choice(DEVICES),
    default="cpu",
    show_default=True,
    help="For ONNX Runtime; engines run on the GPU.",
)
@click.option(
    "--engine-code",
    type=click.Choice(ENGINE_CODE),
    default="refuse",
    show_default=True,
    help="Whether a version-compatible engine may run code that it brings.",
)
@click.option(
    "--layers",
    is_flag=True,
    help="Compare module by module with PyTorch, and name the first one that diverges.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Of --layers: the weights that were exported, where the factory does not load them.",
)
@click.option(
    "--source",
    metavar="MODEL",
    help="Of --layers: the module as `twinport export` takes it.  [default: the manifest's]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def parity(
    model: Path,
    version: int | None,
    device: str,
    engine_code: str,
    layers: bool,
    weights: Path | None,
    source: str | None,
    as_json: bool,
) -> None:
    """Run the proof of a version again, on this machine and without torch.

    The evidence in the version's folder holds inputs, the float64 truth and the size of
    PyTorch's own float32 error. Exits 0 where the artifact passes on this backend and
    device, 1 where it does not. Versions under failed/ can be looked at too.

    With --layers each module is run again in float64 on the artifact's own inner values,
    which needs PyTorch and the module that was exported.
    """
    if (weights or source) and not layers:
        raise UsageProblem("--weights and --source are of --layers; add it")
    folder = find_version(model, version)
    manifest = read_manifest(folder / FILE_NAME)
    options = BackendOptions(device=device, engine_code=engine_code == "allow")
    replayed = replay_here(folder, manifest, options)
    record = _record(manifest, folder, replayed)
    if not as_json:
        _show(manifest, folder, replayed)
    diverges = ""
    if layers:
        record["layers"], diverges = load_target(LAYER_PROOF)(
            folder, manifest, source, weights, options, quiet=as_json
        )
    if as_json:
        click.echo(json.dumps(record, indent=2))
    if diverges:
        raise ProofFailed(f"{manifest.name} version {manifest.version}: {diverges}")
    if replayed.verdict != "passed":
        raise ProofFailed(f"{manifest.name} version {manifest.version}: {replayed.reason}")


def find_version(model: Path, version: int | None) -> Path:
    """The folder of a version, of those that failed too.

    Args:
        model: ``REPOSITORY/NAME``.
        version: Its number; the highest sound one where none is given, and the highest
            failed one where there is no other.

    Raises:
        NotFound: No such folder or version; the text names those that are there.
    """
    if not model.is_dir():
        raise NotFound(f"there is no folder {model}; give REPOSITORY/NAME")
    folders = {number: model / FAILED_FOLDER / str(number) for number in
               version_numbers(model / FAILED_FOLDER)}  # fmt: skip
    sound = {number: model / str(number) for number in version_numbers(model)}
    folders.update(sound)
    if not folders:
        raise NotFound(f"{model} has no version; give REPOSITORY/NAME, or export one there")
    number = version or max(sound or folders)
    if number not in folders:
        there = ", ".join(str(item) for item in sorted(folders))
        raise NotFound(f"{model} has no version {number}; there are {there}")
    return folders[number]


def replay_here(folder: Path, manifest: Manifest, options: BackendOptions) -> Replayed:
    """Check the files of a version, load its artifact and run its evidence.

    Raises:
        RepositoryError: Files are missing, changed, or cannot be loaded.
        BackendUnavailable: The library or the device is not here.
    """
    with closing(open_version(folder, manifest, options)) as backend:
        return replay_version(folder, manifest, backend)


def open_version(folder: Path, manifest: Manifest, options: BackendOptions) -> Backend:
    """Load the artifact of a version, sound or failed, once it is the one of its manifest.

    Raises:
        RepositoryError: It is missing, changed, or cannot be loaded.
        BackendUnavailable: The library or the device is not here.
    """
    artifact = check_artifact(folder, manifest)
    name = _backend_name(folder, manifest)
    check_backend(name, manifest)
    return open_backend(name, artifact, backend_options(options, manifest))


def _backend_name(folder: Path, manifest: Manifest) -> str:
    """What ``config.pbtxt`` says; a failed version may have come without one."""
    model = folder.parent.parent if folder.parent.name == FAILED_FOLDER else folder.parent
    path = model / CONFIG_FILE
    config = read_config(path) if path.exists() else None
    name = (config.backend or config.platform) if config else ""
    name = name or backend_of(manifest)
    if not name:
        raise RepositoryError(
            f"{path} names no backend and the artifact's format "
            f"'{manifest.artifact.format}' is not known; add backend: to it"
        )
    return name


def _show(manifest: Manifest, folder: Path, replayed: Replayed) -> None:
    identity = replayed.identity
    out = console()
    out.print(f"{manifest.name} version {manifest.version}  {folder}", markup=False)
    out.print(f"{identity.library}, {identity.provider}, {identity.device}", markup=False)
    if replayed.judgements:
        out.print(judgement_table(replayed.judgements))
    if replayed.verdict == "passed":
        out.print("passed: the artifact is the same model here")


def _record(manifest: Manifest, folder: Path, replayed: Replayed) -> dict[str, object]:
    return {
        "model": manifest.name,
        "version": manifest.version,
        "folder": str(folder),
        "verdict": replayed.verdict,
        "reason": replayed.reason,
        "ran_on": dataclasses.asdict(replayed.identity),
        "judgements": [dataclasses.asdict(item) for item in replayed.judgements],
    }
