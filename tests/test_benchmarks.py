"""That what is made for a GPU machine runs here, too, and that the pages show the results that are kept."""

from cases import needs_native
from source_tree import ROOT, run_python

PAGES = """
import json, sys
sys.path.insert(0, "benchmarks")
import profile_step, publish
records = [json.loads(path.read_text()) for path in sorted(publish.RESULTS.glob("*.json"))]
steps = [record for record in records if "shares" in record]
rows = [record for record in records if "rows" in record]
lines = {"performance": profile_step.targets(steps), "benchmarks": publish.targets(rows)}
for record in steps:
    lines["performance"] += profile_step.section(record)
for record in rows:
    lines["benchmarks"] += publish.section(record)
for name, expected in lines.items():
    page = (publish.ROOT / "docs" / f"{name}.md").read_text()
    assert len(expected) > 20
    assert "\\n".join(expected) in page, f"docs/{name}.md is not what its results say"
assert "matplotlib" not in sys.modules
"""
RUN = "import runpy; runpy.run_path('benchmarks/short_op_run.py', run_name='__main__')"


@needs_native
def test_short_run_of_all_operators() -> None:
    result = run_python(RUN, folder=ROOT)
    assert result.returncode == 0 and "all as the reference" in result.stdout, result.stdout + result.stderr


def test_pages_show_the_results_that_are_kept() -> None:
    """And measuring needs no matplotlib."""
    result = run_python(PAGES, folder=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
