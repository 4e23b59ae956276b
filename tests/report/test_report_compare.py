"""Several runs: what belongs together, the spread over the seeds, and what does not compare."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy
from reading import Page, decoded
from result_file import evaluation

from m2o_fast.engine.config import load_config
from m2o_fast.engine.loop import train
from m2o_fast.errors import UserError
from m2o_fast.report import write_report

MakeRun = Callable[..., Path]
Report = Callable[..., str]


def result(mse: float, recall: float, **changes: Any) -> dict[str, Any]:
    directions = {"color->gray": {"none": {"mse": mse}}, "gray->color": {"latent": {"color_recall": recall}}}
    return evaluation(directions=directions, details={}, **changes)


@pytest.fixture
def runs(make_run: MakeRun) -> list[Path]:
    """Two seeds of HMS and one of HMU, told apart by their settings alone."""
    made = [
        make_run("one", result(0.01, 0.5)),
        make_run("two", result(0.02, 0.7)),
        make_run("three", result(0.03, 0.8)),
    ]
    for run, change in zip(made, ("seed: 1", "seed: 2", "seed: 3"), strict=True):
        text = (run / "config.yaml").read_text().replace("seed: 777", change)
        (run / "config.yaml").write_text(text.replace("variant: hms", "variant: hmu") if run is made[2] else text)
    return made


def test_mean_and_standard_deviation_over_the_seeds(runs: list[Path], report: Report) -> None:
    page = Page(report(*runs))
    rows = {row[0][0]: [cell for cell, _ in row[1:]] for row in page.tables["trade-off"][1:]}
    assert rows == {"HMS × 2": ["0.015 ± 0.0071", "0.6 ± 0.14"], "HMU × 1": ["0.03", "0.8"]}
    groups = page.tables["color → gray, by group"]
    assert [cell for cell, _ in groups[0]] == ["measure", "HMS", "HMU"]
    assert [float(value or "") for _, value in groups[1][1:]] == [pytest.approx(0.0070710678), 0.03]


@pytest.mark.parametrize("difference", [3e-16, 1e-12, 1e-9])
def test_runs_that_differ_by_rounding_have_a_trade_off(make_run: MakeRun, report: Report, difference: float) -> None:
    made = [make_run("one", result(0.002, 0.5)), make_run("two", result(0.002 * (1 + difference), 0.5))]
    assert "MSE, color" in report(*made)


def test_runs_stand_side_by_side(runs: list[Path], report: Report) -> None:
    page = Page(report(*runs))
    table = page.tables["gray → color"]
    assert [cell for cell, _ in table[0]] == ["measure", "one", "two", "three"]
    assert [value for _, value in table[1][1:]] == ["0.5", "0.7", "0.8"]
    settings = page.tables["settings that differ"]
    assert [[cell for cell, _ in row] for row in settings[1:]] == [
        ["variant", "hms", "hms", "hmu"],
        ["seed", "1", "2", "3"],
    ]
    words = [image["alt"] for image in page.images]
    for name in ("one", "two", "three"):
        assert any(word.startswith(f"{name}: latent 1") for word in words)
    assert sum(word.startswith("source: 6 gray") for word in words) == 1  # the digits are the same for all seeds
    for image in page.images:
        decoded(image["src"])


def test_runs_stand_below_the_source_that_they_translate(make_run: MakeRun, report: Report) -> None:
    made = [make_run(name, result(0.1, 0.5)) for name in ("one", "other", "again")]
    text = (made[1] / "config.yaml").read_text()
    (made[1] / "config.yaml").write_text(text.replace("seed: 777", "seed: 1"))  # colours its digits otherwise
    titles = [image["alt"] for image in Page(report(*made)).images]
    words = [title.partition(": ")[0] for title in titles if "color → gray" in title]
    assert words == ["source", "one", "again", "source", "other"]


def test_references_of_the_run_before_are_not_shown_again(make_run: MakeRun, report: Report) -> None:
    made = [make_run(name, result(0.1, 0.5)) for name in ("one", "again", "other")]
    text = (made[2] / "config.yaml").read_text()
    (made[2] / "config.yaml").write_text(text.replace("seed: 777", "seed: 1"))  # the same digits, other colours
    titles = [image["alt"] for image in Page(report(*made)).images if "gray → color" in image["alt"]]
    words = [title.rpartition(": ")[0] for title in titles]
    of_one, of_again, of_other = (
        [f"{name}: {row}" for row in ("latent 1", "latent 2", "guided by it")] for name in ("one", "again", "other")
    )
    assert words == ["source", *of_one[:2], "reference", of_one[2], *of_again, *of_other[:2], "reference", of_other[2]]


def test_the_best_mean_is_bold_whichever_way_is_better(runs: list[Path], report: Report) -> None:
    text = report(*runs)
    bold = [part.partition("</td>")[0] for part in text.split('<td class="n best">')[1:]]
    assert len(bold) == 2 and "0.015" in bold[0] and '"0.8"' in bold[1]


def test_the_trade_off_has_what_any_of_the_runs_was_measured_by(make_run: MakeRun, report: Report) -> None:
    """Whichever comes last: one run has FID and the other direction, which the other two have not."""
    colors = {"color_recall": 0.5}
    to_color = {"latent": {**colors, "fid_clean": 9.0}}
    rich = {"color->gray": {"none": {"mse": 0.1, "psnr": 9.0}}, "gray->color": to_color}
    poor = {"gray->color": {"latent": colors}}
    made = [
        make_run(name, evaluation(directions=directions, details={}))
        for name, directions in (("a", poor), ("b", rich), ("c", poor))
    ]
    for order in (made, made[1:], made[:2]):
        columns = [cell for cell, _ in Page(report(*order)).tables["trade-off"][0]]
        shown = " ".join(columns)
        assert len(columns) == 1 + 4, columns
        assert all(word in shown for word in ("MSE", "PSNR", "Color Recall", "FID")), columns


def test_runs_of_other_settings_are_no_further_seeds(runs: list[Path], report: Report) -> None:
    text = (runs[1] / "config.yaml").read_text()
    (runs[1] / "config.yaml").write_text(text.replace("batch_size: 4", "batch_size: 2"))
    rows = [row[0][0] for row in Page(report(*runs[:2])).tables["trade-off"][1:]]
    assert rows == ["HMS (batch_size 4) × 1", "HMS (batch_size 2) × 1"]


def test_where_and_how_often_changes_no_group(runs: list[Path], report: Report) -> None:
    text = (runs[1] / "config.yaml").read_text()
    (runs[1] / "config.yaml").write_text(
        text.replace("device: cpu", "device: auto").replace("log_every: 1", "log_every: 2")
    )
    assert [row[0][0] for row in Page(report(*runs[:2])).tables["trade-off"][1:]] == ["HMS × 2"]


def test_numbers_that_do_not_compare_are_warned_of(make_run: MakeRun, report: Report) -> None:
    first = make_run("a", result(0.1, 0.5))
    second = make_run("b", result(0.1, 0.5, step=2, protocol={"sources": 7, "data_seed": 5}))
    text = Page(report(first, second)).text
    assert "after different numbers of steps: 2, 4" in text
    assert "sources is 6 or 7" in text and "style_seed is 2024 or not given" in text and "data_seed is" not in text


def test_other_images_are_no_other_seed(make_run: MakeRun, report: Report) -> None:
    same = {"data_seed": 1, "data_fingerprint": "aa"}
    first = make_run("a", result(0.1, 0.5, protocol=same, warnings=["few"]))
    seed = make_run("b", result(0.1, 0.5, protocol={"data_seed": 2, "data_fingerprint": "bb"}, warnings=["few"]))
    text = Page(report(first, seed)).text
    assert "data_fingerprint" not in text and "a, b: few" in text
    other = make_run("c", result(0.1, 0.5, protocol={**same, "data_fingerprint": "cc"}))
    assert "evaluated on different images: data_fingerprint differs" in Page(report(first, other)).text


def test_runs_without_numbers_or_pictures_take_part(runs: list[Path], report: Report) -> None:
    shutil.rmtree(runs[0] / "evaluation")
    shutil.rmtree(runs[1] / "checkpoints")
    (runs[2] / "config.yaml").write_text("nonsense: 1\n")
    page = Page(report(*runs))
    assert f"m2o-fast eval {runs[0]}" in page.text
    assert "two: no pictures were made: there is no checkpoint" in page.text
    assert "three: the settings cannot be read" in page.text
    assert [cell for cell, _ in page.tables["gray → color"][0]] == ["measure", "two", "three"]


def test_runs_of_one_name_are_told_apart(make_run: MakeRun, tmp_path: Path, report: Report) -> None:
    first = make_run("x/run", result(0.1, 0.5))
    second = make_run("y/run", result(0.2, 0.5))
    page = Page(report(first, second))
    assert [cell for cell, _ in page.tables["color → gray"][0]] == ["measure", str(first), str(second)]


def test_the_page_lies_where_the_runs_are(runs: list[Path], tmp_path: Path) -> None:
    assert write_report(runs, device="cpu") == tmp_path.resolve() / "report.html"


def test_output_files_are_checked_before_anything_is_made(runs: list[Path], tmp_path: Path) -> None:
    settings = runs[0] / "config.yaml"
    for out, words in ((settings, "ends in .html"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=words):
            write_report(runs, out, "cpu")
    with pytest.raises(UserError, match="named twice"):
        write_report([runs[0], runs[0]], None, "cpu")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write the report"):
        write_report(runs[:1], tmp_path / "file" / "page.html", "cpu")
    assert json.loads((runs[0] / "env.json").read_text()) and settings.read_text().startswith("system: starganv2")


def test_runs_of_two_systems(
    make_run: MakeRun, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.install(monkeypatch)
    config = load_config(assignments=["system=toy", "steps=1", "batch_size=4", "device=cpu"])
    train(config, tmp_path / "toy", quiet=True)
    settings = Page(report(make_run("one"), tmp_path / "toy")).tables["settings that differ"]
    rows = {row[0][0]: [cell for cell, _ in row[1:]] for row in settings[1:]}
    assert rows["system"] == ["starganv2", "toy"]
    assert rows["model.width"] == ["–", "4"] and rows["loss.cycle"] == ["4", "–"]
