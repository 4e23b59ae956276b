"""Whether Color Recall is right: it and the other measures of digits in colour, on generators of known law.

    python benchmarks/recall_study.py            # measures in some minutes of one core, then writes the page
    python benchmarks/recall_study.py --page     # only the page and its plots, from the results that are there

The generators (known_colors.py) colour the test digits, ten times each; what is measured, and how, is what `m2o-fast
eval` does. Bins and sample sizes are tried with colours alone. Figures are kept in
benchmarks/results/color-recall.json; a run that was ended early is gone on with from runs/color-recall.json, unless
something has changed since.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ablation import made_by
from known_colors import GENERATORS, RIGHT, Colors, Draws, Generator, draws, even_draws, in_one_color, right
from publish import RESULTS, ROOT, write_record
from recall_page import write_page
from scipy.stats import binom
from torch import Tensor

from m2o_fast.data.colorize import ColorizedDigits
from m2o_fast.data.digits import load_digits
from m2o_fast.engine.evaluation.extractor import open_features
from m2o_fast.engine.evaluation.measures import Colors as ColorMeasures
from m2o_fast.engine.evaluation.measures import Measure, Outputs, add_features
from m2o_fast.engine.evaluation.options import BINS, BITS, NEIGHBOURS, Options, images_at_once
from m2o_fast.engine.evaluation.progress import Meter
from m2o_fast.engine.evaluation.real import DomainImages, real_features
from m2o_fast.engine.evaluation.weightless import Colorfulness, RealPictures
from m2o_fast.engine.processes import Processes
from m2o_fast.metrics import (
    ColorStatistics,
    Extractor,
    FeatureBank,
    LookVariety,
    frechet_distance,
    precision_recall,
    variety_report,
)
from m2o_fast.ops import color_histogram, color_recall

RECORD = RESULTS / "color-recall.json"
UNFINISHED = ROOT / "runs" / "color-recall.json"
SEEDS = (1, 2, 3, 4, 5)
SIZE = 32  # pixels of a side
BATCH = images_at_once(SIZE**2, torch.device("cpu"))
OUTPUTS = Options().outputs_per_source
#: the laws that bins and sample sizes are tried with
TRIED = (RIGHT, "31 of 63 cells missing", "all channels +1/16", "spread x 0.75", "63 colours, one a cell")
BINS_TRIED = (2, 3, 4, 6, 8)
SIZES_TRIED = (100, 300, 1000, 3000, 10_000)
SAMPLES = 50  # of each size
EVERY = 2**20  # pictures that stand for all
DECIMALS = 6


# --- the measures, on pictures ----------------------------------------------------------------------------------------


class Real(NamedTuple):
    """What the pictures of a seed are compared with.

    Attributes:
        test: The digits that are coloured.
        colors: Of as many real pictures, and of others.
        pictures: What is told of real ones without weights.
        features: Of the training images.
    """

    test: ColorizedDigits
    colors: tuple[ColorStatistics, ColorStatistics]
    pictures: RealPictures
    features: FeatureBank


def real_of(seed: int, extractor: Extractor) -> Real:
    """Digits in colours of this seed."""
    test, train = (ColorizedDigits(*load_digits(split, SIZE), split=split, seed=seed) for split in ("test", "train"))
    sources = torch.arange(test.count("color"))
    domain = test.domains[test.domain_index("color")]
    samples = ColorStatistics(BINS, BITS), ColorStatistics(BINS, BITS)
    for epoch in range(2 * OUTPUTS):
        samples[epoch // OUTPUTS].update(test.images("color", sources, epoch), test.content(sources))
    pictures = RealPictures(domain, sources)
    pictures.look_at(test, range(len(sources)), torch.device("cpu"))
    images = DomainImages(train, domain, "train")
    return Real(test, samples, pictures, real_features(images, extractor, BATCH, Meter(show=False), Processes()))


def measured(generator: Generator, seed: int, real: Real, extractor: Extractor) -> dict[str, float]:
    """All measures of the pictures that a generator makes of the test digits."""
    sources = torch.arange(real.test.count("gray"))
    content = real.test.content(sources).repeat_interleave(OUTPUTS, dim=0)
    given = draws(real.test.labels, OUTPUTS, seed)
    pictures = generator.paint(content, generator.colors(given), given).unflatten(0, (len(sources), OUTPUTS))
    assert real.pictures.colors is not None
    measures: list[Measure] = [
        ColorMeasures(real.test.content, *real.colors),
        Colorfulness(real.pictures.colors, 2, OUTPUTS),
    ]
    for measure in measures:
        measure.update(Outputs(sources, sources, pictures * 2 - 1, pictures))
    found = {name: value for measure in measures for name, value in measure.values().items()}
    found |= variety_report(variety_of(pictures), real.pictures.variety)
    found |= from_features(pictures.flatten(0, 1), real.features, extractor)
    return {name: round(value, DECIMALS) for name, value in found.items()}


def variety_of(pictures: Tensor) -> LookVariety:
    """Variety by pixels; by structure takes as long as everything else, and is left out."""
    found = LookVariety()
    found.update(pictures)
    return found


def from_features(pictures: Tensor, real: FeatureBank, extractor: Extractor) -> dict[str, float]:
    """FID, precision and recall; KID, which takes as long as everything else, is left out."""
    bank = FeatureBank(real.size, real.keep, real.seed)
    add_features(bank, extractor, pictures, torch.arange(len(pictures)), BATCH)
    fid = frechet_distance(bank.mean(), bank.covariance(), real.mean(), real.covariance())
    precision, recall = precision_recall(bank.kept(), real.kept(), NEIGHBOURS)
    return {"fid_clean": fid, "precision": precision, "recall": recall}


# --- bins and sample sizes, on colours --------------------------------------------------------------------------------


def samples(size: int) -> Iterator[tuple[Draws, Draws, Draws]]:
    """Independent ones: of a generator, and of real pictures twice."""
    for seed in range(SAMPLES):
        given = draws(torch.zeros(3 * size, dtype=torch.int64), 1, seed)
        parts = zip(*(part.split(size) for part in given), strict=True)
        generated, real, other = (Draws(*part) for part in parts)
        yield generated, real, other


def recalls(size: int, bins: int) -> dict[str, dict[str, list[float]]]:
    """Law -> Color Recall and its ceiling in each sample."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in TRIED}
    for generated, real, other in samples(size):
        counted, ceiling = (color_histogram(right(given), bins) for given in (real, other))
        for name, values in found.items():
            made = color_histogram(GENERATORS[name].colors(generated), bins)
            values.setdefault("color_recall", []).append(float(color_recall(made, counted)))
            values.setdefault("color_recall_ceiling", []).append(float(color_recall(ceiling, counted)))
    return found


