"""What decides over the colours of StarGAN v2's many-to-one variants: trainings on digits, measured as they go on.

    python benchmarks/color_causes.py [--arms NAME ...] [--seeds 2 3] [--at-most STEPS]
    python benchmarks/color_causes.py --page     # only docs/colors.md and its plots, from the results that are there

Each arm (color_arms.py) is trained in a folder of its own; one that was ended early is gone on with, and so is its
measuring. Figures are kept in benchmarks/results/color-causes.json, those of earlier runs, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from color_arms import ARMS, WHOLE, Arm
from color_page import RECORD, write_page
from publish import ROOT, write_record
from torch import Tensor
from trials import made_by

from m2o_fast.data.colorize import draw_colors
from m2o_fast.data.digits import load_digits
from m2o_fast.engine.checkpoint import AVERAGED, NETS, checkpoint_folder, list_checkpoints, read_manifest, read_tensors
from m2o_fast.losses import absolute_error, adversarial
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.ops import color_histogram, color_recall, foreground_color
from m2o_fast.randomness import numpy_generator
from m2o_fast.translators import create
from m2o_fast.translators.base import schedule_to_zero
from m2o_fast.translators.starganv2.nets import MappingNetwork
from m2o_fast.translators.starganv2.settings import Size
from m2o_fast.translators.starganv2.translator import StarGANv2

BINS = 4
#: how often each cell should come: all alike, but no dark corner
LAW = torch.tensor([0.0] + [1.0] * (BINS**3 - 1))
STYLES = 10  # of each digit
EVERY, SOON = 100, 500  # steps between measurements, until there are so many; then these
OF_A_CELL = 16  # flat-coloured digits
BATCHES, BATCH = 8, 8  # of gray digits, whose gradients are compared
WINDOWS = (20, 100, 200, 400, 600, 800)  # steps
SWING = 100  # last steps, whose raw weights are looked at one by one
LENGTHS, WIDTHS = ((16, 512), (64, 512), (256, 512)), ((64, 64), (64, 128), (64, 256))
DRAWS, FRESH, DIRECTIONS = 20_000, 6, 8  # latents; mapping networks; of the styles of each
GAIN = 0.814  # what makes tanh of a normal number most even


# --- colours ----------------------------------------------------------------------------------------------------------


class Digits(NamedTuple):
    """Test digits: the content in [0, 1], and as the nets take them, gray and in colours of the law."""

    content: Tensor
    gray: Tensor
    colored: Tensor


def digits() -> Digits:
    """All of them."""
    content = load_digits("test", 32)[0].float() / 255
    drawn = torch.from_numpy(draw_colors("rgb", len(content), numpy_generator(0, "color_causes")))
    return Digits(content, content * 2 - 1, painted(content, drawn) * 2 - 1)


def painted(content: Tensor, colors: Tensor) -> Tensor:
    """Content ``[N, 1, S, S]`` in flat colours ``[N, 3]``."""
    return content * colors[:, :, None, None]


@torch.no_grad()
def colors_of(translator: StarGANv2, test: Digits, styles: int = STYLES) -> Tensor:
    """Of every digit with so many styles of random latents: ``[N * styles, 3]``, the same latents every time."""
    count = len(test.gray)
    drawn = translator.sample_style(count * styles, "color", torch.Generator().manual_seed(1))
    outputs = translator.translate_many(test.gray, "gray", "color", drawn.unflatten(0, (count, styles))).flatten(0, 1)
    return foreground_color(((outputs + 1) / 2).clamp(0, 1), test.content.repeat_interleave(styles, dim=0))


def spread(colors: Tensor) -> dict[str, Any]:
    """Color Recall against the law itself, and how colours spread: along their axes, the widest first, and together.

    ``middle`` is how often the eight cells in the middle come, over how often they should; ``dark`` the dark corner,
    over another cell.
    """
    counts = color_histogram(colors, BINS)
    shares = (counts.double() / counts.sum() * LAW.sum()).view(BINS, BINS, BINS)
    axes = torch.linalg.eigvalsh(torch.cov(colors.double().T)).clamp(min=0).sqrt().flip(0)
    together = torch.corrcoef(colors.double().T)[[0, 0, 1], [1, 2, 2]]
    return {
        "recall": float(color_recall(counts, LAW)),
        "axes": axes.tolist(),
        "together": together.tolist(),
        "middle": float(shares[1:3, 1:3, 1:3].mean()),
        "dark": float(shares[0, 0, 0]),
    }


# --- what moves the generator -----------------------------------------------------------------------------------------


def in_cells(each: int) -> Tensor:
    """Even colours of every cell but the dark one, ``each`` of one after the other: ``[63 * each, 3]``."""
    corners = torch.cartesian_prod(*[torch.arange(BINS)] * 3)[1:].repeat_interleave(each, dim=0)
    return (corners + torch.rand(corners.shape, generator=torch.Generator().manual_seed(2))) / BINS


@torch.no_grad()
def seen(translator: StarGANv2, test: Digits, counts: Tensor) -> dict[str, float]:
    """The discriminator's logits of flat-coloured digits against what they should be for generated ``counts``."""
    rows = torch.arange(63 * OF_A_CELL) % len(test.content)
    logits = translator.discriminate(painted(test.content[rows], in_cells(OF_A_CELL)) * 2 - 1, "color")
    return against_law(logits.view(63, OF_A_CELL).mean(dim=1), counts)


