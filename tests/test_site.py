"""The site of `make docs`: complete, with links that lead somewhere, and nothing that is loaded from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest
from source_tree import ROOT

import m2o_fast

LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "link": "href",
}
NOT_FETCHED = {"canonical", "prev", "next", "alternate"}  # relations of a link that name a page


class Loads(HTMLParser):
    """The addresses that a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag in LOADED and not NOT_FETCHED & set((values.get("rel") or "").split()):
            self.found.append(values.get(LOADED[tag]) or "")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="`make docs` installs mkdocs-material and mkdocstrings")
def test_site_is_whole_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr  # strict: a link or an anchor that leads nowhere is an error

    pages = {page.relative_to(tmp_path).as_posix(): page.read_text() for page in tmp_path.rglob("*.html")}
    assert {"index.html", *(f"{page.stem}.html" for page in (ROOT / "docs").glob("*.md"))} <= set(pages)
    for name in set(m2o_fast.__all__) - {"__version__"}:
        public = getattr(m2o_fast, name)
        assert f"{public.__module__}.{public.__name__}" in pages["api.html"], name
    assert not [name for name, text in pages.items() if ":func:" in text or ":class:" in text]
    for name, text in pages.items():
        loads = Loads()
        loads.feed(text)
        assert loads.found or name == "gallery/report.html", name
        assert not [address for address in loads.found if re.match(r"(https?:)?//", address)], name
    for style in tmp_path.rglob("*.css"):
        assert "url(http" not in style.read_text() and "@import" not in style.read_text(), style