@functools.cache
def of_all(colors: Colors, bins: int) -> Tensor:
    """Shares of the cells among the colours of all pictures that there could be: float64 ``[cells]``."""
    return color_histogram(colors(even_draws(EVERY)), bins).double() / EVERY


def limit(generator: Generator, bins: int = BINS) -> float | None:
    """Color Recall of ever more pictures; ``None`` where they are not in one colour."""
    if generator.paint is not in_one_color:
        return None
    return round(float(color_recall(of_all(generator.colors, bins), of_all(right, bins))), DECIMALS)


def expected_recall(p: Tensor, q: Tensor, size: int) -> tuple[float, float]:
    """Mean and standard deviation of Color Recall, by theory.

    Of a cell with the counts X and Y, which are binomial, recall has ``min(X, Y) / size``, whose mean is the sum over
    k >= 1 of ``P(X >= k) P(Y >= k) / size``: that is exact. The deviation is that of many pictures in a cell. Recall is
    1 - sum |d| / 2, with d the difference of two counted shares; d is nearly normal then, so ``|d|`` has a folded
    normal distribution, whose covariance with that of another cell is that of the d times the mean signs of both.

    Args:
        p: Shares of the cells among generated colours, float64 ``[cells]``.
        q: Among real ones.
        size: Number of colours in each sample.
    """
    most = float(torch.maximum(p, q).max()) * size
    counts = np.arange(math.ceil(most + 12 * math.sqrt(most) + 12))  # more are not to be had
    reached = (binom.sf(counts, size, shares.numpy()[:, None]) for shares in (p, q))
    mean, variance = p - q, (p * (1 - p) + q * (1 - q)) / size
    ratio = mean / (2 * variance).sqrt().clamp(min=1e-300)
    sign = torch.erf(ratio)
    absolute = (2 * variance / math.pi).sqrt() * torch.exp(-ratio.square()) + mean * sign
    own = (variance + mean.square() - absolute.square()).sum()
    cross = sum((sign * share).square().sum() - (sign * share).sum().square() for share in (p, q)) / size
    return float(math.prod(reached).sum()) / size, math.sqrt(max(0.0, float(own + cross))) / 2


