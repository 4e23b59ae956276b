"""Evaluation of images that were made elsewhere. One pass, and the images are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from m2o_fast.data.fit import Fit
from m2o_fast.data.images import about_range
from m2o_fast.engine.device import choose_device
from m2o_fast.engine.evaluation.extractor import NO_REAL, features_protocol, open_features, own_of_images
from m2o_fast.engine.evaluation.images import FolderImages, Images, open_images, paired, require_one_size
from m2o_fast.engine.evaluation.measures import Features, Measure, Outputs, TrueImages, Value, merge
from m2o_fast.engine.evaluation.options import NO_EXTRACTOR, Options
from m2o_fast.engine.evaluation.progress import Meter
from m2o_fast.engine.evaluation.real import real_features
from m2o_fast.engine.evaluation.report import FORMAT, finite
from m2o_fast.engine.processes import Processes, joined_processes
from m2o_fast.errors import UserError
from m2o_fast.metrics import Extractor


def evaluate_images(
    images: str | Path | Tensor,
    *,
    real: str | Path | Tensor | None = None,
    truth: str | Path | Tensor | None = None,
    size: int | None = None,
    fit: Fit = "stretch",
    options: Options | None = None,
    device: str = "auto",
    quiet: bool = True,
) -> dict[str, Any]:
    """Measures images against real ones, against true ones, or both.

    Args:
        images: A folder of image files, or a tensor ``[N, 1 or 3, S, S]``, floating point in [0, 1] or uint8.
        real: The same of real images, any number: FID, KID, precision and recall are measured, which takes
            ``options.extractor``.
        truth: The same of true images, each of which is what the image of the same name (in a tensor: of the same
            number) should be: ``mse``, ``psnr`` and ``ssim`` are measured.
        size: Side length that image files are brought to; ``None``: they must be of one size.
        fit: With ``size``: what becomes of files that are not square, as ``data.fit`` says it for training.
        options: What to measure with: the extractor, ``fid``, ``download`` and ``batch_size``.
        device: Where to compute features.
        quiet: Show no progress.

    Returns:
        JSON values ``{"format", "images", "measures", "details", "protocol", "warnings"}``, see docs/metrics.md; in
        other processes than the leading one an empty object.

    Raises:
        UserError: Nothing to compare with, an unknown ``fit`` or one without ``size``, no extractor for real images,
            images that cannot be read, are not finite or of several sizes, or true images that do not pair with the
            images; names the first five.
    """
    options = options or Options()
    if real is None and truth is None:
        name = images if isinstance(images, str | Path) else "images"
        raise UserError(
            f"{name}: there is nothing to compare them with; give real images (--real), true images (--truth), or a "
            "run to evaluate"
        )
    if real is not None and (options.extractor or NO_EXTRACTOR) == NO_EXTRACTOR:
        raise UserError(
            "real images are compared by features: choose --extractor inception:FILE, own, or digits-cnn for coloured "
            "digits"
        )
    if fit not in get_args(Fit):
        raise UserError(f"unknown --fit {fit!r}; choose from {', '.join(get_args(Fit))}")
    if fit != "stretch" and size is None:
        raise UserError(f"--fit {fit} says how image files are brought to one size; give it too, --size S")
    with joined_processes() as processes:
        where, meter = choose_device(device, processes), Meter(show=processes.leads and not quiet)
        with processes.in_turn():
            sets = {
                name: open_images(where_from, name, size, fit)
                for name, where_from in (("images", images), ("truth", truth), ("real", real))
                if where_from is not None
            }
            partners = paired(sets["images"], sets["truth"]) if "truth" in sets else []
            if "real" in sets:
                require_one_size(sets["images"], sets["real"])
            for given in sets.values():
                if isinstance(given, FolderImages):
                    meter.say(given.used())
            extractor = None
            if "real" in sets:
                own = partial(own_of_images, sets["real"], sets["real"].size, meter.say)
                extractor = open_features(options, where, own=own)
        with torch.inference_mode():
            measures, largest = _measure_images(sets, partners, extractor, options, where, meter, processes)
        return _images_report(sets, measures, largest, extractor, fit) if processes.leads else {}


def _measure_images(
    sets: Mapping[str, Images],
    partners: Sequence[int],
    extractor: Extractor | None,
    options: Options,
    device: torch.device,
    meter: Meter,
    processes: Processes,
) -> tuple[list[Measure], int]:
    """The measures, and the largest value of all images, of 255."""
    images, batch = sets["images"], options.batch(sets["images"].size, device)
    measures: list[Measure] = []
    if "truth" in sets:
        measures.append(TrueImages(partial(_true_images, sets["truth"], partners)))
    if extractor is not None:
        bank = real_features(sets["real"], extractor, batch, meter, processes)
        measures.append(Features(extractor, bank, options.fid, batch))
    share = processes.share(images.count)
    largest = 0.0
    meter.expect(len(share))
    with meter.stage(images.name, len(share)) as advance:
        for start in range(share.start, share.stop, batch):
            numbers = torch.arange(start, min(start + batch, share.stop))
            read = images.read(range(start, start + len(numbers)))[:, None]
            largest = max(largest, float(read.max()))
            for measure in measures:
                measure.update(Outputs(numbers, numbers, read, read))
            advance(len(numbers))
    for measure in measures:
        merge(measure, processes)
    return measures, processes.agree_on_largest(round(largest * 255))


def _true_images(truth: Images, partners: Sequence[int], indices: Tensor) -> tuple[Tensor, Tensor]:
    read = [truth.read(range(number, number + 1)) for number in (partners[index] for index in indices.tolist())]
    return torch.cat(read), torch.ones(len(indices), dtype=torch.bool)


def _images_report(
    sets: Mapping[str, Images], measures: Sequence[Measure], largest: int, extractor: Extractor | None, fit: Fit
) -> dict[str, Any]:
    images, notes = sets["images"], [] if extractor else [NO_REAL]
    if sentence := about_range(largest):
        notes.append(f"{images.name}: {sentence}")
    values: dict[str, Value] = {}
    details: dict[str, Any] = {}
    for measure in measures:
        values |= finite(measure.values(), "images", notes)
        details |= measure.details()
        notes += measure.warnings()
    if isinstance(images, FolderImages):
        for entry in details.get("worst", []):
            entry["file"] = images.paths[entry["index"]].name
    protocol = {"images": images.count, "image_size": images.size, "range": "[0, 1]"}
    if fit != "stretch":
        protocol["fit"] = fit
    if extractor is not None:
        protocol |= features_protocol(extractor, sets["real"].name) | {"real_images": sets["real"].count}
    return {
        "format": FORMAT,
        "images": images.name,
        "measures": values,
        "details": details,
        "protocol": protocol,
        "warnings": notes,
    }