def against_law(logits: Tensor, counts: Tensor) -> dict[str, float]:
    """Logits of the 63 cells beside the best ones, log(true share / generated share), of counts ``[64]``.

    Half an image more is counted in each cell, as some have none.
    """
    more = counts[1:].double() + 0.5
    best = -(more / more.sum() * 63).log()
    correlation = torch.corrcoef(torch.stack([logits.double(), best]))[0, 1].nan_to_num()
    return {"correlation": float(correlation), "logits": float(logits.std()), "best": float(best.std())}


def pulls(translator: StarGANv2, test: Digits, step: int) -> dict[str, float]:
    """Gradients of the adversarial and of the weighted diversity loss by the decoder's weights, in batches.

    Mean norms; how alike those of two batches are (mean cosine); and of the means of both losses.
    """
    weights = [*translator.generator.decoder.parameters(), *translator.generator.stem_out.parameters()]
    weight = schedule_to_zero(translator.weights.diversity, step, translator.weights.diversity_steps)
    latents = torch.Generator().manual_seed(3)
    found: dict[str, list[Tensor]] = {"adversarial": [], "diversity": []}
    for part in test.gray[: BATCHES * BATCH].split(BATCH):
        styles = [translator.sample_style(BATCH, "color", latents).detach() for _ in range(2)]
        with torch.no_grad():
            other = translator.translate(part, "gray", "color", style=styles[1])
        for parameter in weights:
            parameter.requires_grad_()
        output = translator.translate(part, "gray", "color", style=styles[0])
        losses = {
            "adversarial": adversarial(translator.discriminate(output, "color"), real=True),
            "diversity": -weight * absolute_error([output], [other], BATCH),
        }
        for name, loss in losses.items():
            parts = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
            found[name].append(torch.cat([part.flatten() for part in parts if part is not None]))
    norms = {name: statistics.mean(float(one.norm()) for one in several) for name, several in found.items()}
    alike = {f"{name}_alike": mean_cosine(torch.stack(several)) for name, several in found.items()}
    means = [torch.stack(several).mean(0) for several in found.values()]
    return {**norms, **alike, "both": float(torch.cosine_similarity(*means, dim=0))}


def mean_cosine(rows: Tensor) -> float:
    """Of all pairs of rows."""
    unit = rows / rows.norm(dim=1, keepdim=True)
    count = len(rows)
    return (float((unit @ unit.T).sum()) - count) / (count * (count - 1))


