"""Reads an HTML page as a strict reader would."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

from PIL import Image

VOID = {"meta", "link", "img", "br"}
#: attributes that can make a browser load something
LOADING = {"src", "href", "srcset", "action", "data", "poster", "background", "xlink:href", "formaction"}


class Page(HTMLParser):
    """Parses a page at once; tags that are not closed, or closed without being open, are an error.

    Attributes:
        texts: All text outside of the style sheet.
        images: The attributes of every ``<img>``.
        addresses: Every value of an attribute that loads something.
        tables: By caption or label: rows of cells, each (text, exact value or None).
        ids: All ids.
        links: Targets of links within the page.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.images: list[dict[str, str]] = []
        self.addresses: list[str] = []
        self.tables: dict[str, list[list[tuple[str, str | None]]]] = {}
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.headers: list[dict[str, str]] = []
        self._open: list[str] = []
        self._label = ""
        self._rows: list[list[tuple[str, str | None]]] = []
        self._cell: list[str] | None = None
        self._value: str | None = None
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        found = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        self.addresses += [value for name, value in found.items() if name in LOADING and tag != "data"]
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "img":
            self.images.append(found)
        elif tag == "th":
            self.headers.append(found)
        if found.get("role") == "region":
            self._label = found["aria-label"]
        if tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._cell, self._value = [], None
        elif tag == "data":
            self._value = found["value"]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-1:]}"
        self._open.pop()
        if tag in ("td", "th") and self._cell is not None:
            self._rows[-1].append((" ".join("".join(self._cell).split()), self._value))
            self._cell = None
        elif tag == "table":
            self.tables.setdefault(self._label, self._rows)

    def handle_data(self, data):
        if self._open[-1:] != ["style"]:
            self.texts.append(data)
        if self._cell is not None:
            self._cell.append(data)


def decoded(address: str) -> Image.Image:
    """The image of a ``data:`` address."""
    kind, _, content = address.partition(",")
    assert kind == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    image.load()
    return image
