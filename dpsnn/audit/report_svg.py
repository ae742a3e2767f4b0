"""Matplotlib's SVG made fit to stand in a page: no style of its own, no fixed colours or sizes, names for who listens.

The page forbids inline styles, hence each becomes an attribute; colours become classes that the page's style sheet
gives for light and dark; texts take the page's font.
"""

import io
import re
from xml.etree import ElementTree

from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
_IN_STYLE = re.compile(r"url\(#([^)]+)\)")

INKS = {
    name: f"#0102{at:02x}"
    for at, name in enumerate(
        ("ink", "muted", "line", "accent", "leaks", "partly", "floor", "unknown", "paper"), 16
    )
}
"""Class of a colour → what stands for it while matplotlib draws."""

_KEPT = {
    "stroke-width", "stroke-dasharray", "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "fill-opacity",
    "stroke-opacity", "opacity", "text-anchor", "clip-path", "font-weight",
}  # fmt: skip
"""What may stay, as an attribute."""


def svg(figure: Figure, key: str, title: str, description: str) -> str:
    """A figure as the text of an `<svg>` element.

    Args:
        figure: Drawn in the colours of INKS, its texts without mathematics.
        key: Before all names in it, as those in one page must differ.
        title: What it shows.
        description: Its numbers, in words.
    """
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(written.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _bare(child) in ("metadata", "style", "title"):
                parent.remove(child)
    for element in root.iter():
        _own_names(element, key)
        _attributes(element)
    for side in ("width", "height"):
        root.attrib.pop(side, None)
    root.attrib |= {
        "role": "img",
        "class": "chart",
        "aria-labelledby": f"{key}-title {key}-desc",
        "stroke-linejoin": "round",
    }
    for at, (name, text) in enumerate((("title", title), ("desc", description))):
        told = ElementTree.Element(f"{{{SVG}}}{name}", {"id": f"{key}-{name}"})
        told.text = text
        root.insert(at, told)
    ElementTree.register_namespace("", SVG)
    return ElementTree.tostring(root, encoding="unicode")


def _bare(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _own_names(element: ElementTree.Element, key: str) -> None:
    """No name, and no reference to one, that another chart could have as well."""
    if "id" in element.attrib:
        element.set("id", f"{key}-{element.attrib['id']}")
    if _HREF in element.attrib:
        element.set("href", f"#{key}-{element.attrib.pop(_HREF).removeprefix('#')}")
    if "clip-path" in element.attrib:
        element.set("clip-path", _IN_STYLE.sub(rf"url(#{key}-\1)", element.attrib["clip-path"]))


def _attributes(element: ElementTree.Element) -> None:
    """What a style says, as attributes and classes."""
    said = dict[str, str]()
    for each in element.attrib.pop("style", "").split(";"):
        name, _, value = each.partition(":")
        said[name.strip()] = value.strip()
    classes = []
    inks = {colour: name for name, colour in INKS.items()}
    for name, value in said.items():
        if name in ("fill", "stroke") and value in inks:
            classes.append(f"{name}-{inks[value]}")
        elif name in _KEPT or (name in ("fill", "stroke") and value == "none"):
            element.set(name, value)
        elif name in ("font", "font-size"):
            (size,) = re.findall(r"([\d.]+)px", value)
            element.set("font-size", size)
    if _bare(element) == "text" and not any(each.startswith("fill-") for each in classes):
        classes.append("fill-ink")
    if classes:
        element.set("class", " ".join(classes))
