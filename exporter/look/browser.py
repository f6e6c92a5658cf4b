"""A page in a headless Chromium of the system, which gets at one address and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import BackendUnavailable, ExportError

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page, Playwright, Route

CHROMIUM = "TWINPORT_CHROMIUM"
"""Names the program in place of those on the path."""
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    # Nor does it so much as look for anybody else, which it may do before it asks.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--no-first-run",
)
TIMEOUT_S = 120
"""For one step of a page; Netron needs about a second for a thousand nodes."""


def chromium() -> Path:
    """The program.

    Raises:
        BackendUnavailable: There is none.
    """
    named = os.environ.get(CHROMIUM)
    found = next(filter(None, map(shutil.which, [named] if named else PROGRAMS)), None)
    if found is None:
        given = (
            f"{CHROMIUM} names '{named}', which is no program" if named else "Chromium is missing"
        )
        raise BackendUnavailable(
            f"{given}; apt-get install chromium, or set {CHROMIUM} to its path"
        )
    return Path(found)


@contextmanager
def browser_page(origin: str, watch: Callable[[Page], None] | None = None) -> Iterator[Page]:
    """An empty page in a browser with a profile of its own, both gone when the block ends.

    Args:
        origin: What the page may load from, ``http://127.0.0.1:8080`` or ``file://``; every
            other request is aborted.
        watch: Called with the page while it is empty, to listen to what will happen on it.

    Raises:
        BackendUnavailable: Playwright or Chromium is missing, or it does not start.
        ExportError: The page fails, or a step takes too long.
    """
    program = chromium()
    try:
        from playwright.sync_api import Error, TimeoutError, sync_playwright
    except ImportError as error:
        raise BackendUnavailable("Playwright is missing; pip install 'twinport[look]'") from error
    allowed = (f"{origin.rstrip('/')}/", "data:", "blob:")

    def decide(route: Route) -> None:
        if route.request.url.startswith(allowed):
            route.continue_()
        else:
            route.abort()

    try:
        # What a browser that was killed leaves behind goes with this folder.
        with (
            tempfile.TemporaryDirectory(
                prefix="twinport-look-", dir=folder_for_sockets(), ignore_cleanup_errors=True
            ) as folder,
            sync_playwright() as playwright,
            closing(_context(playwright, program, Path(folder))) as context,
        ):
            context.set_default_timeout(TIMEOUT_S * 1000)
            context.route("**/*", decide)
            page = context.pages[0]
            if watch is not None:
                watch(page)
            yield page
    except TimeoutError as error:
        raise ExportError(f"the page cannot be drawn: it took more than {TIMEOUT_S} s") from error
    except Error as error:
        raise ExportError(f"the page cannot be drawn: {_first_line(error)}") from error


def _context(playwright: Playwright, program: Path, folder: Path) -> BrowserContext:
    from playwright.sync_api import Error

    try:
        return playwright.chromium.launch_persistent_context(
            folder / "profile",
            executable_path=program,
            args=QUIET,
            env={**os.environ, "TMPDIR": str(folder)},
            # Ctrl-C is for this process, which closes the browser in order; else it is killed.
            handle_sigint=False,
            downloads_path=folder / "downloads",
            viewport={"width": 1200, "height": 900},
        )
    except Error as error:
        raise BackendUnavailable(
            f"{program} does not start: {_cause(error)}; set {CHROMIUM} to a Chromium that does"
        ) from error


def folder_for_sockets() -> str:
    """Where the profile goes: Chromium makes a socket there, whose path may have 107 letters."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= 40 else "/tmp"


def _cause(error: Exception) -> str:
    """What Chromium said last, else what Playwright says of it."""
    fatal = re.search(r"\bFATAL:[^\]]*\] (.+)", str(error))
    return fatal[1] if fatal else _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
