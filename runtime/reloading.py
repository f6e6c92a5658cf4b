"""Bring the loaded versions of one model in line with its folder, without a gap in service."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress

from runtime.errors import TwinportError
from runtime.loading import LoadOptions, load_version
from runtime.serving_config import ServingConfig
from runtime.versions import Entry, State, Version

logger = logging.getLogger(__name__)

_UNLOADING = "it is being unloaded"


class Reload:
    """One change of a model: from what is loaded to what its folder holds.

    1. A version that is loaded and whose files have not changed stays as it is.
    2. A new version is listed as LOADING while it loads.
    3. A changed version answers as it was until the new one is loaded and proved; if that
       fails it goes on.
    4. A version that the policy does not choose any more leaves once a chosen one is ready.
    5. A version whose folder is gone leaves in any case, after the others came in.
    """

    def __init__(
        self,
        found: Entry,
        current: Entry | None,
        options: LoadOptions,
        changed: Callable[[], None],
        *,
        retry: bool,
    ) -> None:
        """Plan the change; ``found`` lists what answers meanwhile from now on.

        Args:
            found: What the folder holds now.
            current: What was listed before; none for a new model.
            options: How versions are loaded.
            changed: Called after each change of a state.
            retry: Whether to try again what failed before and has not changed since.
        """
        self._found = found
        self._options = options
        self._changed = changed
        self._retry = retry
        self._incoming: list[Version] = []
        self._leaving: dict[int, Version | None] = {}
        """What leaves, by number: with what takes its place in the list, if anything does."""
        before = current.versions if current is not None and current.wanted else {}
        there = dict(found.versions)
        self._failed: list[str] = []
        for number, new in there.items():
            old = before.get(number)
            if old is not None and not _has_changed(old, new, retry=retry):
                found.versions[number] = old
                continue
            if new.state is State.LOADING:
                self._incoming.append(new)
            elif new.wanted:
                self._note_failure(new, old)
            if old is not None and old.model is not None:
                found.versions[number] = old
                if not new.wanted:
                    self._leaving[number] = new
        for number, old in before.items():
            if number not in there and old.model is not None:
                found.versions[number] = old
                self._leaving[number] = None
        found.versions = dict(sorted(found.versions.items()))

    async def run(self) -> list[str]:
        """Do it.

        Returns:
            What could not be loaded, a line each.
        """
        for version in self._incoming:
            await self._bring_in(version)
        ready = any(
            item.state is State.READY
            for number, item in self._found.versions.items()
            if number not in self._leaving
        )
        for number, successor in self._leaving.items():
            if successor is None or ready:
                await self._take_out(number, successor)
        if not self._found.versions and self._retry:
            self._failed.append(self._found.reason)
        return self._failed

    async def _bring_in(self, version: Version) -> None:
        config = self._found.config
        assert config is not None, "without a configuration no version is to be loaded"
        await asyncio.to_thread(try_version, version, config, self._options)
        version.follow_shadow(self._changed)
        serving = self._found.versions.get(version.number)
        if version.state is not State.READY:
            self._note_failure(version, serving)
        elif serving is not version:
            self._found.versions[version.number] = version
            self._changed()
            logger.info("%s is replaced", version)
            if serving is not None:
                await unload_version(serving, self._changed)
        else:
            logger.info("%s is ready", version)
        self._changed()

    def _note_failure(self, version: Version, serving: Version | None) -> None:
        self._failed.append(f"version {version.number}: {version.reason}")
        if serving is not None:
            serving.refused = version.stamp

    async def _take_out(self, number: int, successor: Version | None) -> None:
        leaving = self._found.versions[number]
        await unload_version(leaving, self._changed)
        if successor is None:
            del self._found.versions[number]
        else:
            self._found.versions[number] = successor
        self._changed()
        logger.info("%s has left", leaving)


def _has_changed(old: Version, new: Version, *, retry: bool) -> bool:
    """Whether there is something to do; failures are tried again on a client's word alone."""
    if old.wanted != new.wanted:
        return True
    if old.model is None or old.state is State.UNAVAILABLE:  # the latter drifted
        return retry or old.stamp != new.stamp
    return old.stamp != new.stamp and (retry or old.refused != new.stamp)


def try_version(version: Version, config: ServingConfig, options: LoadOptions) -> None:
    """Load a version; what is wrong with it becomes its reason."""
    try:
        version.model = load_version(version.folder, version.number, config, options)
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


async def unload_version(version: Version, changed: Callable[[], None]) -> None:
    """Give a version no more requests, wait for those that it has, free its memory."""
    model = version.model
    if model is None:
        return
    version.state, version.reason = State.UNLOADING, _UNLOADING
    changed()
    await model.drained()
    version.model = None
    version.refuse(_UNLOADING)
    model.close()
    del model
    await asyncio.to_thread(_give_memory_back)


def _give_memory_back() -> None:
    """What a closed backend leaves behind: cycles, and pages that the allocator keeps."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
