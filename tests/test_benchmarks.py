"""That what is made for a GPU machine runs here, too, that the pages show the results that are kept, and what
``pytest benchmarks`` measures and says."""

import argparse
import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cases import needs_native
from source_tree import ROOT, run_python

from m2o_fast.translators import NAMES

PAGES = """
import json, sys
sys.path.insert(0, "benchmarks")
import profile_step, publish, results_page, translate_folder
records = [json.loads(path.read_text()) for path in sorted(publish.RESULTS.glob("*.json"))]
steps = [record for record in records if "shares" in record]
rows = [record for record in records if "rows" in record]
lines = {"performance": profile_step.targets(steps), "results": results_page.page()}
lines["benchmarks"] = [*publish.overview(rows), "## Targets\\n", *publish.targets(rows)]
for record in steps:
    lines["performance"] += profile_step.section(record)
for record in rows:
    lines["benchmarks"] += publish.section(record)
for name, expected in lines.items():
    page = (publish.ROOT / "docs" / f"{name}.md").read_text()
    assert len(expected) > 15
    assert "\\n".join(expected) in page, f"docs/{name}.md is not what its results say"
assert "\\n".join(publish.headline(rows)) in (publish.ROOT / "README.md").read_text()
folders = translate_folder.table(json.loads(translate_folder.RECORD.read_text()))
assert "\\n".join(folders) in translate_folder.PAGE.read_text()
assert "matplotlib" not in sys.modules
"""
RUN = "import runpy; runpy.run_path('benchmarks/short_op_run.py', run_name='__main__')"


@needs_native
@pytest.mark.parametrize("how", ["--few", pytest.param("", marks=pytest.mark.slow)])
def test_short_run_of_all_operators(how: str) -> None:
    result = run_python(f"import sys; sys.argv += {how.split()}; {RUN}", folder=ROOT)
    assert result.returncode == 0 and "all as the reference" in result.stdout, result.stdout + result.stderr


def test_a_short_run_without_time_for_all_says_so() -> None:
    result = run_python(f"import sys; sys.argv += ['--seconds', '0', '--few']; {RUN}", folder=ROOT)
    assert result.returncode == 124, result.stdout + result.stderr
    assert re.match(r"0 of [1-9]\d* calls on \w+ made, all as the reference\n", result.stdout)


def test_pages_show_the_results_that_are_kept() -> None:
    """And measuring needs no matplotlib."""
    result = run_python(PAGES, folder=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_what_a_run_did_not_come_to_is_a_dash_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are taken away one by one, the last that is measured first."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import profile_step

    (path,) = profile_step.RESULTS.glob("train-step-amd-epyc-1-threads.json")
    whole = json.loads(path.read_text())
    for device in ("cpu", "cuda"):
        record = copy.deepcopy(whole) | {"device": device}
        for figures in ("peak_bytes", "shares", "seconds"):
            while record[figures]:
                record[figures].popitem()
                lines = [*profile_step.targets([record])[2:], *profile_step.section(record)]
        assert "| **iteration** | - | - | | - |" in lines and not any(" ms |" in line for line in lines), lines


def test_no_ablation_takes_the_place_of_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import ablation

    chosen = [[NAMES[0]], [NAMES[1]], [NAMES[1], NAMES[2]], [NAMES[2], NAMES[1]], list(NAMES)]
    one, other, two, again, every = map(ablation.of_systems, chosen)
    assert (one, every) == ("", "-systems") and two == again and len({one, other, two, every}) == 4
    for words, said in (("--seeds 1", "two --seeds"), ("--seconds 9", "with --steps")):
        monkeypatch.setattr(sys, "argv", ["ablation.py", "--paths", "fast", "plain", *words.split()])
        with pytest.raises(SystemExit) as ended:
            ablation.main()
        assert ended.value.code == 2 and said in capsys.readouterr().err


def test_an_ablation_takes_runs_of_equal_settings_from_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import ablation

    run = ablation.Run(NAMES[0], "hms", "fast", 2)
    row = ablation.label(run._asdict())
    settings = ablation.config_of(run._replace(seed=3), "digits", 40).model_dump(mode="json")
    del settings["data"]["verify"]  # as of a record from before that setting
    measured = [run._replace(seed=seed)._asdict() | {"directions": {}} for seed in (1, 2)]
    known = {"seconds": 9, "settings": {row: settings}, "runs": measured}
    options = argparse.Namespace(seconds=9)
    assert ablation.steps_of(run, options, known) == 40

    def found(run: ablation.Run, steps: int, known: dict) -> dict | None:
        return ablation.recorded(ablation.trial_of(run, ablation.config_of(run, "digits", steps)), known)

    assert found(run, 40, known) is measured[1]
    for other in (run._replace(seed=3), run._replace(variant="hmu"), run._replace(path="bf16")):
        assert found(other, 40, known) is None
    assert found(run, 41, known) is None
    text = {"settings": "steps: 40", "runs": measured}  # as early records have them
    other = {"settings": {row: settings | {"steps_of_old": 3}}, "runs": measured}
    assert not any(found(run, 40, each) for each in (text, other))


def test_figures_of_an_ablation_are_whole_or_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Half a file would be taken for that of a run which is measured, and read in vain ever after."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import ablation
    import trials

    def killed(file: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trials, "command", lambda *_: '{"directions": {}, "protocol": {}}')
    for module in (ablation, trials):
        monkeypatch.setattr(module, "cost", lambda _: {"seconds_per_step": 2.0})
    run = ablation.Run(NAMES[0], "hms", "fast", 1)
    timed = argparse.Namespace(data="digits", seconds=9, runs=tmp_path)
    trial = ablation.trial_of(run, ablation.config_of(run, "digits", 4))
    with monkeypatch.context() as once:
        once.setattr("os.fsync", killed)
        for write in (
            lambda: ablation.steps_of(run, timed, {}),
            lambda: ablation.trained(trial, tmp_path, "hms", timed=True),
        ):
            with pytest.raises(KeyboardInterrupt):
                write()
        assert not [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".steps")]
    assert ablation.steps_of(run, timed, {}) == ablation.steps_of(run, timed, {}) == 4
    assert ablation.trained(trial, tmp_path, "hms", timed=True)["cost"]["steps"] == 4


