"""Studies of settings: what is compared, what is read off the runs, and the sections that show it."""

from __future__ import annotations

import argparse
import itertools
import random
import sys

import numpy as np
import pytest
from source_tree import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import factorial
import studies
import study_page


def trial(study: str, row: str, *said: str) -> studies.Trial:
    return studies.trial_of(row, 3, argparse.Namespace(study=study, steps=7, set=list(said)))


def run_of(row: str, seed: int, mse: float, recall: float) -> dict:
    colored = {"color_recall": recall, "content_mse": mse, "fid_clean": 1.0}
    colored |= {"content_kept": recall}
    directions = {"color->gray": {"none": {"mse": mse}}, "gray->color": {"latent": colored}}
    if row.startswith(("palette", "one-hot")):
        scenes = {"latent": {"pixel_variety": recall, "pixel_color_recall": recall}}
        directions = {"scene->labels": {"none": {"pixel_accuracy": recall}}, "labels->scene": scenes}
    made = {"machine": "a", "torch": "b", "commit": "c", "protocol": {}}
    return {"row": row, "seed": seed, **made, "directions": directions, "cost": {"seconds_per_step": 3.6}}


def record_of(study: str, seeds: int = 2) -> dict:
    drawn = random.Random(0)
    rows = studies.STUDIES[study].rows
    runs = [run_of(row, seed, drawn.random(), drawn.random()) for row in rows for seed in range(1, 1 + seeds)]
    return {"study": study, "name": study, "said": [], "steps": 1000, "settings": {}, "runs": runs}


# --- effects ---


def test_effects_are_those_of_least_squares() -> None:
    """Of all 16 cells with as many seeds, as if the runs of equal ones were apart: values, not errors."""
    drawn = np.random.default_rng(0)
    measured = {row: drawn.normal(size=3) for row in dict.fromkeys(map(factorial.row_of, factorial.CELLS))}
    coded = np.array([[1 if on else -1 for on in cell] for cell in factorial.CELLS])
    subsets = [chosen for count in range(5) for chosen in itertools.combinations(range(4), count)]
    design = np.array([[row[list(chosen)].prod() for chosen in subsets] for row in coded]).repeat(3, 0)
    values = np.concatenate([measured[factorial.row_of(cell)] for cell in factorial.CELLS])
    fitted = 2 * np.linalg.lstsq(design.astype(float), values, rcond=None)[0][1:]
    found = factorial.effects(measured)
    assert [effect.value for effect in found] == pytest.approx(fitted.tolist())
    assert [effect.letters for effect in found[:6]] == ["L", "Z", "D", "S", "LZ", "LD"]


def test_an_error_is_that_of_many_draws() -> None:
    """Runs that stand for two cells are counted once."""
    drawn = np.random.default_rng(1)
    rows = dict.fromkeys(map(factorial.row_of, factorial.CELLS))
    found = [factorial.effects({row: drawn.normal(size=3) for row in rows}) for _ in range(200)]
    for at in range(15):
        values = [effects[at].value for effects in found]
        squares = [effects[at].error ** 2 for effects in found]
        assert np.mean(squares) == pytest.approx(np.var(values), rel=0.35)
        told = np.mean([abs(effects[at].value) > effects[at].half_width for effects in found])
        assert told == pytest.approx(0.05, abs=0.05)


def test_both_cells_of_a_domain_without_style_are_one_row() -> None:
    rows = [factorial.row_of(cell) for cell in factorial.CELLS]
    assert len(set(rows)) == 12 and all("D" in row for row in rows if "Z" in row)
    assert {"none", "LZDS", "LZD", "DS"} < set(rows)


# --- what is trained ---


def test_the_cells_differ_in_the_rules_alone() -> None:
    configs = {row: trial("factorial", row).config for row in studies.STUDIES["factorial"].rows}
    for letters, config in configs.items():
        rules = config.rules
        assert (rules.domain_layers == "stem", rules.zero_style, rules.supervised_weight > 0) == tuple(
            letter in letters for letter in "LZS"
        )
        assert rules.diversity_on_multimodal_only == ("D" in letters) and config.model.style_op == "adain"
        same = {"variant": "hms", "model.domain_layers": None, "model.zero_style": None, "loss.diversity_to": None}
        assert config.with_values(same) == configs["LZDS"].with_values(same)


def test_rows_of_other_studies_say_what_they_are() -> None:
    shares = {row: trial("pairs", row).config for row in studies.STUDIES["pairs"].rows}
    assert {row: (config.variant, config.data.pair_fraction) for row, config in shares.items()} == {
        "0": ("hmu", 1), "0.01": ("hms", 0.01), "0.05": ("hms", 0.05), "0.25": ("hms", 0.25), "1": ("hms", 1),
    }  # fmt: skip
    layers = [trial("layers", row).config.rules.domain_layers for row in studies.STUDIES["layers"].rows]
    assert layers == [None, "adapter", "stem", "block"]
    said = trial("layers", "block", "loss.r1=0.5")
    assert (said.config.loss.r1, said.config.seed, said.config.steps) == (0.5, 3, 7)


