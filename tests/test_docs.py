"""The examples in the documents run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from source_tree import ROOT

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples(name: str) -> list[str]:
    found = BLOCK.findall((ROOT / name).read_text())
    assert found, f"{name} has no python example"
    return found


@pytest.mark.parametrize("code", examples("docs/kernels.md"), ids=lambda code: code.strip().splitlines()[-1][:40])
def test_kernels(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Comments behind a print give its output."""
    exec(compile(code, "docs/kernels.md", "exec"), {})
    promised = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == promised


def test_metrics_measures_images(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [code for code in examples("docs/metrics.md") if "evaluate_images" in code]
    exec(compile(code, "docs/metrics.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)


def test_readme_imports_an_op() -> None:
    (code,) = [code for code in examples("README.md") if "m2o_fast.ops" in code]
    exec(compile(code, "README.md", "exec"), {})


def test_readme_is_short_and_shows_the_page_to_play_with() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 150 and "](docs/play.png)" in readme


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    missing = [target for target in targets if "://" not in target and not (folder / Path(target)).exists()]
    assert missing == []
