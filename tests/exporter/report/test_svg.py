"""What of a drawing comes into a page, and what does not."""

from __future__ import annotations

import pytest

from exporter.report.svg import inlined_svg
from runtime.errors import ExportError

DRAWING = """<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
     width="120pt" height="80" id="export" class="canvas" onload="go()">
  <style>* { color: red } @import "http://far.example/a.css";</style>
  <metadata><rdf xmlns="http://far.example/"/></metadata>
  <script>go()</script>
  <defs><marker id="arrow"><path d="M 0 0"/></marker><clipPath id="box"><rect/></clipPath></defs>
  <g id="unused" class="node" onclick="go()">
    <a xlink:href="http://far.example/"><text>in a link</text></a>
    <path style="marker-end: url(&quot;#arrow&quot;); fill: url(http://far.example/p)"/>
    <rect clip-path="url(#box)"/><use xlink:href="#arrow"/><use href="http://far.example/#a"/>
    <image xlink:href="data:image/png;base64,AAAA"/><image href="http://far.example/a.png"/>
    <image href="data:image/svg+xml;base64,AAAA"/>
    <foreignObject><b>html</b></foreignObject>
    <text>&lt;b&gt; &amp; 1</text>
  </g>
</svg>"""


@pytest.fixture
def markup():
    return str(inlined_svg(DRAWING, "one", 'a "quoted" <label>'))


def test_nothing_in_it_can_run_or_ask_for_anything(markup):
    for word in ("script", "go()", "onload", "onclick", "far.example", "foreign", "<a", "import",
                 "metadata", "svg+xml", "class=", "color: red"):  # fmt: skip
        assert word not in markup


def test_it_keeps_what_it_draws_and_its_own_references(markup):
    assert 'id="one-arrow"' in markup
    assert "marker-end: url(#one-arrow); fill: none" in markup
    assert 'clip-path="url(#one-box)"' in markup
    assert '<use href="#one-arrow"' in markup
    assert 'href="data:image/png;base64,AAAA"' in markup
    assert "unused" not in markup
    assert "export" not in markup


def test_texts_stay_escaped_and_the_drawing_has_a_name(markup):
    assert "&lt;b&gt; &amp; 1" in markup
    assert 'role="img"' in markup
    assert 'aria-label="a &quot;quoted&quot; &lt;label&gt;"' in markup


def test_it_can_be_scaled(markup):
    assert 'viewBox="0 0 120 80"' in markup


@pytest.mark.parametrize(
    ("text", "said"), [("no drawing", "is not SVG"), ("<html/>", "is a <html>, wanted <svg>")]
)
def test_what_is_no_drawing_is_refused(text, said):
    with pytest.raises(ExportError, match=said):
        inlined_svg(text, "one", "graph")
