"""Drawings put into a page: nothing of them may run, ask for anything or touch the rest."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from markupsafe import Markup

from runtime.errors import ExportError

_DRAWN = frozenset(
    (
        "svg", "g", "defs", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon",
        "text", "tspan", "title", "desc", "use", "marker", "clipPath", "pattern", "symbol",
        "image",
        "linearGradient", "radialGradient", "stop",
    )
)  # fmt: skip
"""Elements that draw; scripts, links, foreign content and rules for the whole page do not."""
_REFERENCE = re.compile(r"url\(\s*(['\"]?)\s*(.*?)\1\s*\)")
_OWN_IMAGE = "data:image/png;base64,"
_BASE_STYLE = "stroke-linejoin:round;stroke-linecap:butt"
"""What Matplotlib says in a rule for everything; inherited, it holds in the drawing alone."""


def inlined_svg(text: str, prefix: str, label: str) -> Markup:
    """A drawing as an element of a page.

    Ids that nothing in the drawing refers to go, the others get a prefix; so do classes,
    rules, event handlers, and every address that leads out of the page.

    Args:
        text: A whole SVG document.
        prefix: Of its ids, another one for each drawing of a page.
        label: What it shows, for those who cannot see it.

    Raises:
        ExportError: It is not SVG.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ExportError(f"the drawing '{label}' is not SVG: {error}") from error
    if _local(root.tag) != "svg":
        raise ExportError(f"the drawing '{label}' is a <{_local(root.tag)}>, wanted <svg>")
    wanted = _referred(text)
    _clean(root, prefix, wanted)
    _size_from_attributes(root)
    root.set("role", "img")
    root.set("aria-label", label)
    root.set("style", f"{_BASE_STYLE};{root.get('style', '')}".rstrip(";"))
    # Every character above was parsed and is written again, escaped, by the library.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def svg_width(markup: Markup) -> float:
    """Pixels that an inlined drawing is wide; zero where it does not say."""
    found = re.match(r"<svg\b[^>]*?\bwidth=\"([\d.]+)", markup)
    return float(found[1]) if found else 0.0


def _referred(text: str) -> set[str]:
    """Ids that the drawing uses."""
    links = re.findall(r"href=[\"']#([^\"']+)[\"']", text)
    used = re.findall(r"url\(\s*(?:&quot;|['\"])?#([^)'\"&]+)", text)
    return {*links, *used}


def _clean(element: ElementTree.Element, prefix: str, wanted: set[str]) -> None:
    element.tag = _local(element.tag)
    for name, value in list(element.attrib.items()):
        del element.attrib[name]
        kept = _attribute(element.tag, _local(name), value, prefix, wanted)
        if kept is not None:
            element.set(_local(name), kept)
    for child in list(element):
        if isinstance(child.tag, str) and _local(child.tag) in _DRAWN:
            _clean(child, prefix, wanted)
        else:
            element.remove(child)


def _attribute(tag: str, name: str, value: str, prefix: str, wanted: set[str]) -> str | None:
    """The attribute's value in the page; none where it may not come in."""
    if name == "class" or name.lower().startswith("on"):
        return None
    if name == "id":
        return f"{prefix}-{value}" if value in wanted else None
    if name == "href":
        if value.startswith("#"):
            return f"#{prefix}-{value[1:]}"
        return value if tag == "image" and value.startswith(_OWN_IMAGE) else None
    return _REFERENCE.sub(lambda found: _own_reference(found[2], prefix), value)


def _own_reference(target: str, prefix: str) -> str:
    return f"url(#{prefix}-{target[1:]})" if target.startswith("#") else "none"


def _size_from_attributes(root: ElementTree.Element) -> None:
    """A box of its own, so that the page can scale the drawing."""
    width, height = (re.match(r"[\d.]+", root.get(side, "")) for side in ("width", "height"))
    if root.get("viewBox") is None and width and height:
        root.set("viewBox", f"0 0 {width[0]} {height[0]}")


def _local(name: object) -> str:
    """A name without its namespace, which a page does not need."""
    return str(name).rpartition("}")[2]