# --- runs -------------------------------------------------------------------------------------------------------------


def loaded(arm: Arm, folder: Path, tensors: dict[str, Tensor]) -> StarGANv2:
    """The nets of a checkpoint with these weights."""
    with arm.in_place():
        translator = create(read_manifest(folder)["translator"])
    assert isinstance(translator, StarGANv2)
    translator.load_state_dict(tensors)
    return translator.eval().requires_grad_(False)


def measured(arm: Arm, run: Path, step: int, test: Digits) -> dict[str, Any]:
    """A checkpoint: its averaged weights, its raw ones, the discriminator, gradients."""
    folder = checkpoint_folder(run, step)
    raw = read_tensors(folder, NETS)
    averaged = loaded(arm, folder, raw | read_tensors(folder, AVERAGED))
    with torch.no_grad():
        back = averaged.translate(test.colored, "color", "gray").clamp(-1, 1)
    translator = loaded(arm, folder, raw)
    colors = colors_of(translator, test)
    return {
        "step": step,
        "mse": float(((back - test.gray) / 2).square().mean()),
        "averaged": spread(colors_of(averaged, test)),
        "raw": spread(colors),
        "seen": seen(translator, test, color_histogram(colors, BINS)),
        "pulls": pulls(translator, test, step),
    }


def windows(arm: Arm, run: Path, test: Digits) -> Iterator[dict[str, Any]]:
    """Means of the raw weights of the last steps, and the raw weights of the very last ones by themselves."""
    for length in WINDOWS:
        steps = range(arm.steps - length + arm.every, arm.steps + 1, arm.every)
        yield {"window": length, **of_raw(arm, run, steps, test)}
    for step in range(arm.steps - SWING, arm.steps, arm.every):
        yield {"raw": step, **of_raw(arm, run, [step], test)}


def of_raw(arm: Arm, run: Path, steps: Sequence[int], test: Digits) -> dict[str, Any]:
    """The colours of the mean of the raw weights of some steps."""
    folders = [checkpoint_folder(run, step) for step in steps]
    mean = {name: tensor.double() / len(steps) for name, tensor in read_tensors(folders[0], NETS).items()}
    for folder in folders[1:]:
        for name, tensor in read_tensors(folder, NETS).items():
            mean[name] += tensor.double() / len(steps)
    nets = {name: tensor.float() for name, tensor in mean.items()}
    return spread(colors_of(loaded(arm, folders[-1], nets), test))


def run_of(name: str, seed: int, runs: Path, at_most: int) -> dict[str, Any]:
    """What is known of a run, after it was trained and measured if need be."""
    arm, run = ARMS[name], runs / f"{name}-{seed}"
    last = min(arm.steps, at_most)
    if not checkpoint_folder(run, last).exists():
        arm.train(run, seed, at_most)
    file = run / "colors.json"
    found = {"arm": name, "seed": seed, **made_by(), "checkpoints": [], "windows": []}
    if file.exists():
        found = json.loads(file.read_text())
    known, test = {row["step"] for row in found["checkpoints"]}, digits()
    for step in (int(folder.name.removeprefix("step-")) for folder in list_checkpoints(run)):
        # early ones say how the colours come; later on they change slowly
        if step not in known and step % (EVERY if step <= SOON else SOON) == 0:
            found["checkpoints"].append(rounded(measured(arm, run, step, test)))
            write_record(file, found)
            print(f"{name}, seed {seed}: {found['checkpoints'][-1]}", flush=True)
    if arm.every < EVERY and last == WHOLE and not found["windows"]:
        found["windows"] = [rounded(row) for row in windows(arm, run, test)]
        write_record(file, found)
    found["checkpoints"].sort(key=lambda row: row["step"])
    return found


