"""What is in a model repository, the state of each version, and which one answers."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from runtime.errors import (
    InvalidInput,
    NotFound,
    RepositoryError,
    TwinportError,
    Unavailable,
)
from runtime.layout import CONFIG_FILE, is_served_name, model_names
from runtime.loading import LoadOptions
from runtime.model import Model
from runtime.reloading import Reload, try_version, unload_version
from runtime.versions import Entry, State, Version, entry_from_folder, holds_model

logger = logging.getLogger(__name__)

NONE, EXPLICIT, POLL = "none", "explicit", "poll"
EVERY_MODEL = "*"
_NUMBER = re.compile(r"[0-9]{1,18}")
_NOT_LOADED = "it is not loaded; RepositoryModelLoad loads it"


class Repository:
    """All models of one folder.

    Each version is loaded for itself: one that cannot be served stays listed with the
    reason while the others work. What changes in the folder later counts where ``control``
    says so: ``explicit`` on a client's word, ``poll`` by looking again and again.
    """

    def __init__(
        self,
        folder: Path,
        options: LoadOptions,
        *,
        control: str = NONE,
        load_models: Sequence[str] = (),
    ) -> None:
        """Look what is there; ``load`` does the rest.

        Args:
            folder: The repository.
            options: How versions are loaded.
            control: ``none``, ``explicit`` or ``poll``.
            load_models: What ``load`` loads where control is explicit; ``*`` is everything.

        Raises:
            NotFound: The folder does not exist, or a model to load is not in it.
            RepositoryError: It holds no models, or is one itself.
        """
        self.control = control
        self._folder = folder
        self._options = options
        names = model_names(folder)
        if (folder / CONFIG_FILE).exists():
            raise RepositoryError(f"{folder} is a model itself; give the folder above it")
        self._entries = {
            name: entry_from_folder(folder / name) for name in names if holds_model(folder / name)
        }
        if not self._entries and control == NONE:
            raise RepositoryError(
                f"the repository {folder} holds no models; twinport export NAME -o {folder}"
            )
        if control == EXPLICIT:
            self._leave_out(load_models)
        self._watchers: list[Callable[[], None]] = []
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._loaded = False
        self._changes = 0

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every model by name, sorted."""
        return self._entries

    @property
    def loaded(self) -> bool:
        """Whether every version that was to be loaded at the start has been tried."""
        return self._loaded

    def versions(self) -> Iterator[Version]:
        """Every version of every model."""
        for entry in self._entries.values():
            yield from entry.versions.values()

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back after each change of a state, on the event loop."""
        self._watchers.append(callback)

    async def load(self, report: Callable[[Version], None] = lambda _version: None) -> None:
        """Load what is to be loaded at the start, one version after the other, in a thread.

        Args:
            report: Called with each version once its state is known.
        """
        for name in list(self._entries):
            async with self._locks[name]:
                entry = self._entries.get(name)
                if entry is None or not entry.wanted:
                    continue
                for version in list(entry.versions.values()):
                    if version.state is State.LOADING:
                        assert entry.config is not None, "else no version is to be loaded"
                        await asyncio.to_thread(try_version, version, entry.config, self._options)
                        version.follow_shadow(self._changed)
                        self._changed()
                    report(version)
        self._loaded = True
        self._changed()

    async def load_model(self, name: str) -> None:
        """Load a model, or bring one that is loaded in line with its folder.

        What is new or has changed is loaded and proved beside what answers, which leaves
        afterwards; what has not changed stays. Calls for one model wait for each other.

        Raises:
            NotFound: The repository has no such model.
            InvalidInput: A version of it cannot be served; what answered before still does.
        """
        failed = await self._reload(name, retry=True)
        if failed:
            entry = self._entries.get(name)
            if entry is not None and not entry.ready():
                # Whoever asked knows; the others that are ready keep the server so.
                entry.wanted = False
            raise InvalidInput(f"load failed for model '{name}': {'; '.join(failed)}")

    async def unload_model(self, name: str) -> None:
        """Take a model out of service: no more requests, wait for those that run, free it.

        One that is not there is out of service already, as with Triton.
        """
        if name not in self._entries:
            return
        async with self._change_of(name):
            entry, _ = self._find(name, "")
            leaving = [item for item in entry.versions.values() if item.model is not None]
            entry.leave_out(_NOT_LOADED)
            for item in leaving:
                await unload_version(item, self._changed)
                item.refuse(_NOT_LOADED)
            self._changed()

    async def look_for_models(self) -> None:
        """List what came into the folder, and forget what left it and is not loaded."""
        found = await asyncio.to_thread(self._models_there)
        for name in found:
            if name not in self._entries:
                entry = await asyncio.to_thread(entry_from_folder, self._folder / name)
                entry.leave_out(_NOT_LOADED)
                self._keep(self._entries.get(name, entry))
        for name, entry in list(self._entries.items()):
            if name not in found and not entry.wanted:
                self._forget(name)

    async def look_again(self) -> None:
        """Bring everything in line with the folder; trouble with it is for the log."""
        try:
            there = await asyncio.to_thread(self._models_there)
        except TwinportError as error:
            logger.warning("what is loaded stays: %s", error)
            return
        for name in sorted({*there, *self._entries}):
            try:
                for reason in await self._reload(name, retry=False):
                    logger.warning("model '%s': %s", name, reason)
            except NotFound:
                logger.info("model '%s' has left the repository", name)

    async def follow(self, seconds: float) -> None:
        """Look again every ``seconds``, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.look_again()
            except Exception:
                # The next look may go better, and what is loaded serves on.
                logger.exception("looking at the repository failed unexpectedly")

    def model(self, name: str, version: str = "") -> Model:
        """The version that answers: the one named, or the highest that is ready.

        Raises:
            NotFound: No such model or version.
            InvalidInput: The version is no number.
            Unavailable: It is there and not ready; the text says why.
        """
        entry, pinned = self._find(name, version)
        if pinned is not None:
            if pinned.model is None or pinned.state is not State.READY:
                raise Unavailable(_not_ready(name, pinned))
            return pinned.model
        ready = entry.ready()
        if not ready or ready[-1].model is None:
            raise Unavailable(f"model '{name}' is not ready: {entry.complaint()}")
        return ready[-1].model

    def loaded_models(self, name: str = "", version: str = "") -> list[Model]:
        """Every version that answers: of one model, or of all where no name is given.

        Raises:
            NotFound: No such model or version.
            InvalidInput: The version is no number.
            Unavailable: The model is there and no version of it is ready.
        """
        if name and version:
            return [self.model(name, version)]
        if name:
            self.model(name)
        entries = [self._entries[name]] if name else self._entries.values()
        ready = (item for entry in entries for item in entry.ready())
        return [item.model for item in ready if item.model is not None]

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
        """Whether everything was tried and every model that is wanted answers.

        One that comes in later and loads for the first time does not count yet.
        """
        return self._loaded and all(
            entry.ready() or entry.in_state(State.LOADING) for entry in self._wanted()
        )

    def any_ready(self) -> bool:
        """Whether everything was tried and a model answers, or none is wanted."""
        wanted = self._wanted()
        return self._loaded and (not wanted or any(entry.ready() for entry in wanted))

    @property
    def busy(self) -> bool:
        """Whether a model loads or leaves, or the thread of any has something to do."""
        return self._changes > 0 or any(
            item.model is not None and item.model.busy for item in self.versions()
        )

    def close(self) -> None:
        """Unload everything."""
        for version in self.versions():
            if version.model is not None:
                version.model.close()
                version.model = None
            version.refuse("the server is shutting down")

    async def _reload(self, name: str, *, retry: bool) -> list[str]:
        if name not in self._entries and await asyncio.to_thread(self._entry_there, name) is None:
            raise NotFound(_unknown(name, self._entries))
        async with self._change_of(name):
            found = await asyncio.to_thread(self._entry_there, name)
            current = self._entries.get(name)
            if found is None:
                if current is not None:
                    self._forget(name)
                    for item in current.versions.values():
                        await unload_version(item, self._changed)
                    self._changed()
                raise NotFound(_unknown(name, self._entries))
            change = Reload(found, current, self._options, self._changed, retry=retry)
            self._keep(found)
            return await change.run()

    @asynccontextmanager
    async def _change_of(self, name: str) -> AsyncIterator[None]:
        """One change of a model at a time."""
        async with self._locks[name]:
            self._changes += 1
            try:
                yield
            finally:
                self._changes -= 1

    def _entry_there(self, name: str) -> Entry | None:
        if not is_served_name(name):
            return None
        folder = self._folder / name
        return entry_from_folder(folder) if folder.is_dir() and holds_model(folder) else None

    def _models_there(self) -> set[str]:
        return {name for name in model_names(self._folder) if holds_model(self._folder / name)}

    def _keep(self, entry: Entry) -> None:
        self._entries[entry.name] = entry
        self._entries = dict(sorted(self._entries.items()))

    def _forget(self, name: str) -> None:
        self._entries = {key: entry for key, entry in self._entries.items() if key != name}

    def _leave_out(self, wanted: Sequence[str]) -> None:
        for name in wanted:
            if name not in self._entries and name != EVERY_MODEL:
                raise NotFound(_unknown(name, self._entries))
        for name, entry in self._entries.items():
            if EVERY_MODEL not in wanted and name not in wanted:
                entry.leave_out(_NOT_LOADED)

    def _wanted(self) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.wanted]

    def _find(self, name: str, version: str) -> tuple[Entry, Version | None]:
        entry = self._entries.get(name)
        if entry is None:
            raise NotFound(_unknown(name, self._entries))
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

    def _changed(self) -> None:
        for callback in self._watchers:
            callback()


def _unknown(name: str, names: Mapping[str, object]) -> str:
    return f"model '{name[:80]}' is not known; there are {_listed(names)}"


def _not_ready(name: str, version: Version) -> str:
    text = f"version {version.number} of model '{name}' is not ready ({version.state})"
    return f"{text}: {version.reason}" if version.reason else text


def _listed(names: Mapping[str, object]) -> str:
    shown = list(names)[:10]
    return (", ".join(shown) + (" …" if len(names) > len(shown) else "")) or "none"