def test_a_direction_that_a_system_has_not_is_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import ablation
    import results_page

    def run(variant: str, seed: int, mse: float | None) -> dict:
        colored = {"none": {"color_recall": 0.25 * seed, "color_recall_ceiling": 0.5}}
        back = {} if mse is None else {"color->gray": {"none": {"mse": mse}}}
        made = {"machine": "a", "torch": "b", "commit": "c", "protocol": {}}
        facts = ablation.Run(NAMES[0], variant, "fast", seed)._asdict() | made
        return facts | {"directions": {"gray->color": colored, **back}, "cost": {"steps": 7}}

    runs = [run("hmu", 1, None), run("hms", 1, 0.125), run("hms", 2, 0.25)]
    lines = results_page.section({"data": "digits", "seconds": 9, "settings": {}, "runs": runs})
    assert "digits, as many steps as 9 seconds of one thread, seeds 1, 2" in lines[0]
    assert lines[2:] == [
        "| variant | MSE, color to gray | Color Recall | steps |",
        "|---|---|---|---|",
        "| HMU (seed 1) | - | 0.250 | 7 |",
        "| HMS | 0.18750 ± 0.08839 | 0.375 ± 0.177 | 7 |",
    ]


def test_what_other_weights_save_is_counted_for_each_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import results_page

    def run(start: str, seed: int, errors: dict[int, float]) -> dict[str, object]:
        curve = [{"step": step, "mse": error, "colors": error} for step, error in errors.items()]
        return {"start": start, "seed": seed, "validations": curve}

    runs = [
        run("fresh", 2, {25: 0.5, 50: 0.2, 75: 0.3}),
        run("digits", 2, {0: 0.4, 25: 0.2, 50: 0.1, 75: 0.3}),
        run("fresh", 1, {25: 0.3}),
        run("digits", 1, {0: 0.4, 25: 0.5}),
    ]
    assert results_page.savings(runs) == [
        "\nSeed 1: the least error from fresh weights is 0.3000, after 25 steps; begun with the digits it is not "
        "reached. Seed 2: the least error from fresh weights is 0.2000, after 50 steps; begun with the digits it is "
        "reached after 25 steps."
    ]
    assert results_page.cells_of(runs[::2], 25) == ["0.4000 ± 0.1414", "0.40 ± 0.14"]
    assert results_page.cells_of(runs[::2], 0) == ["-", "-"]


