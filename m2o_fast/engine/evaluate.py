"""Evaluation: of a run on its test split, or of images that were made elsewhere. One pass, and the images are gone.

Together with a launcher's other processes, if there are any: each takes a share of the images, the leading one reports.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from m2o_fast.data import Dataset
from m2o_fast.data.one_look import one_look
from m2o_fast.engine.build import is_own_data, named_domains, open_split
from m2o_fast.engine.checkpoint import MANIFEST, load_translator, read_manifest
from m2o_fast.engine.config import load_config
from m2o_fast.engine.device import choose_device
from m2o_fast.engine.evaluation.extractor import MISSING, features_protocol, open_features, own_of_data
from m2o_fast.engine.evaluation.options import BINS, BITS, SEED, Options
from m2o_fast.engine.evaluation.progress import Meter
from m2o_fast.engine.evaluation.report import (
    FORMAT,
    evaluation_file,
    finite,
    holds_whole,
    is_whole,
    means,
    write_evaluation,
)
from m2o_fast.engine.evaluation.translations import Evaluation, Found
from m2o_fast.engine.evaluation.weightless import STRUCTURE_PAIRS
from m2o_fast.engine.processes import joined_processes
from m2o_fast.engine.runs import CONFIG, find_checkpoint, is_run, run_of, warn_of_damage
from m2o_fast.engine.schema import Config
from m2o_fast.errors import UserError
from m2o_fast.metrics.diversity import Lpips, open_lpips
from m2o_fast.metrics.features import Extractor
from m2o_fast.metrics.pixel_colors import BINS as PIXEL_BINS
from m2o_fast.metrics.pixel_colors import SIDE as PIXEL_SIDE
from m2o_fast.translators.base import Translator


def evaluate_run(
    run: str | Path | None = None,
    options: Options | None = None,
    *,
    checkpoint: str | None = None,
    data: str | Sequence[str] | None = None,
    data_dir: str | Sequence[str] | None = None,
    uni: tuple[str, ...] = (),
    verify: bool = False,
    device: str = "auto",
    quiet: bool = True,
) -> dict[str, Any]:
    """Measures a run on its test split and keeps the result in ``RUN/evaluation/step-XXXXXXXX.json``.

    Args:
        run: Run folder or checkpoint folder; ``None``: the newest run below ``runs/``.
        options: What to measure.
        checkpoint: Name of a checkpoint of the run; ``None``: its newest good one.
        data: Other data than the run's, such as ``"folder:DIR"``, of the same domains; the result is not kept then.
            Several folders are several data sets.
        data_dir: Folder of the data set, or of each, in place of the run's. Where it holds other test images than those
            that the run was begun with, the result is not kept.
        uni: With ``data`` of own folders: the uni-modal domains.
        verify: Read all image files again, whatever their dates say.
        device: Where to compute.
        quiet: Show no progress.

    Returns:
        JSON values, see docs/metrics.md; in other processes than the leading one an empty object.

    Raises:
        UserError: No such run or checkpoint, a damaged one, data of other domains, an extractor that cannot be opened,
            or translations that are not finite.
    """
    options = options or Options()
    with joined_processes() as processes:
        meter = Meter(show=processes.leads and not quiet)
        with processes.in_turn():
            # Others take what the leading process found: a new checkpoint may appear in between.
            chosen = _choose(run, checkpoint) if processes.leads else None
        folder = Path(processes.tell({"folder": str(chosen)} if processes.leads else None)["folder"])
        with processes.in_turn(), one_look():
            given = _Given(data, data_dir, uni, verify)
            subject = _open_subject(folder, options, given, choose_device(device, processes), meter)
        evaluation = Evaluation(
            subject.translator,
            subject.test,
            partial(_open_data, subject.config, "train", data_dir, meter.say),
            options,
            extractor=subject.extractor,
            lpips=subject.lpips,
            meter=meter,
            processes=processes,
        )
        found = evaluation.run()
        if not processes.leads:
            return {}
        report = _report(subject, found, evaluation, options)
        if subject.kept:
            _keep(report, evaluation_file(Path(report["run"]), report["step"]), meter)
        elif subject.foreign:
            places = data_dir if isinstance(data_dir, str) else " and ".join(data_dir or ())
            meter.say(f"not written: other images in {places} than those that {report['run']} was begun with")
        return report


class _Given(NamedTuple):
    """What is said of the data, in place of what the run says."""

    data: str | Sequence[str] | None
    data_dir: str | Sequence[str] | None
    uni: tuple[str, ...]
    verify: bool


@dataclass(frozen=True)
class _Subject:
    """What is evaluated: a checkpoint, and everything it is measured with."""

    name: str
    step: int
    kept: bool  # whether the evaluation is the run's own
    foreign: bool  # whether it is of other images in the place of the run's
    config: Config
    translator: Translator
    test: Dataset
    extractor: Extractor | None
    lpips: Lpips | None


def _choose(run: str | Path | None, checkpoint: str | None) -> Path:
    path = None if run is None else Path(run)
    if path is not None and path.is_dir() and not is_run(path) and not (path / MANIFEST).is_file():
        raise UserError(
            f"{path} is neither a run (no {CONFIG}) nor a checkpoint (no {MANIFEST}); a folder of images is compared "
            "with others by --real DIR or --truth DIR"
        )
    folder, _, problems = find_checkpoint(path, checkpoint)
    warn_of_damage(problems, folder)
    return folder


def _open_subject(folder: Path, options: Options, given: _Given, device: torch.device, meter: Meter) -> _Subject:
    data, data_dir, uni, verify = given
    manifest = read_manifest(folder)
    translator = load_translator(folder, manifest).to(device)
    run = run_of(folder)
    if run is None and data is None:
        raise UserError(
            f"{folder} belongs to no run: there is no {folder.absolute().parent.parent / CONFIG}; "
            "say with --data what it is measured on"
        )
    values = {} if data is None else {"data.name": data, "data.uni": uni, "data.image_size": translator.image_size}
    values |= {"data.verify": True} if verify else {}
    of = {"system": manifest["translator"]["system"]} if run is None else {}
    config = load_config(None if run is None else run / CONFIG, of | values)
    test = _open_data(config, "test", data_dir, meter.say)
    _require_fit(translator, test, data or config.data.name)
    of_run = run is not None and data is None
    own_data = run is not None and data is None and is_own_data(run, manifest, config, data_dir)
    return _Subject(
        str(run or folder),
        manifest["step"],
        own_data,
        of_run and not own_data,
        config,
        translator,
        test,
        open_features(
            options,
            device,
            config.data.name,
            data_dir if isinstance(data_dir, str) else config.data.dir,
            partial(own_of_data, partial(_open_data, config, "train", data_dir, meter.say), meter.say),
        ),
        None if options.lpips is None else open_lpips(options.lpips, device=device, download=options.download),
    )


def _open_data(config: Config, split: str, data_dir: str | Sequence[str] | None, say: Callable[[str], None]) -> Dataset:
    """A split in which every pair that there is counts as known: how few a run learned from is no matter here."""
    data = config.data.model_copy(update={"pair_fraction": 1.0})
    return open_split(config.model_copy(update={"data": data}), split, data_dir, say)


def _require_fit(translator: Translator, dataset: Dataset, data: str | Sequence[str]) -> None:
    """Raises ``UserError`` where the data set has other domains than the translator, their order aside."""
    try:
        found = translator.rules.resolve(dataset.domains)
    except ValueError:  # these rules do not even allow such domains
        found = dataset.domains
    if set(found) != set(translator.domains):
        raise UserError(
            f"the run translates between {named_domains(translator.domains)}, but data {data!r} holds "
            f"{named_domains(found)}; evaluate it on the domains that it was trained on"
        )


def _report(subject: _Subject, found: Found, evaluation: Evaluation, options: Options) -> dict[str, Any]:
    notes = [] if subject.extractor else [MISSING]
    translator = subject.translator
    styled = any(translator.has_style(b) and translator.domains[b].multimodal for _, b in translator.directions())
    if subject.lpips and options.outputs_per_source < 2:
        notes.append("no lpips_diversity: it compares outputs of one source, --outputs-per-source 2 or more")
    elif subject.lpips and not styled:
        notes.append("no lpips_diversity: it compares outputs of one source, and without styles there is one of each")
    directions = {
        direction: {
            guidance: finite(measures, f"{direction}, {guidance}", notes) for guidance, measures in guidances.items()
        }
        for direction, guidances in found.directions.items()
    }
    measured = {name for guidances in directions.values() for measures in guidances.values() for name in measures}
    used = {guidance for guidances in directions.values() for guidance in guidances}
    sources = {domain.name: len(evaluation.sources(k)) for k, domain in enumerate(subject.translator.domains)}
    protocol = {
        "data": subject.config.data.name,
        "data_fingerprint": subject.test.fingerprint,
        "data_seed": subject.config.seed,
        "split": "test",
        "image_size": subject.translator.image_size,
        "sources": _one_or_each(sources),
        "sources_available": _one_or_each({name: subject.test.count(name) for name in sources}),
        "outputs_per_source": options.outputs_per_source if styled else 1,
        "range": "[0, 1]",
        "weights": "EMA" if translator.averaged_groups() else "of the step",
        "style_seed": SEED,
    }
    if "reference" in used:
        protocol["references"] = "test images of the target domain, shuffled anew for each output"
    if "color_recall" in measured:
        protocol |= {"bins_per_channel": BINS, "bits_per_channel": BITS}
    if "pixel_color_recall" in measured:
        protocol |= {"pixel_color_bins_per_channel": PIXEL_BINS, "pixel_color_size": PIXEL_SIDE}
    if "structure_variety" in measured:
        protocol["structure"] = f"MS-SSIM, at most {STRUCTURE_PAIRS} pairs"
    if subject.extractor:
        protocol |= features_protocol(subject.extractor, "train images of the target domain")
        protocol["real_images"] = _one_or_each(evaluation.real_images)
    if subject.lpips:
        protocol |= {"lpips": "AlexNet, version 0.1", "lpips_sha256": ", ".join(subject.lpips.sha256)}
    return {
        "format": FORMAT,
        "run": subject.name,
        "step": subject.step,
        "directions": directions,
        "means": means(directions),
        "details": found.details,
        "protocol": protocol,
        "cost": {
            "function_evaluations": _one_or_each(evaluation.evaluations()),
            "images_per_second": evaluation.images_per_second(),
        },
        "warnings": [*notes, *found.warnings, *(subject.extractor.warnings if subject.extractor else ())],
    }


def _one_or_each(counts: Mapping[str, int]) -> int | str:
    """The number that all have, or each of them."""
    if len(set(counts.values())) == 1:
        return next(iter(counts.values()))
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _keep(report: Mapping[str, Any], path: Path, meter: Meter) -> None:
    if holds_whole(path) and not is_whole(report):  # a quick look shall not cost a long evaluation
        meter.say(f"not written: {path} is of all sources")
        return
    try:
        write_evaluation(report, path)
        meter.say(f"written to {path}")
    except OSError as error:
        warnings.warn(f"{path}: {error.strerror or error}; the evaluation was not kept", RuntimeWarning, stacklevel=3)
