"""What is in a model repository, the state of each version, and which one answers."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from runtime.errors import InvalidInput, NotFound, RepositoryError, TwinportError, Unavailable
from runtime.layout import CONFIG_FILE, model_names
from runtime.loading import LoadOptions, load_version
from runtime.model import Model
from runtime.versions import Entry, State, Version, entry_from_folder, holds_model

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"[0-9]{1,18}")


class Repository:
    """All models of one folder; reads it once, when it is made.

    Each version is loaded for itself: one that cannot be served stays listed with the
    reason while the others work.
    """

    def __init__(self, folder: Path, options: LoadOptions) -> None:
        """Look what is there; ``load`` does the rest.

        Raises:
            NotFound: The folder does not exist.
            RepositoryError: It holds no models, or is one itself.
        """
        names = model_names(folder)
        if (folder / CONFIG_FILE).exists():
            raise RepositoryError(f"{folder} is a model itself; give the folder above it")
        self._options = options
        self._entries = {
            name: entry_from_folder(folder / name) for name in names if holds_model(folder / name)
        }
        if not self._entries:
            raise RepositoryError(
                f"the repository {folder} holds no models; twinport export NAME -o {folder}"
            )
        self._watchers: list[Callable[[], None]] = []
        self._loaded = False

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every model by name, sorted."""
        return self._entries

    @property
    def loaded(self) -> bool:
        """Whether every version has been tried."""
        return self._loaded

    def versions(self) -> Iterator[Version]:
        """Every version of every model."""
        for entry in self._entries.values():
            yield from entry.versions.values()

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back after each change of a state, on the event loop."""
        self._watchers.append(callback)

    async def load(self, report: Callable[[Version], None] = lambda _version: None) -> None:
        """Load every version, one after the other, in a thread.

        Args:
            report: Called with each version once its state is known.
        """
        for version in list(self.versions()):
            if version.state is State.LOADING:
                await asyncio.to_thread(self._load_one, version)
                self._changed()
            report(version)
        self._loaded = True
        self._changed()

    def model(self, name: str, version: str = "") -> Model:
        """The version that answers: the one named, or the highest that is ready.

        Raises:
            NotFound: No such model or version.
            InvalidInput: The version is no number.
            Unavailable: It is there and not ready; the text says why.
        """
        entry, pinned = self._find(name, version)
        if pinned is not None:
            if pinned.model is None:
                raise Unavailable(_not_ready(name, pinned))
            return pinned.model
        ready = entry.ready()
        if not ready or ready[-1].model is None:
            raise Unavailable(f"model '{name}' is not ready: {entry.complaint()}")
        return ready[-1].model

    def is_ready(self, name: str, version: str = "") -> bool:
        """Whether a request would be answered; False for what is not known.

        Raises:
            InvalidInput: The version is no number.
        """
        try:
            self.model(name, version)
        except (NotFound, Unavailable):
            return False
        return True

    def all_ready(self) -> bool:
        """Whether everything was tried and every model has a version that answers."""
        return self._loaded and all(entry.ready() for entry in self._entries.values())

    def any_ready(self) -> bool:
        """Whether everything was tried and at least one model answers."""
        return self._loaded and any(entry.ready() for entry in self._entries.values())

    @property
    def busy(self) -> bool:
        """Whether the thread of any model has something to do."""
        return any(item.model is not None and item.model.busy for item in self.versions())

    def close(self) -> None:
        """Unload everything."""
        for version in self.versions():
            if version.model is not None:
                version.model.close()
                version.model = None
            version.refuse("the server is shutting down")

    def _find(self, name: str, version: str) -> tuple[Entry, Version | None]:
        entry = self._entries.get(name)
        if entry is None:
            raise NotFound(f"model '{name[:80]}' is not known; there are {_listed(self._entries)}")
        if not version:
            return entry, None
        if not _NUMBER.fullmatch(version):
            raise InvalidInput(
                f"version '{version[:80]}' of model '{name}' is no number; "
                "leave it empty for the highest that is ready"
            )
        found = entry.versions.get(int(version))
        if found is None:
            numbers = ", ".join(str(number) for number in entry.versions) or "none"
            raise NotFound(f"model '{name}' has no version {version}; there are {numbers}")
        return entry, found

    def _load_one(self, version: Version) -> None:
        config = self._entries[version.name].config
        assert config is not None, "without a configuration no version is to be loaded"
        try:
            version.model = load_version(version.folder, version.number, config, self._options)
        except TwinportError as error:
            version.refuse(str(error))
        except Exception:
            # One version's trouble may not take the others down.
            mark = secrets.token_hex(4)
            logger.exception("loading %s failed unexpectedly (%s)", version, mark)
            version.refuse(f"loading failed unexpectedly; the log has the details under {mark}")
        else:
            version.state, version.reason = State.READY, version.model.record.unproved
        if version.state is State.UNAVAILABLE:
            # The report says it to whoever runs the server.
            logger.debug("%s is not ready: %s", version, version.reason)

    def _changed(self) -> None:
        for callback in self._watchers:
            callback()


def _not_ready(name: str, version: Version) -> str:
    text = f"version {version.number} of model '{name}' is not ready ({version.state})"
    return f"{text}: {version.reason}" if version.reason else text


def _listed(names: Mapping[str, object]) -> str:
    shown = list(names)[:10]
    return ", ".join(shown) + (" …" if len(names) > len(shown) else "")