def tried(size: int, bins: int) -> Iterator[dict[str, Any]]:
    """A row for each law."""
    for name, values in recalls(size, bins).items():
        colors = GENERATORS[name].colors
        mean, deviation = expected_recall(of_all(colors, bins), of_all(right, bins), size)
        row: dict[str, Any] = {"generator": name, "bins": bins, "images": size, "limit": limit(GENERATORS[name], bins)}
        for measure, found in values.items():
            row |= {measure: statistics.mean(found), f"{measure}_deviation": statistics.stdev(found)}
        row |= {"color_recall_by_theory": mean, "color_recall_deviation_by_theory": deviation}
        yield {key: round(value, DECIMALS) if isinstance(value, float) else value for key, value in row.items()}


# --- the record -------------------------------------------------------------------------------------------------------


def about(extractor: Extractor) -> dict[str, Any]:
    """What the figures depend on."""
    code = b"".join(Path(__file__).with_name(name).read_bytes() for name in ("recall_study.py", "known_colors.py"))
    digits = ColorizedDigits(*load_digits("test", SIZE), split="test")
    return {
        **made_by(),
        "code_sha256": hashlib.sha256(code).hexdigest(),
        "data": "digits",
        "sources": digits.count("gray"),
        "outputs_per_source": OUTPUTS,
        "image_size": SIZE,
        "bins": BINS,
        "bits": BITS,
        "samples": SAMPLES,
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
    }


def opened(facts: dict[str, Any]) -> dict[str, Any]:
    """The record that was begun with the same facts, or a new one."""
    if UNFINISHED.exists():
        record: dict[str, Any] = json.loads(UNFINISHED.read_text())
        if record["about"] == facts:
            return record
    limits = {name: limit(generator) for name, generator in GENERATORS.items()}
    return {"about": facts, "processor_seconds": 0.0, "limits": limits, "generators": [], "tried": []}


def study(seeds: Sequence[int]) -> None:
    """Measures what is missing."""
    torch.set_num_threads(1)
    extractor = open_features(Options(), torch.device("cpu"), "digits")
    assert extractor is not None
    record = opened(about(extractor))
    UNFINISHED.parent.mkdir(exist_ok=True)

    def keep(part: str, rows: list[dict[str, Any]], begun: float) -> None:
        record[part] += rows
        record["processor_seconds"] = round(record["processor_seconds"] + time.process_time() - begun, 2)
        write_record(UNFINISHED, record)
        print(f"{record['processor_seconds']:.0f} s: {rows[-1]}", flush=True)

    done = {(row["generator"], row["seed"]) for row in record["generators"]}
    for seed in seeds:
        missing = [name for name in GENERATORS if (name, seed) not in done]
        begun = time.process_time()
        real = real_of(seed, extractor) if missing else None
        for name in missing:
            assert real is not None
            values = measured(GENERATORS[name], seed, real, extractor)
            keep("generators", [{"generator": name, "seed": seed, **values}], begun)
            begun = time.process_time()
    known = {(row["images"], row["bins"]) for row in record["tried"]}
    for size in SIZES_TRIED:
        for bins in BINS_TRIED:
            if (size, bins) not in known:
                begun = time.process_time()
                keep("tried", list(tried(size, bins)), begun)
    write_record(RECORD, record)
    UNFINISHED.unlink()


def main() -> None:
    """Measures, unless only the page is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    if not options.page:
        study(options.seeds)
    write_page(json.loads(RECORD.read_text()))


if __name__ == "__main__":
    main()
