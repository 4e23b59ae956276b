"""The alarm for a translator that ignores its styles or has lost its colours, from the images of the sample grid.

Both figures are shares of what real images show, so they need no unit:

- *style effect*: the mean absolute difference between two styles of one source, over that between two real images;
- *color spread*: the standard deviation of the outputs' mean colours, over that of real images.

In sound runs on digits (three variants, three seeds) the color spread began at 0.06 (fresh nets paint everything gray),
was 0.13 to 0.52 after 500 steps, 0.23 to 0.75 after 1,000 and 0.39 to 0.90 after 1,500. From step 1,500 on, no sound
run on digits, MNIST or real pictures (docs/recipe.md has them, and of which systems) had a style effect below 0.28 or a
color spread below 0.39, while one whose looks were pale and alike had 0.34 and 0.20: its colors tell it, for how far
styles of thin lines lie apart depends on the few contents and styles of the grid. So the floors lie far below at first,
and later below what is sound, and nothing is said before the averaged weights have forgotten the first ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from m2o_fast.data.dataset import Dataset
from m2o_fast.engine.samples import chosen_images
from m2o_fast.engine.schema import Config
from m2o_fast.translators.base import Translator

_FLOORS_AT_FIRST = {"style_effect": 0.05, "color_spread": 0.1}
_FLOORS_LATER = {"style_effect": 0.25, "color_spread": 0.25}
_LATER = 1500  # steps
_REAL_IMAGES = 64
_ADVICE = "see docs/recipe.md, 'When the alarm sounds'"

Directions = Mapping[tuple[int, int], Mapping[str, Tensor]]


class StyleWatch:
    """Measures what styles do in every direction into a multi-modal domain, and says once when it is too little.

    Args:
        dataset: Real images to compare with.
        translator: Tells which domains there are.
        config: Tells how soon the alarm may sound.
    """

    def __init__(self, dataset: Dataset, translator: Translator, config: Config) -> None:
        self._names = [domain.name for domain in translator.domains]
        self._real: dict[int, tuple[float, float]] = {}
        for k, domain in enumerate(translator.domains):
            if domain.multimodal and translator.has_style(k):
                images = dataset.images(k, chosen_images(dataset, k, _REAL_IMAGES)) * 2 - 1
                images = images.expand(-1, domain.channels, -1, -1)
                self._real[k] = _difference(images, images.roll(1, 0)), color_spread(images)
        self._from, self._advice = first_alarm(config), config.facts.advice
        self._sounding: set[str] = set()

    def measure(self, directions: Directions) -> dict[str, float]:
        """``"<source>-><target>/style_effect"`` and ``".../color_spread"`` of the rows of a sample grid."""
        values = {}
        for (source, target), rows in directions.items():
            if target not in self._real:
                continue
            difference, spread = self._real[target]
            styles = torch.stack([images for label, images in rows.items() if label.startswith("latent ")])
            name = f"{self._names[source]}->{self._names[target]}"
            if difference > 0:
                values[f"{name}/style_effect"] = round(_style_difference(styles) / difference, 6)
            if spread > 0:
                values[f"{name}/color_spread"] = round(color_spread(styles.flatten(0, 1)) / spread, 6)
        return values

    def alarms(self, step: int, values: Mapping[str, float]) -> list[str]:
        """What to warn of after ``step`` steps: every direction that has become too poor since the last call."""
        if step < self._from:
            return []
        found = {}
        for name in dict.fromkeys(key.partition("/")[0] for key in values):
            complaint = self._complaint(step, values.get(f"{name}/style_effect"), values.get(f"{name}/color_spread"))
            if complaint:
                found[name] = f"step {step}: {name.replace('->', ' -> ')} {complaint}; {_ADVICE}"
        new = [message for name, message in found.items() if name not in self._sounding]
        self._sounding = set(found)
        return new

    def _complaint(self, step: int, effect: float | None, spread: float | None) -> str | None:
        least = floors(step)
        if effect is not None and effect < least["style_effect"]:
            return (
                f"{'ignores' if effect < _FLOORS_AT_FIRST['style_effect'] else 'hardly follows'} its style: two styles "
                f"of one source differ by {effect:.1%} of what two real images do{_try(self._advice.no_style)}"
            )
        if spread is not None and spread < least["color_spread"]:
            return (
                f"has {'lost its' if spread < _FLOORS_AT_FIRST['color_spread'] else 'pale'} colours: they spread "
                f"{spread:.1%} as far as real ones{_try(self._advice.no_colors)}"
            )
        return None


def _try(advice: str) -> str:
    return f". Try {advice}" if advice else ""


def floors(step: int) -> Mapping[str, float]:
    """What each figure must not be below after so many steps."""
    return _FLOORS_AT_FIRST if step < _LATER else _FLOORS_LATER


def first_alarm(config: Config) -> int:
    """The first step at which the alarm may sound: an average has forgotten 95 % of the first weights by then.

    A tenth of the steps behind a pretraining are done, too.
    """
    decay, before = config.optim.average() or 0.0, config.optim.pretraining()
    return max(round(3 / (1 - decay)), before + (config.steps - before) // 10)


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().mean())


def _style_difference(styles: Tensor) -> float:
    """Mean absolute difference over all pairs of the styles ``[styles, N, C, S, S]``."""
    first, second = torch.triu_indices(len(styles), len(styles), 1)
    return _difference(styles[first], styles[second])


def color_spread(images: Tensor) -> float:
    """Standard deviation of the mean colours of ``images`` ``[N, C, S, S]``, root mean square over the channels."""
    return float(images.mean((2, 3)).var(0, correction=0).mean().sqrt())
