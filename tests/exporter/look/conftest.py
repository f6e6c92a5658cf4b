"""One visit to Netron's page, which several tests look at: a browser takes seconds to start."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Error

from exporter.look.netron_picture import netron_page, save_picture


@dataclass
class Visit:
    """What was met on the page, and the pictures that it gave."""

    svg: Path
    png: Path
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    texts: str = ""
    body: str = ""
    cookies: list[str] = field(default_factory=list)
    strayed: str = ""

    def watch(self, page):
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(message.text))

    def look(self, page):
        nodes = page.locator("#canvas g.node")
        self.titles = [node.locator("text").first.text_content() for node in nodes.all()]
        self.texts = " ".join(node.text_content() for node in nodes.all())
        self.body = page.locator("body").inner_text()
        self.cookies = [cookie["name"] for cookie in page.context.cookies()]
        for picture in (self.svg, self.png):
            save_picture(page, picture)

    def stray(self, page):
        """Have the page leave for another address of this machine."""
        with socket.create_server(("127.0.0.1", 0)) as elsewhere, pytest.raises(Error) as refused:
            page.goto(f"http://127.0.0.1:{elsewhere.getsockname()[1]}/")
        self.strayed = refused.value.message


@pytest.fixture(scope="session")
def lenet_visit(lenet, tmp_path_factory) -> Visit:
    """LeNet-5 in Netron, in a real Chromium."""
    folder = tmp_path_factory.mktemp("visit")
    visit = Visit(folder / "lenet.svg", folder / "lenet.png")
    with netron_page(lenet.folder / "model.onnx", visit.watch) as page:
        visit.look(page)
        met = list(visit.requests), list(visit.complaints)
        visit.stray(page)
    visit.requests, visit.complaints = met
    return visit
