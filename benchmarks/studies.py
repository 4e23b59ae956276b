"""Studies of settings of StarGAN v2's variants: rows of settings x seeds, trained and measured; a section of
docs/results.md each.

    python benchmarks/studies.py factorial    # four rules, each on and off: what do layers do, what do losses do?
    python benchmarks/studies.py layers       # where the layers of a domain sit
    python benchmarks/studies.py pairs        # how many pairs HMS needs
    python benchmarks/studies.py domains      # two uni-modal and two multi-modal domains, with a code and without
    python benchmarks/studies.py labels       # label maps: palette or one-hot, and what bounds their accuracy
    ... [--steps N] [--seeds 1 2 3] [--jobs 1] [--set KEY=VALUE] [--as NAME]

A study that was stopped is gone on with by the same line: see trials.py. Figures and settings are kept in
benchmarks/results/study-<name>.json, plots in docs/studies/. `--set` changes a setting of all rows; `--as NAME` keeps
the study beside the one without, under its name and NAME. Data that is drawn (drawn_sets.py) lies in runs/drawn/, and
is drawn once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from drawn_sets import drawn
from factorial import CELLS, NONE, row_of
from publish import write_record
from results_page import RESULTS, ROOT, write_page
from study_page import PLOTS, draw
from trials import Trial, recorded, trained

from m2o_fast.engine.config import load_config

Values = Mapping[str, Any]  # of settings, by dotted key


class Study(NamedTuple):
    """What is trained, but for the seeds.

    Attributes:
        rows: Name of a row -> what it has otherwise than the others.
        common: What all rows have otherwise than their recipe.
        steps: Of each run, where nobody says another number.
        preset: The recipe; ``None``: that of the data.
        drawn: What kind of data is drawn before.
    """

    rows: Mapping[str, Values]
    common: Values
    steps: int
    preset: str | None = None
    drawn: str | None = None


def of_rules(letters: str) -> dict[str, Any]:
    """The settings of a row of the factorial."""
    return {
        "variant": "hms" if "S" in letters else "hmu",
        "model.domain_layers": "stem" if "L" in letters else "shared",
        "model.zero_style": "Z" in letters,
        "loss.diversity_to": "multi_modal" if "D" in letters else "all",
    }


def with_pairs(share: float) -> dict[str, Any]:
    """HMS with some of the pairs; with none it is HMU."""
    return {"variant": "hms", "data.pair_fraction": share} if share else {"variant": "hmu"}


DRAWN = "runs/drawn"  # from the root of the checkout, for records name it
HMS = {"variant": "hms"}
#: the nets as published for all cells, with the losses that were found with them (docs/recipe.md): the recipe of plain
ADAIN = {
    **{"model.style_op": "adain", "model.style_dim": 4, "model.latent_dim": 16, "model.fit_styles": False},
    **{"loss.r1": 1, "loss.cycle": 1, "loss.diversity": 1, "loss.style": 0.3, "loss.supervised": 1},
}
DIGITS = {"data.name": "digits"}
ONE_HOT, ENTROPY = {"data.labels": "onehot"}, {"loss.supervised": 3}  # docs/recipe.md
FINE = {"model.downsamplings": 0}  # no image is halved, so nothing is lost that skips would bring back
STUDIES = {
    "factorial": Study({row: of_rules("" if row == NONE else row) for row in map(row_of, CELLS)}, DIGITS | ADAIN, 800),
    "layers": Study(
        {layers: {"model.domain_layers": layers} for layers in ("shared", "adapter", "stem", "block")},
        DIGITS | HMS,
        1000,
    ),
    "pairs": Study({f"{share:g}": with_pairs(share) for share in (0, 0.01, 0.05, 0.25, 1)}, DIGITS, 1000),
    "domains": Study(
        {"code": {"model.domain_code": True}, "no code": {"model.domain_code": False}},
        # a batch has each of the 16 directions once
        HMS | {"data.name": f"folder:{DRAWN}/domains", "data.uni": ["gray", "edges"], "batch_size": 16},
        1500,
        preset="digits",
        drawn="domains",
    ),
    "labels": Study(
        {
            "palette": {},
            "one-hot": ONE_HOT | {"loss.of_labels": "absolute"},
            "one-hot, cross-entropy": ONE_HOT | ENTROPY,
            "palette, content 32x32": FINE,
            "one-hot, cross-entropy, content 32x32": ONE_HOT | ENTROPY | FINE,
            "one-hot, cross-entropy, twice as wide": ONE_HOT
            | ENTROPY
            | {"model.base_width": 32, "model.max_width": 64},
        },
        HMS | {"data.name": f"ade20k:{DRAWN}/scenes"},
        1000,
        preset="ade20k-tiny",
        drawn="scenes",
    ),
}


def main() -> None:
    """Runs what is missing, then writes the record, the plots and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all rows")
    parser.add_argument("--as", dest="name", help="keep it under this further name")
    options = parser.parse_args()
    if options.set and not options.name:
        parser.error("--set makes another study of it; name it with --as")
    study = STUDIES[options.study]
    os.chdir(ROOT)
    if study.drawn is not None:
        drawn(study.drawn, Path(DRAWN) / study.drawn)
    options.steps = options.steps or study.steps
    options.name = "-".join([options.study, *filter(None, [options.name])])
    file = RESULTS / f"study-{options.name}.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    runs = [(row, seed) for seed in options.seeds for row in study.rows]
    # A process for each run: its processor time is its own.
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        results = list(pool.map(partial(measure, options=options, known=known), runs))
    first = {row: trial_of(row, options.seeds[0], options).config.model_dump(mode="json") for row in study.rows}
    record = {"study": options.study, "name": options.name, "said": options.set, "steps": options.steps}
    record |= {"settings": first, "runs": results}
    write_record(file, record)
    draw(record, PLOTS)
    write_page()


def trial_of(row: str, seed: int, options: argparse.Namespace) -> Trial:
    """A run of a study."""
    study = STUDIES[options.study]
    machine = {"steps": options.steps, "threads": 1, "device": "cpu", "seed": seed}
    config = load_config(None, {**study.common, **study.rows[row], **machine}, options.set, study.preset)
    return Trial(row, {"row": row, "seed": seed}, config)


def measure(run: tuple[str, int], options: argparse.Namespace, known: dict[str, Any]) -> dict[str, Any]:
    """One run, trained (or gone on with) and evaluated, if that was not done before."""
    os.environ["OMP_NUM_THREADS"] = "1"
    trial = trial_of(*run, options)
    name = re.sub(r"[^A-Za-z0-9]+", "-", "-".join(map(str, run)))
    result = recorded(trial, known) or trained(trial, ROOT / "runs" / "studies" / options.name, name)
    print(f"{trial.row}, seed {trial.config.seed}: {result['directions']}, {result['cost']}", flush=True)
    return result


if __name__ == "__main__":
    main()
