"""Fewer steps to the same error: MNIST from fresh weights, and from those of digits. A section of docs/results.md.

    M2O_DATA_DIR=DIR python benchmarks/fine_tuning.py [--steps 400] [--every 25] [--seeds 1 2 3]

The digits are trained as by `make train`; MNIST by the same recipe, without and with `--init-from`, and validated every
few steps. Every run is one `m2o-fast train` in a process of its own with one thread, in a folder named after its
settings; runs that are measured are not trained again, others are gone on with. Figures and settings are kept in
benchmarks/results/fine-tuning.json, the plot in docs/fine-tuning.svg.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from publish import write_record
from results_page import BEGUN, FINE_TUNING, FRESH, ROOT, plot_fine_tuning, write_page
from trials import command, cost, made_by

from m2o_fast.engine.config import dump_config, load_config
from m2o_fast.engine.schema import Config

MEASURES = {"mse": "validation/color->gray/none/mse", "colors": "validation/gray->color/latent/pixel_color_recall"}

Run = dict[str, Any]


def main() -> None:
    """Runs what is missing, then writes the record, the plot and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=25, help="steps between two validations")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "fine-tuning")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    digits = load_config(overrides={"variant": "hms", "data.name": "digits"})
    weights = trained(digits, options.runs)
    # The recipe's average, over hundreds of steps, would still be that of the first weights.
    short = {"steps": options.steps, "validate_every": options.every, "optim.ema": 0.98, "device": "cpu"}
    short["model.fit_styles"] = False  # the error into gray needs none, and validations are many
    fresh = load_config(overrides={"variant": "hms", "data.name": "mnist", **short}, preset="digits")
    runs = []
    for seed in options.seeds:
        for start, values in ((FRESH, {}), (BEGUN, {"init_from": str(weights)})):
            config = fresh.with_values({"seed": seed, **values})
            runs.append({"start": start, "seed": seed, **measured(config, options.runs)})
    settings = {"digits": digits, "mnist": fresh}
    record = {
        "settings": {name: config.model_dump(mode="json") for name, config in settings.items()},
        "weights": made(weights),
        "runs": runs,
    }
    write_record(FINE_TUNING, record)
    plot_fine_tuning(record)
    write_page()


def trained(config: Config, runs: Path) -> Path:
    """The folder of a run that is trained, now or before; by what stands in it."""
    settings = dump_config(config)
    folder = runs / f"{config.data.name}-{config.seed}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
    if not (folder / "made.json").exists():
        runs.mkdir(parents=True, exist_ok=True)
        file = folder.with_suffix(".yaml")
        file.write_text(settings)
        command("train", "--config", str(file), "--run", str(folder), "--resume", "auto", "--quiet")
        write_record(folder / "made.json", made_by())
    return folder


def made(folder: Path) -> dict[str, str]:
    """Machine, torch and commit of a run."""
    found: dict[str, str] = json.loads((folder / "made.json").read_text())
    return found


def measured(config: Config, runs: Path) -> Run:
    """A run of MNIST: its validations, before the first step, too, where it begins with other weights; and its cost."""
    folder = trained(config, runs)
    found = folder / "fine-tuning.json"
    if not found.exists():
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        validations = [line for line in lines if MEASURES["mse"] in line]
        if config.init_from is not None:
            validations.insert(0, {"step": 0, **before_training(config)})
        curve = [{"step": line["step"], **{key: line[name] for key, name in MEASURES.items()}} for line in validations]
        write_record(found, {"validations": curve, "cost": cost(config.with_values({"init_from": None}))})
    return {**made(folder), **json.loads(found.read_text())}


def before_training(config: Config) -> dict[str, float]:
    """What a validation finds of the weights that a run begins with."""
    from m2o_fast.engine.build import open_split
    from m2o_fast.engine.runs import load_translator
    from m2o_fast.engine.validation import open_validation

    assert config.init_from is not None
    validation = open_validation(config, Path("nowhere"), open_split(config, "test"), 0)
    return validation.measure(load_translator(Path(config.init_from), "cpu"))


if __name__ == "__main__":
    main()
