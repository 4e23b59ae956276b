"""The page in a browser, on a phone and on a desk; skipped where there is no Chromium."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from result_file import evaluation

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium to open a page")

#: shows the page in a frame, which may be narrower than a browser window, and measures it from outside
WRAPPER = """<!DOCTYPE html><meta charset="utf-8"><body><iframe width="{width}" height="800" srcdoc="{page}"></iframe>
<pre id="measured"></pre><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument;
  const images = [...page.images];
  document.getElementById("measured").textContent = JSON.stringify({{
    width: page.documentElement.clientWidth,
    needed: page.documentElement.scrollWidth,
    images: images.length,
    broken: images.filter(image => !image.complete || !image.naturalWidth).length,
    charts: [...page.querySelectorAll("svg")].filter(chart => chart.getBoundingClientRect().height > 50).length,
    widest: Math.max(...[...page.querySelectorAll("body *")].filter(part => !part.closest(".scroll"))
      .map(part => part.getBoundingClientRect().right)),
  }});
}});
</script>"""


def opened(text: str, width: int, folder: Path) -> tuple[dict[str, float], str]:
    """What a frame of so many pixels shows, and what the browser complained of."""
    file = folder / "wrapper.html"
    file.write_text(WRAPPER.format(width=width, page=html.escape(text, quote=True)), encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    flags += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=10000"]
    done = subprocess.run(
        [str(CHROMIUM), *flags, "--window-size=1400,900", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    measured = re.search(r'<pre id="measured">(.*?)</pre>', done.stdout, re.DOTALL)
    assert measured and measured[1], done.stderr[-2000:]
    complaints = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(html.unescape(measured[1])), complaints


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("several", [False, True], ids=["one run", "several runs"])
def test_a_browser_shows_all_of_it(
    make_run: Callable[..., Path], report: Callable[..., str], tmp_path: Path, width: int, several: bool
) -> None:
    names = ["first", "a-second-run-with-a-name-that-is-very-long-indeed", "third"]
    result = evaluation(warnings=["w" * 300])
    result["protocol"]["extractor_sha256"] = "0123456789abcdef" * 4
    runs = [make_run(name, result) for name in (names if several else names[:1])]
    text = report(*runs)
    shown, complaints = opened(text, width, tmp_path)
    assert complaints == ""
    assert shown["broken"] == 0 and shown["images"] == text.count("<img ") > 5
    assert shown["charts"] == text.count("<svg ") > 5
    assert shown["needed"] <= shown["width"] <= width
    assert shown["widest"] <= shown["width"] + 0.5