def test_the_domains_differ_in_their_code_alone() -> None:
    with_code, without = (trial("domains", row).config for row in studies.STUDIES["domains"].rows)
    assert (with_code.model.domain_code, without.model.domain_code) == (True, False)
    assert with_code.with_values({"model.domain_code": False}) == without
    assert (with_code.data.folders, with_code.data.uni) == (("runs/drawn/domains",), ("gray", "edges"))


def test_label_maps_of_all_kinds() -> None:
    rows = {row: trial("labels", row).config for row in studies.STUDIES["labels"].rows}
    said = {
        row: (config.data.labels, config.loss.of_labels, config.loss.supervised, config.model.downsamplings)
        for row, config in rows.items()
    }
    fast = ("onehot", "cross_entropy", 3, None)
    assert list(said.values()) == [
        ("palette", "cross_entropy", 30, None), ("onehot", "absolute", 30, None), fast,
        ("palette", "cross_entropy", 30, 0), ("onehot", "cross_entropy", 3, 0), fast,
    ]  # fmt: skip
    assert [config.model.base_width for config in rows.values()] == [16, 16, 16, 16, 16, 32]


def test_settings_for_all_rows_need_a_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["studies.py", "pairs", "--set", "loss.r1=1"])
    with pytest.raises(SystemExit) as ended:
        studies.main()
    assert ended.value.code == 2 and "name it with --as" in capsys.readouterr().err


# --- what is shown ---


@pytest.mark.parametrize("study", studies.STUDIES)
def test_a_section_says_how_to_run_it_again(study: str) -> None:
    lines = study_page.section(record_of(study))
    assert ": 1,000 steps, seeds 1, 2" in lines[0]
    runs = 2 * len(studies.STUDIES[study].rows)
    assert f"`python benchmarks/studies.py {study} --steps 1000 --seeds 1 2`" in lines[1]
    assert f"{runs} runs, whose steps take {runs:.1f} core-hours" in lines[1]
    named = record_of(study) | {"name": f"{study}-sharp"}
    assert f"{study} --steps 1000 --seeds 1 2 --as sharp`" in study_page.section(named)[1]
    said = named | {"said": ["data.uni=[a, b]"]}
    assert f"{study} --steps 1000 --seeds 1 2 --set 'data.uni=[a, b]' --as sharp`" in study_page.section(said)[1]


def test_what_is_told_from_chance_is_said() -> None:
    record = record_of("factorial")
    for run in record["runs"]:
        value = 0.5 + 0.001 * run["seed"] - (0.2 if "S" in run["row"] else 0)
        run["directions"]["color->gray"]["none"]["mse"] = value
    lines = study_page.section(record)
    assert any(line.startswith("| S | **-0.20000** | 0.0") for line in lines)
    assert "\nMSE, color to gray: supervised -0.20000." in lines
    one = study_page.section(record_of("factorial", seeds=1))
    assert "two seeds" in one[-2]


def test_the_share_of_what_all_pairs_bring() -> None:
    errors = {"0": 0.5, "0.01": 0.5, "0.05": 0.4, "0.25": 0.2, "1": 0.1}
    rows = {row: [run_of(row, 1, error, 0.5)] for row, error in errors.items()}
    assert study_page.gap_to_all(rows) == [
        "\nOf what all pairs take off the error: 1% of the pairs bring 0%, 5% of the pairs bring 25%, 25% of the pairs "
        "bring 75%."
    ]
    rows["1"] = [run_of("1", 1, 0.75, 0.5)]
    assert "bring nothing" in study_page.gap_to_all(rows)[0]


def test_every_direction_has_its_measures() -> None:
    rows = {row: [run_of(row, 1, error, 0.5)] for row, error in (("code", 0.25), ("no code", 0.5))}
    assert study_page.by_direction(rows) == [
        "| direction | measure | code | no code |",
        "|---|---|---|---|",
        "| color to gray | MSE | 0.25000 | 0.50000 |",
        "| gray to color | content kept | 0.500 | 0.500 |",
    ]
    assert study_page.what_the_code_brings(rows) == ["\nMSE with the code over that without: color to gray 0.50."]


def test_accuracy_is_compared_with_the_row_that_has_one_thing_less() -> None:
    accuracy = {"palette": 0.5, "one-hot": 0.6, "one-hot, entropy": 0.8, "one-hot, entropy, fine": 0.9, "other": 0.4}
    measured = {
        row: [{"directions": {"scene->labels": {"none": {"pixel_accuracy": value}}}}] for row, value in accuracy.items()
    }
    assert study_page.what_raises_accuracy(measured) == [
        "\nPixel accuracy: one-hot +0.100 (from palette); one-hot, entropy +0.200 (from one-hot); one-hot, entropy, "
        "fine +0.100 (from one-hot, entropy); other -0.100 (from palette)."
    ]


@pytest.mark.parametrize("study", [name for name in studies.STUDIES if study_page.PAGES[name].plot])
def test_plots_are_drawn(study: str, tmp_path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    study_page.draw(record_of(study), tmp_path / "plots")
    assert (tmp_path / "plots" / f"{study}.svg").stat().st_size > 5000
