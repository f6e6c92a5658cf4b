"""The versions of one model's folder and the state that each is in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

from runtime.errors import RepositoryError
from runtime.layout import CONFIG_FILE, FAILED_FOLDER, version_numbers
from runtime.manifest import FILE_NAME
from runtime.model import Model
from runtime.serving_config import ServingConfig, VersionPolicy, read_serving_config

Stamp: TypeAlias = tuple[tuple[str, int, int, int], ...]
"""Name, time of change, size and number of each file that makes up a version."""


class State(StrEnum):
    """Where a version is between the disk and the first answer."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass
class Version:
    """One version and its state.

    Attributes:
        model: There when it is ready.
        reason: Why it is not ready, or what is to be known of one that is.
        wanted: False where the version policy leaves it out.
        stamp: Tells one state of its files from another.
        refused: The stamp of later files that could not be served in its place.
    """

    name: str
    number: int
    folder: Path
    state: State = State.LOADING
    reason: str = ""
    model: Model | None = None
    wanted: bool = True
    stamp: Stamp = ()
    refused: Stamp = ()

    def refuse(self, reason: str) -> None:
        """It cannot be served; say why."""
        self.state, self.reason = State.UNAVAILABLE, reason

    def follow_shadow(self, changed: Callable[[], None]) -> None:
        """Say of the loaded model when its answers drift, and leave service where that is wanted.

        Args:
            changed: Called on the event loop after each change.
        """
        model = self.model
        if model is None or model.shadow is None:
            return
        shadow, unproved = model.shadow, model.record.unproved

        def judged() -> None:
            if self.model is not model or self.state is not State.READY:
                return
            drift = shadow.drift.reason
            self.reason = "; ".join(filter(None, (unproved, drift and f"it drifts: {drift}")))
            if shadow.ends_service:
                self.refuse(self.reason)
            changed()

        shadow.on_change = judged
        if shadow.drift.reason:
            judged()

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"


@dataclass
class Entry:
    """One model's folder.

    Attributes:
        config: None where it cannot be read.
        versions: By number, ascending.
        reason: Why there is no version at all; else empty.
        wanted: False where nobody asked for it to be loaded.
    """

    name: str
    config: ServingConfig | None
    versions: dict[int, Version] = field(default_factory=dict)
    reason: str = ""
    wanted: bool = True

    def ready(self) -> list[Version]:
        """The versions that answer, the highest last."""
        return [item for item in self.versions.values() if item.state is State.READY]

    def in_state(self, state: State) -> bool:
        """Whether any version is in it."""
        return any(item.state is state for item in self.versions.values())

    def leave_out(self, reason: str) -> None:
        """Nobody asked for it; say how to."""
        self.wanted = False
        for item in self.versions.values():
            item.refuse(reason)

    def complaint(self) -> str:
        """Why no version answers: of the highest one that was to be loaded."""
        wanted = [item for item in self.versions.values() if item.wanted]
        if not wanted:
            return self.reason or "no version is to be loaded"
        last = wanted[-1]
        return f"version {last.number} is {last.state}" + (f": {last.reason}" * bool(last.reason))


def holds_model(folder: Path) -> bool:
    """Whether a folder of the repository is meant to be a model, in whatever state."""
    parts = (folder / CONFIG_FILE, folder / FAILED_FOLDER)
    return any(part.exists() for part in parts) or bool(version_numbers(folder))


def entry_from_folder(folder: Path) -> Entry:
    """A model's folder with its versions; what is wrong with it becomes their reason."""
    numbers = version_numbers(folder)
    try:
        config, trouble = read_serving_config(folder), ""
    except RepositoryError as error:
        config, trouble = None, str(error)
    entry = Entry(folder.name, config)
    chosen = _chosen(folder, numbers, config.policy if config else None)
    shared = _stamp(folder, "*")
    for number in numbers:
        own = folder / str(number)
        version = Version(
            folder.name, number, own, wanted=number in chosen, stamp=shared + _stamp(own, "**/*")
        )
        if trouble:
            version.refuse(trouble)
        elif not version.wanted:
            version.refuse(_left_out(config))
        entry.versions[number] = version
    if not numbers:
        failed = version_numbers(folder / FAILED_FOLDER)
        entry.reason = trouble or "it has no version" + (
            f"; the proof of {', '.join(map(str, failed))} failed" if failed else ""
        )
    return entry


def _left_out(config: ServingConfig | None) -> str:
    if config is not None and config.policy is not None:
        return f"the version policy of {CONFIG_FILE} leaves it out"
    return f"a version below without a manifest; a version_policy in {CONFIG_FILE} serves it too"


def _chosen(folder: Path, numbers: Sequence[int], policy: VersionPolicy | None) -> set[int]:
    """The versions to load.

    Where nothing is said, the highest, as in Triton, and those with a manifest: one that is not
    proved here leaves the one before in service.
    """
    if policy is not None:
        return policy.chosen(numbers)
    return {n for n in numbers if n == numbers[-1] or (folder / str(n) / FILE_NAME).exists()}


def _stamp(folder: Path, pattern: str) -> Stamp:
    """Of the files in a folder that fit a pattern; empty where it cannot be read."""
    found = []
    try:
        for item in sorted(folder.glob(pattern)):
            if item.is_file():
                facts = item.stat()
                name = str(item.relative_to(folder))
                found.append((name, facts.st_mtime_ns, facts.st_size, facts.st_ino))
    except OSError:
        return ()
    return tuple(found)
