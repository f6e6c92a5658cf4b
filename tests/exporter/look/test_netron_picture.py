"""Netron draws the graph in a real Chromium, and nothing of it leaves this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

from exporter.experts.view import expert_view
from exporter.graph import onnx_from_module
from exporter.look import browser
from exporter.look.netron_picture import draw
from exporter.source import SourceRequest, load_source
from exporter.write import VIEW_FILE
from runtime.cli import main
from runtime.errors import BackendUnavailable, ExportError, InvalidInput

in_chromium = [
    pytest.mark.browser,
    pytest.mark.needs_tool("chromium", "apt-get install chromium"),
]
DRAW_FOREVER = """
import sys
from pathlib import Path
from exporter.look.netron_picture import netron_page
try:
    with netron_page(Path(sys.argv[1])) as page:
        print("the page is there", flush=True)
        page.locator("#nothing").wait_for()
except KeyboardInterrupt:
    sys.exit(130)
"""
OPERATORS = {"Conv": 2, "Relu": 4, "MaxPool": 2, "Reshape": 1, "Gemm": 3}


def titles(svg) -> Counter[str]:
    """The first text of each node of a picture; later ones are its weights."""
    tree = ElementTree.fromstring(svg)
    nodes = [g for g in tree.iter("{http://www.w3.org/2000/svg}g") if "node" in _classes(g)]
    texts = [[t.text for t in node.iter("{http://www.w3.org/2000/svg}text")] for node in nodes]
    return Counter(found[0] for found in texts if found)


def _classes(element) -> list[str]:
    return element.get("class", "").split()


class TestLeNetInChromium:
    pytestmark = in_chromium

    def test_every_operator_is_a_node_of_the_page(self, lenet_visit):
        assert Counter(lenet_visit.titles) == {"image": 1, "logits": 1, **OPERATORS}
        for name in ("node_conv2d", "node_max_pool2d_1", "node_linear_2"):
            assert name in lenet_visit.texts

    def test_every_operator_is_a_node_of_the_svg(self, lenet_visit):
        text = lenet_visit.svg.read_text()
        assert titles(text) == {"image": 1, "logits": 1, **OPERATORS}
        assert "\u27e86\u00d71\u00d75\u00d75\u27e9" in text, "the weight of the first layer"
        assert not set(text) & {"\u3008", "\u3009"}, "few fonts have these brackets"

    def test_the_png_is_a_picture_of_some_size_with_colours(self, lenet_visit):
        assert lenet_visit.png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        with Image.open(lenet_visit.png) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert pixels.shape[0] > 1000
        assert pixels.shape[1] > 200
        colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
        assert (counts > 1000).sum() >= 5, "paper, ink, and a colour for each kind of operator"
        assert colours[counts.argmax()].tolist() == [255, 255, 255]

    def test_no_request_leaves_this_machine(self, lenet_visit):
        assert any("/data/model.onnx" in url for url in lenet_visit.requests)
        inside = r"http://127\.0\.0\.1:\d+/|data:|blob:"
        assert [url for url in lenet_visit.requests if not re.match(inside, url)] == []
        assert "ERR_FAILED" in lenet_visit.strayed, "the page may load from Netron alone"

    def test_nothing_is_asked_or_complained_of(self, lenet_visit):
        assert lenet_visit.complaints == []
        assert "cookies" not in lenet_visit.body
        assert "update" not in lenet_visit.body
        assert lenet_visit.cookies == ["consent"]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory, lenet):
    """An artifact beside the view of the built-in mixture of experts."""
    folder = tmp_path_factory.mktemp("mixture")
    (folder / "model.onnx").write_bytes((lenet.folder / "model.onnx").read_bytes())
    view = expert_view(onnx_from_module(load_source(SourceRequest("moe"))))
    (folder / VIEW_FILE).write_bytes(ir.to_proto(view).SerializeToString())
    return folder


@pytest.mark.browser
@pytest.mark.needs_tool("chromium", "apt-get install chromium")
def test_inspect_draws_a_node_for_each_layer_of_experts(mixture, tmp_path, capsys):
    svg, png = tmp_path / "moe.svg", tmp_path / "moe.PNG"
    png.write_text("what was there before")
    words = ["inspect", mixture / "model.onnx", "--svg", svg, "--png", png, "--json"]
    assert main([str(word) for word in words]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["pictures"] == [str(svg), str(png)]
    assert titles(svg.read_text())["MoE"] == 3
    with Image.open(png) as image:
        assert image.size > (500, 2000)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["moe.PNG", "moe.svg"]


@pytest.fixture
def short_folder():
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="tw-") as folder:
        yield Path(folder)


@pytest.mark.browser
@pytest.mark.needs_tool("chromium", "apt-get install chromium")
def test_what_netron_cannot_read_leaves_no_picture(tmp_path, short_folder, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(short_folder))
    (tmp_path / "bad.onnx").write_bytes(bytes(range(256)))
    with pytest.raises(ExportError, match=r"Netron cannot draw bad.onnx: Unsupported file") as said:
        draw(tmp_path / "bad.onnx", [tmp_path / "bad.svg"])
    assert "\n" not in str(said.value)
    assert [item.name for item in tmp_path.iterdir()] == ["bad.onnx"]
    assert list(short_folder.iterdir()) == [], "profile, downloads and all are gone"


@pytest.mark.browser
@pytest.mark.needs_tool("chromium", "apt-get install chromium")
def test_ctrl_c_leaves_no_browser_no_file_and_no_picture(lenet, tmp_path, short_folder):
    process = subprocess.Popen(
        [sys.executable, "-c", DRAW_FOREVER, lenet.folder / "model.onnx", tmp_path / "net.svg"],
        env={**os.environ, "TMPDIR": str(short_folder)}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "the page is there\n"
    assert _processes_with(short_folder), "the browser has its profile there"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the driver, too
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")
    assert list(short_folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == []
    assert _processes_with(short_folder) == []


def _processes_with(folder: Path) -> list[str]:
    """Command lines that name a folder."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if str(folder) in line]


