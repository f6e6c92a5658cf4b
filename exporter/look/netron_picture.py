"""Pictures of a graph as Netron draws it, made in a headless browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.look.browser import browser_page, chromium
from exporter.look.files import check_picture, whole_file
from exporter.look.netron_page import netron_on
from runtime.errors import ExportError

if TYPE_CHECKING:
    from playwright.sync_api import Page

KEYS = {".svg": "Control+Alt+e", ".png": "Control+Shift+e"}
"""What saves a picture in Netron's page, which offers no other way."""
DRAWN = "body.default #canvas g.node"
COMPLAINT = "body.alert #message-text, body.notification #message-text"


def draw(graph: Path, pictures: Sequence[Path]) -> None:
    """Draw an ONNX file.

    Args:
        graph: The file.
        pictures: What to write, ``.svg`` or ``.png``; each appears whole or not at all.

    Raises:
        InvalidInput: A picture has another suffix.
        BackendUnavailable: Playwright or Chromium is missing.
        ExportError: Netron cannot draw it, or a picture cannot be written.
    """
    for picture in pictures:
        check_picture(picture, tuple(KEYS))
    with netron_page(graph) as page:
        for picture in pictures:
            save_picture(page, picture)


@contextmanager
def netron_page(graph: Path, watch: Callable[[Page], None] | None = None) -> Iterator[Page]:
    """Netron's page with the graph drawn.

    Args:
        graph: An ONNX file.
        watch: Called with the page while it is empty.

    Raises:
        BackendUnavailable: Playwright or Chromium is missing.
        ExportError: Netron cannot draw it.
    """
    chromium()  # before anything starts
    with netron_on(graph) as address, browser_page(address, watch) as page:
        page.goto(f"{address}/")
        page.locator(f"{DRAWN}, {COMPLAINT}").first.wait_for(state="attached")
        complaint = page.locator(COMPLAINT)
        if complaint.count():
            said = " ".join(complaint.inner_text().split())
            raise ExportError(f"Netron cannot draw {graph.name}: {said}")
        yield page


def save_picture(page: Page, picture: Path) -> None:
    """Have Netron's page save a picture, and put it in its place whole.

    Raises:
        ExportError: It cannot be written.
    """
    page.locator(DRAWN).first.wait_for(state="attached")
    with page.expect_download() as waiting:
        page.keyboard.press(KEYS[picture.suffix.lower()])
    with whole_file(picture) as draft:
        shutil.copyfile(waiting.value.path(), draft)
