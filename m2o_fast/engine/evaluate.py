"""Evaluation of a run on its test split: every direction between two different domains, with the averaged nets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m2o_fast.data import ColorizedDigits
from m2o_fast.engine.checkpoint import load_translator
from m2o_fast.engine.runs import choose_device, find_checkpoint, open_split, run_config, warn_of_damage
from m2o_fast.metrics.evaluator import evaluate_multimodal, evaluate_unimodal
from m2o_fast.randomness import torch_generator
from m2o_fast.translators import Translator

BINS = 4  # per channel, so 64 cells of colour
BITS = 8  # per channel, for the number of unique colours
BATCH = 200
SEED = 2024  # of the styles: an evaluation draws the same ones for every run


def evaluate_run(
    run: str | Path | None = None,
    *,
    data_dir: str | None = None,
    device: str = "auto",
    outputs: int = 10,
    checkpoint: str | None = None,
) -> dict[str, Any]:
    """Measures a run on its test split.

    Args:
        run: Run folder or checkpoint folder; ``None``: the newest run below ``runs/``.
        data_dir: Folder of the data set, in place of the run's.
        device: Where to compute.
        outputs: Translations of each test image into a multi-modal domain, each with a fresh random style.
        checkpoint: Name of a checkpoint of the run; ``None``: its newest good one.

    Returns:
        JSON values ``{"run", "step", "directions": {"a->b": {...}}, "protocol": {...}}``; see docs/metrics.md.

    Raises:
        UserError: No such run or checkpoint, or a damaged one.
    """
    folder, manifest, problems = find_checkpoint(None if run is None else Path(run), checkpoint)
    warn_of_damage(problems, folder)
    config = run_config(folder)
    dataset = open_split(config, "test", data_dir)
    translator = load_translator(folder, manifest).to(choose_device(device))
    evaluation = Evaluation(translator, dataset, outputs)
    return {
        "run": str(folder.parent.parent),
        "step": manifest["step"],
        "directions": evaluation.directions(),
        "protocol": {
            "data": config.data.name,
            "split": "test",
            "sources": dataset.count(0),
            "outputs_per_source": outputs,
            "bins_per_channel": BINS,
            "bits_per_channel": BITS,
            "range": "[0, 1]",
            "guidance": "latent",
            "weights": "EMA",
            "style_seed": SEED,
            "data_seed": config.seed,
        },
    }


class Evaluation:
    """Measures a translator on a data set of colorized digits.

    Args:
        translator: In evaluation mode, on its device.
        dataset: The images; ``color`` and ``gray`` share their content.
        outputs: Translations of each image into a multi-modal domain.
    """

    def __init__(self, translator: Translator, dataset: ColorizedDigits, outputs: int) -> None:
        self._translator, self._data, self._outputs = translator, dataset, outputs
        self._device = next(translator.parameters()).device

    @torch.no_grad()
    def directions(self) -> dict[str, dict[str, Any]]:
        """Measures by direction, ``"source->target"``."""
        domains = self._translator.domains
        result: dict[str, dict[str, Any]] = {}
        for source, _ in enumerate(domains):
            for target, domain in enumerate(domains):
                if source == target:
                    continue
                name = f"{domains[source].name}->{domain.name}"
                result[name] = self._multimodal(source, target) if domain.multimodal else self._unimodal(source, target)
        return result

    def _unimodal(self, source: int, target: int) -> dict[str, Any]:
        return evaluate_unimodal(self._outputs_with_truth(source, target))

    def _outputs_with_truth(self, source: int, target: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Outputs, the true images, and outputs for another style; black is 0 and white 1."""
        generator = torch_generator(SEED, "evaluation", source, target)
        sampled = self._translator.sample_style(self._data.count(source), target, generator)
        # For a domain without style the sampled one is 0; another one is made up, to see that it changes nothing.
        other = torch.randn(sampled.shape, generator=generator).to(sampled)
        for rows in self._rows():
            x, chosen = self._source(source, rows), slice(rows.start, rows.stop)
            outputs, restyled = (
                (self._translator.translate(x, source, target, style=style[chosen]).float().cpu() + 1) / 2
                for style in (sampled, other)
            )
            yield outputs, self._data.images(target, rows).expand_as(outputs), restyled

    def _multimodal(self, source: int, target: int) -> dict[str, Any]:
        draws = range(self._outputs)
        return evaluate_multimodal(
            self._generated(source, target),
            self._real(target, draws),
            self._real(target, range(self._outputs, 2 * self._outputs)),
            bins=BINS,
            bits=BITS,
        )

    def _generated(self, source: int, target: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch_generator(SEED, "evaluation", source, target)
        for _ in range(self._outputs):
            styles = self._translator.sample_style(self._data.count(source), target, generator)
            for rows in self._rows():
                x, style = self._source(source, rows), styles[rows.start : rows.stop]
                outputs = self._translator.translate(x, source, target, style=style)
                yield _unit(outputs), self._data.content(rows)

    def _real(self, target: int, epochs: range) -> Iterator[tuple[Tensor, Tensor]]:
        """Real images of the target domain: every epoch colours the same digits anew."""
        for epoch in epochs:
            for rows in self._rows():
                yield self._data.images(target, rows, epoch), self._data.content(rows)

    def _source(self, domain: int, rows: range) -> Tensor:
        channels = self._translator.domains[domain].channels
        return (self._data.images(domain, rows) * 2 - 1).expand(-1, channels, -1, -1).to(self._device)

    def _rows(self) -> Iterator[range]:
        count = self._data.count(0)
        return (range(start, min(start + BATCH, count)) for start in range(0, count, BATCH))


def _unit(images: Tensor) -> Tensor:
    """Images of a net, about [-1, 1], as values in [0, 1] on the CPU."""
    return ((images + 1) / 2).clamp(0, 1).float().cpu()
