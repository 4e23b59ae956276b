"""Does the training help other tasks? Classifiers of digits on HMU's content encoder. A section of docs/results.md.

    python benchmarks/features_study.py [--steps 1000] [--seeds 1 2 3 4 5]

For each seed HMU is trained on the digits, which takes neither labels nor pairs. Its content encoder is then compared
with fresh weights of the same seed: under a linear classifier alone, and with all layers trained; from 1, 10 and 100
labels of each digit and from unbalanced ones; with the same labels, steps and batches. Encoders that are trained are
kept in runs/features/ and gone on with; seeds that are measured are not measured again. The record is
benchmarks/results/features.json.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from features_page import RECORD, WAYS
from fine_tuning import made, trained
from publish import write_record
from results_page import ROOT, write_page
from torch import Tensor, nn

from m2o_fast.data.digits import load_digits
from m2o_fast.engine.build import build_translator, open_split
from m2o_fast.engine.config import load_config
from m2o_fast.engine.runs import load_translator
from m2o_fast.engine.schema import Config
from m2o_fast.randomness import torch_generator
from m2o_fast.translators.base import Translator

DIGITS = 10
UNBALANCED = (100, 60, 36, 22, 13, 8, 5, 3, 2, 1)  # labels of each digit
CASES: Mapping[str, tuple[int, ...]] = {
    **{f"{count} of each": (count,) * DIGITS for count in (1, 10, 100)},
    "unbalanced": UNBALANCED,
}
STEPS, BATCH, RATE = 300, 32, 1e-3  # of a classifier
PARTS = 4  # of a side: features are means over so many by so many parts

Digits = tuple[Tensor, Tensor]  # float [N, 1, S, S] in [-1, 1], and int64 [N]


def digits(split: str, size: int) -> Digits:
    """Gray digits as the encoder takes them."""
    images, labels = load_digits(split, size)
    return images.float() / 127.5 - 1, labels


def labelled(labels: Tensor, counts: tuple[int, ...], seed: int) -> Tensor:
    """Numbers of the images whose labels are known: so many of each digit, at random."""
    order = torch.randperm(len(labels), generator=torch_generator(seed, "known labels"))
    return torch.cat([order[labels[order] == digit][:count] for digit, count in enumerate(counts)])


def features_of(translator: Translator) -> Callable[[Tensor], Tensor]:
    """Images of the gray domain ``[N, 1, S, S]`` to features ``[N, C * PARTS^2]``."""
    gray = translator.domain_index("gray")

    def features(x: Tensor) -> Tensor:
        images = [
            x if k == gray else x.new_empty((0, d.channels, *x.shape[2:])) for k, d in enumerate(translator.domains)
        ]
        content: Tensor = translator.generator.encode(images)
        return F.adaptive_avg_pool2d(content, PARTS).flatten(1)

    return features


def accuracy(translator: Translator, known: Digits, test: Digits, seed: int, *, everything: bool) -> float:
    """Share of the test digits that a classifier tells, trained on the known ones.

    Args:
        translator: Whose encoder it has; its weights change with ``everything``.
        known: What is learned from.
        test: What it is measured on.
        seed: Of the order of the batches.
        everything: Whether the encoder is trained, too; else the linear layer alone.
    """
    features, (images, labels) = features_of(translator), known
    with torch.no_grad():
        fixed, seen = features(images), features(test[0])
    mean, deviation = fixed.mean(0), fixed.std(0) + 1e-3  # each feature counts alike, whatever the weights
    layer = nn.Linear(fixed.shape[1], DIGITS)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    encoder = list(translator.generator.parameters()) if everything else []
    optimizer = torch.optim.Adam([*encoder, *layer.parameters()], RATE)
    generator = torch_generator(seed, "batches of labels")
    for _ in range(STEPS):
        rows = torch.randint(len(labels), (BATCH,), generator=generator)
        given = features(images[rows]) if everything else fixed[rows]
        loss = F.cross_entropy(layer((given - mean) / deviation), labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        told = layer(((features(test[0]) if everything else seen) - mean) / deviation).argmax(1)
    return float((told == test[1]).float().mean())


def start(way: str, config: Config, folder: Path) -> Translator:
    """A translator with the weights that a way begins with."""
    if way.startswith("trained"):
        translator = load_translator(folder, "cpu")
    else:
        translator = build_translator(config, open_split(config, "train").domains)
    return translator.requires_grad_(way.endswith("all")).eval()


def measured(config: Config, folder: Path) -> list[dict[str, Any]]:
    """All classifiers of a seed, if that was not done before."""
    kept = folder / "features.json"
    if not kept.exists():
        size = config.data.image_size
        (images, labels), test = digits("train", size), digits("test", size)
        runs = []
        for case, counts in CASES.items():
            rows = labelled(labels, counts, config.seed)
            for way in WAYS:
                translator, begun = start(way, config, folder), time.process_time()
                known = images[rows], labels[rows]
                share = accuracy(translator, known, test, config.seed, everything=way.endswith("all"))
                facts = {"way": way, "labels": case, "seed": config.seed, "accuracy": round(share, 6)}
                runs.append({**facts, "processor_seconds": round(time.process_time() - begun, 2), **made(folder)})
                print(runs[-1], flush=True)
        write_record(kept, runs)
    found: list[dict[str, Any]] = json.loads(kept.read_text())
    return found


def main() -> None:
    """Trains what is missing, measures, and writes the record and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="of the training of an encoder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "features")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    common = {"variant": "hmu", "data.name": "digits", "steps": options.steps, "device": "cpu"}
    configs = [load_config(overrides=common | {"seed": seed}) for seed in options.seeds]
    runs = [run for config in configs for run in measured(config, trained(config, options.runs))]
    classifier = {"steps": STEPS, "batch_size": BATCH, "rate": RATE, "parts": PARTS, "unbalanced": UNBALANCED}
    settings = {"encoder": configs[0].model_dump(mode="json"), "classifier": classifier}
    write_record(RECORD, {"settings": settings, "runs": runs})
    write_page()


if __name__ == "__main__":
    main()