def rounded(value: Any) -> Any:
    """Floats with five digits."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


# --- latents ----------------------------------------------------------------------------------------------------------


def latents() -> list[dict[str, Any]]:
    """What tanh makes of the styles of fresh mapping networks, and of normal numbers."""
    rows = []
    for length, width in (*LENGTHS, *WIDTHS):
        several = [of_styles(styles_of(length, width, seed)) for seed in range(FRESH)]
        rows.append({"latent_dim": length, "hidden_dim": width, "nets": several})
    normal = torch.randn((DRAWS, 8), generator=torch.Generator().manual_seed(0))
    return rounded([*rows, {"latent_dim": None, "hidden_dim": None, "nets": [of_styles(normal)]}])


@torch.no_grad()
def styles_of(length: int, width: int, seed: int) -> Tensor:
    """Of normal latents of this length, by a fresh mapping network of this width: ``[DRAWS, 8]``."""
    rules = ManyToOne()
    domains = rules.resolve([Domain("color", 3), Domain("gray", 1, multimodal=False)])
    size = Size(image_size=32, base_width=8, style_dim=8, latent_dim=length, hidden_dim=width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MappingNetwork(size, domains, rules)
        return network({0: torch.randn(DRAWS, length)})[0]


def of_styles(styles: Tensor) -> dict[str, float]:
    """Styles ``[N, D]``, made uncorrelated and of unit variance: three random directions of them as colours, often.

    ``kurtosis`` is 3 for normal numbers; ``evenness`` the least over the largest standard deviation of the styles.
    """
    left, sizes, _ = torch.linalg.svd((styles - styles.mean(0)).double(), full_matrices=False)
    white = left * len(styles) ** 0.5
    generator = torch.Generator().manual_seed(4)
    recalls, kurtoses = [], []
    for _ in range(DIRECTIONS):
        turned = torch.linalg.qr(torch.randn(white.shape[1], 3, generator=generator).double())[0]
        three = white @ turned
        recalls.append(spread(((GAIN * three).tanh() + 1) / 2)["recall"])
        kurtoses.append(float(three.pow(4).mean()))
    means = {"recall": statistics.mean(recalls), "kurtosis": statistics.mean(kurtoses)}
    return {**means, "evenness": float(sizes[-1] / sizes[0])}


# --- the record -------------------------------------------------------------------------------------------------------


def about(sources: int) -> dict[str, Any]:
    """How it was measured; ``ceiling``: Color Recall of as many colours of the law."""
    outputs = sources * STYLES
    samples = [torch.from_numpy(draw_colors("rgb", outputs, numpy_generator(seed, "law"))) for seed in range(20)]
    ceiling = statistics.mean(spread(sample)["recall"] for sample in samples)
    measures = {"of_a_cell": OF_A_CELL, "batch": BATCH, "last": SWING}
    nets = {"draws": DRAWS, "fresh": FRESH, "directions": DIRECTIONS, "gain": GAIN}
    return {"outputs": outputs, "ceiling": round(ceiling, 4), **measures, **nets}


def main() -> None:
    """Trains and measures, unless only the page is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--at-most", type=int, default=WHOLE, help="steps of a run; more come when it is gone on with")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "causes")
    options = parser.parse_args()
    if not options.page:
        study(options)
    write_page(json.loads(RECORD.read_text()))


def study(options: argparse.Namespace) -> None:
    """Puts what is missing into the record."""
    torch.set_num_threads(1)
    record: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() else {"latents": [], "runs": []}
    record = {"about": about(len(digits().content)), **record}
    record["latents"] = record["latents"] or latents()
    write_record(RECORD, record)
    for name in options.arms:
        for seed in options.seeds:
            found = run_of(name, seed, options.runs, options.at_most)
            others = [run for run in record["runs"] if (run["arm"], run["seed"]) != (name, seed)]
            order = list(ARMS)
            record["runs"] = sorted([*others, found], key=lambda run: (order.index(run["arm"]), run["seed"]))
            write_record(RECORD, record)


if __name__ == "__main__":
    main()
