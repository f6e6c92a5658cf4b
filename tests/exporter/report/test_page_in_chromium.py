"""The page as a reader meets it, in the system's Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from exporter.look.browser import chromium
from exporter.report.write import ReportRequest, write_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.needs_tool("chromium", "apt-get install chromium"),
]
NARROW = {"width": 360, "height": 640}
WIDE = {"width": 1280, "height": 900}
OVERHANG = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
DRAWING = '<svg xmlns="http://www.w3.org/2000/svg" width="4000" height="90"><text>A</text></svg>'


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium(), args=["--disable-gpu"])
        try:
            yield found
        finally:
            found.close()


def opened(context: Any, address: str) -> tuple[Any, list[str], list[str]]:
    """A page, what it asked for, and what it complained of."""
    page, asked, complaints = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    return page, [url for url in asked if not url.startswith("data:")], complaints


def test_a_reader_sees_the_whole_page_and_nothing_is_asked_for(
    lenet, engine, experts, tmp_path
) -> None:
    drawings: dict[str, Callable[..., str] | None] = {
        "lenet5": None, "lenet5_rtx": lambda _: DRAWING, "net": lambda _: DRAWING,
    }  # fmt: skip
    pages = {}
    for folder in (lenet.folder, engine, experts):
        name = folder.parent.name
        request = ReportRequest(folder.parent, file=tmp_path / f"{name}.html")
        pages[name] = write_report(request, drawing=drawings[name]).as_uri()
    with browser() as found:
        for name, address in pages.items():
            for size in (WIDE, NARROW):
                context = found.new_context(viewport=size)
                page, asked, complaints = opened(context, address)
                assert (asked, complaints) == ([address], [])
                assert page.evaluate(OVERHANG) == 0, f"{name} is wider than {size}"
                assert page.get_by_role("heading", name=name).is_visible()
                context.close()
        _read_lenet(found, pages["lenet5"])
        _read_without_scripts(found, pages["lenet5_rtx"])


def _read_lenet(found: Any, address: str) -> None:
    context = found.new_context(viewport=WIDE)
    page, _, complaints = opened(context, address)
    for name in ("Graph", "Summary", "Proof", "Examples", "Run it again"):
        assert page.get_by_role("heading", name=name, exact=True).is_visible()
    texts = page.locator("#graph .canvas svg text").all_text_contents()
    assert [texts.count(kind) for kind in ("Conv", "Relu", "MaxPool", "Gemm")] == [2, 4, 2, 3]
    box = page.locator("#graph .canvas svg").bounding_box()
    page.get_by_text("200 %").click()
    assert page.locator("#graph .canvas svg").bounding_box()["height"] > 1.9 * box["height"]
    page.get_by_text("whole").first.click()
    canvas = page.locator("#graph .canvas").bounding_box()
    assert page.locator("#graph .canvas svg").bounding_box()["height"] < canvas["height"]
    plots = page.locator("#proof .plot svg")
    assert plots.count() == 3
    assert all(plots.nth(index).bounding_box()["width"] > 250 for index in range(3))
    pictures = page.locator("#examples img")
    assert pictures.count() == 16
    assert pictures.first.evaluate("image => image.naturalWidth") == 32
    _sort(page)
    assert complaints == []
    context.close()


def _sort(page: Any) -> None:
    """A click on a heading sorts the table, a second one turns it round."""
    table = page.locator("#proof table.sortable").first
    cells = table.locator("tbody tr td:nth-child(4)")
    button = table.get_by_role("button", name="samples")
    for descending in (False, True):
        button.click()
        samples = [int(text) for text in cells.all_inner_texts()]
        assert samples == sorted(samples, reverse=descending)
        assert len(set(samples)) > 2


def _read_without_scripts(found: Any, address: str) -> None:
    context = found.new_context(viewport=WIDE, java_script_enabled=False)
    page, asked, complaints = opened(context, address)
    assert (asked, complaints) == ([address], [])
    assert page.get_by_text("CONVOLUTION", exact=True).is_visible()
    assert page.get_by_role("heading", name="Engine", exact=True).is_visible()
    assert page.locator("#engine button").count() == 0
    context.close()