def test_a_long_path_for_temporary_files_is_not_used(tmp_path, monkeypatch):
    """Chromium makes a socket in its folder and gives up where the path is too long for one."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 20)))
    assert browser.folder_for_sockets() == "/tmp"


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("net.pdf", InvalidInput, "another suffix; wanted a picture's, .svg or .png"),
        ("gone/net.svg", ExportError, "gone' is no folder"),
        ("folder.svg", ExportError, "cannot be written; choose another place"),
    ],
)
def test_a_place_that_cannot_be_is_refused_before_anything_starts(
    tmp_path, monkeypatch, name, error, text
):
    monkeypatch.setenv(browser.CHROMIUM, "nothing of the kind")
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(error, match=text):
        draw(tmp_path / "net.onnx", [tmp_path / name])


def test_a_missing_browser_is_one_line_with_the_cure(lenet, tmp_path, monkeypatch):
    monkeypatch.delenv(browser.CHROMIUM, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    cure = r"; apt-get install chromium, or set TWINPORT_CHROMIUM to its path$"
    with pytest.raises(BackendUnavailable, match=f"^Chromium is missing{cure}"):
        draw(lenet.folder / "model.onnx", [tmp_path / "net.svg"])
    monkeypatch.setenv(browser.CHROMIUM, "/nowhere/chrome")
    with pytest.raises(BackendUnavailable, match=f"names '/nowhere/chrome', .* no program{cure}"):
        draw(lenet.folder / "model.onnx", [tmp_path / "net.svg"])
    assert list(tmp_path.iterdir()) == []


def test_missing_playwright_is_one_line_with_the_cure(lenet, tmp_path, monkeypatch):
    monkeypatch.setenv(browser.CHROMIUM, "/bin/true")
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    with pytest.raises(BackendUnavailable, match=r"^Playwright is missing; pip install 'twinport"):
        draw(lenet.folder / "model.onnx", [tmp_path / "net.svg"])
    assert list(tmp_path.iterdir()) == []


def test_a_browser_that_does_not_start_is_one_line(lenet, tmp_path, monkeypatch):
    monkeypatch.setenv(browser.CHROMIUM, "/bin/true")
    with pytest.raises(BackendUnavailable, match=r"/bin/true does not start: .*; set TWIN") as said:
        draw(lenet.folder / "model.onnx", [tmp_path / "net.svg"])
    assert "\n" not in str(said.value)
