"""That what is made for a GPU machine runs here, too."""

from cases import needs_native
from source_tree import ROOT, run_python

RUN = "import runpy; runpy.run_path('benchmarks/short_op_run.py', run_name='__main__')"


@needs_native
def test_short_run_of_all_operators() -> None:
    result = run_python(RUN, folder=ROOT)
    assert result.returncode == 0 and "all as the reference" in result.stdout, result.stdout + result.stderr