def benchmarks(*words: str) -> subprocess.CompletedProcess[str]:
    """``pytest benchmarks`` with more words."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
    # as if no pytest had started it: a worker of several would not measure
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_the_table_sets_ours_against_each_baseline_and_keeps_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from comparison import table

    groups = {
        "adain_act 8x4x16x16 float32 up2 out of cache, forward+backward": {
            "eager": {"seconds": 4e-3}, "compile": {"seconds": 1e-3}, "triton": {"seconds": 3e-3},
            "compiled": {"seconds": 2e-3, "copy_share": 0.4},
        },
        "residual_merge None 8x4x8x8 float32 in cache, forward": {
            "reference": {"seconds": 1}, "compiled": {"seconds": 9e-6},
        },
        "color_histogram 10x32x32 torch.uint8": {
            "bincount": {"seconds": 0.03}, "numpy": {"seconds": 0.3}, "compiled": {"seconds": 0.01},
        },
        "train_step cpu32, 32 px, batch 4, iteration": {"eager": {"seconds": 3}},
    }  # fmt: skip
    assert [re.split(r"  +", line) for line in table(groups)] == [
        ["operation", "shape", "pass", "time", "x eager", "x torch.compile", "x numpy", "of copy speed"],
        ["adain_act", "8x4x16x16 float32 up2", "forward + backward", "2.00 ms", "2.00x", "0.50x", "-", "40%",
         "slower than torch.compile"],
        ["residual_merge", "8x4x8x8 float32 in cache", "forward", "9.0 µs", "-", "-", "-", "-"],
        ["color_histogram", "10x32x32 torch.uint8", "forward", "10.00 ms", "3.00x", "-", "30.00x", "-"],
    ]  # fmt: skip


def test_without_options_every_operation_is_measured_beside_its_baselines() -> None:
    said = benchmarks("benchmarks", "--collect-only", "-q").stdout
    kept = set(re.findall(r"::(test_\w+)", said))
    files = [path.read_text() for path in (ROOT / "benchmarks").glob("test_*.py")]
    quick = [text for text in files if "\npytestmark = pytest.mark.full" not in text]
    assert len(quick) == len(files) - 1  # whole iterations of other systems take minutes
    assert kept == {name for text in quick for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    assert {"eager", "compile", "numpy", "compiled"} <= set(re.findall(r"-(\w+)\]", said))
    assert "-reference]" not in said and "bfloat16" not in said
    left_out = re.search(r"\((\d+) deselected\)", said)
    assert left_out and f"Left out: {left_out[1]} measurements" in said and "--full" in said


@pytest.mark.slow
@needs_native
def test_a_run_ends_with_one_table_and_keeps_its_report(tmp_path: Path) -> None:
    report = tmp_path / "bench.json"
    few = ["benchmarks/test_soft_histogram.py", "-k", "4-forward-eager or 4-forward-compiled", "--threads", "1"]
    done = benchmarks(*few, f"--benchmark-json={report}", "--benchmark-max-time=0.01")
    assert done.returncode == 0, done.stdout + done.stderr
    row = r"^soft_color_histogram +10000 colours, 4\^3 cells +forward .*s +\d+\.\d\dx"
    assert re.search(row, done.stdout, re.MULTILINE)
    assert ", 1 thread, torch " in done.stdout and "StdDev" not in done.stdout
    rows = json.loads(report.read_text())["benchmarks"]
    assert [row["extra_info"]["implementation"] for row in rows] == ["eager", "compiled"]
    assert {row["extra_info"]["threads"] for row in rows} == {1}
    own = benchmarks(*few, "--benchmark-disable")
    assert own.returncode == 0 and "2 passed" in own.stdout, own.stdout + own.stderr


@pytest.mark.slow
@needs_native
@pytest.mark.parametrize("name", ["bicyclegan", "stargan", "flow"])
def test_an_iteration_of_a_system_is_that_of_its_twin(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses of two iterations; with an image of either domain instead of four."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import systems_step

    monkeypatch.setattr(systems_step, "IMAGES", 1)
    plain, fast = (systems_step.iteration(implementation, name) for implementation in ("plain", "fast"))
    for _ in range(2):
        assert float(fast()) == pytest.approx(float(plain()), rel=5e-3)


def test_no_threads_are_refused() -> None:
    done = benchmarks("benchmarks/test_soft_histogram.py", "--threads", "0")
    assert done.returncode == 4 and "--threads must be at least 1, not 0" in done.stderr
