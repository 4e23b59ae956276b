"""Validation while training: a fixed sample of the test images, measured as an evaluation would, and the best weights.

Nothing is drawn from the randomness of training, so that a run ends with the same weights with and without it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from m2o_fast.data.dataset import Dataset
from m2o_fast.engine.best import best_checkpoint, comparable, write_best
from m2o_fast.engine.build import open_split
from m2o_fast.engine.checkpoint import CheckpointError
from m2o_fast.engine.evaluation.options import NO_EXTRACTOR, Options
from m2o_fast.engine.evaluation.translations import Evaluation
from m2o_fast.engine.runlog import VALIDATION, Log, going_on_without
from m2o_fast.engine.samples import in_evaluation
from m2o_fast.engine.schema import BEST_BY, Config
from m2o_fast.engine.training_state import Training, weights_in_use
from m2o_fast.translators.base import Translator

#: translations of an image into a domain with styles; images of each domain, shared among the domains that they go to
OUTPUTS, SOURCES = 4, 64
FEWEST_SOURCES = 8  # for each of these


def open_validation(config: Config, run: Path, test: Dataset, since: int) -> Validation:
    """What validates a run from a step on: on its test images, of which every pair that there is counts as known."""
    if config.data.pair_fraction < 1:
        test = open_split(config.with_values({"data.pair_fraction": 1.0}), "test")
    return Validation(test, run, config.best_by, since)


class Validation:
    """Measures weights, and keeps the best ones of a run.

    Args:
        dataset: The test split.
        run: The run folder.
        best_by: Name of the measure that says what is best; ``None``: the first of :data:`BEST_BY` that there is.
        since: Steps that were done when training started or went on.
    """

    def __init__(self, dataset: Dataset, run: Path, best_by: str | None, since: int = 0) -> None:
        self._dataset, self._run, self._best_by, self._since = dataset, run, best_by, since
        self._warned = self._has_kept = False

    def validate(self, training: Training, facts: Mapping[str, Any], log: Log, *, keep: bool) -> None:
        """Measures weights, writes down what was found, and keeps them if they are the best so far.

        What fails is a warning: it must not end a run.

        Args:
            training: Holds the weights.
            facts: For their manifest, ``"step"`` among them.
            log: Where to.
            keep: Whether they may be kept.
        """
        step = facts["step"]
        with going_on_without(f"step {step}: validation", log):
            with in_evaluation(training.averaged):
                values = self.measure(training.averaged)
            log.validated(step, values)  # first: there may be no room for weights
            self._warn_of_no_measure(values, step, log)
            if keep and (best := self.keep_if_best(values, training, facts)):
                log.say(f"step {step}: kept as the best so far, {best}")

    def _warn_of_no_measure(self, values: Mapping[str, float], step: int, log: Log) -> None:
        """Says once that nothing tells which weights are best."""
        measured = {_measure(name) for name in values}
        if self._warned or self._chosen(measured) is not None:
            return
        self._warned = True
        named = f"best_by = {self._best_by!r} is not measured here" if self._best_by else "nothing tells what is best"
        there = ", ".join(name for name in BEST_BY if name in measured) or "none"
        log.warn(f"step {step}: validation: {named} (measured: {there}); no best weights are kept")

    def _chosen(self, measured: Collection[str]) -> str | None:
        """Of the measures that there are the one that says what is best."""
        wanted = BEST_BY if self._best_by is None else (self._best_by,)
        return next((name for name in wanted if name in measured), None)

    def measure(self, translator: Translator) -> dict[str, float]:
        """``"validation/<source>-><target>/<guidance>/<measure>"`` of weights in evaluation mode.

        Raises:
            UserError: Translations that are not finite.
        """
        found = Evaluation(translator, self._dataset, lambda: self._dataset, self.options(translator)).run()
        return {
            f"{VALIDATION}/{direction}/{guidance}/{name}": float(value)
            for direction, guidances in found.directions.items()
            for guidance, values in guidances.items()
            for name, value in values.items()
            if name in BEST_BY and math.isfinite(value)
        }

    def options(self, translator: Translator) -> Options:
        """What is measured, in less memory than an evaluation takes: that of training is in use."""
        ways = Counter(source for source, target in translator.directions() if source != target)
        sources = max(SOURCES // max(ways.values(), default=1), FEWEST_SOURCES)
        options = Options(extractor=NO_EXTRACTOR, sources=sources, outputs_per_source=OUTPUTS)
        usual = options.batch(translator.image_size, next(translator.parameters()).device)
        return replace(options, batch_size=max(1, usual // (OUTPUTS * len(options.guidances))))

    def keep_if_best(self, values: Mapping[str, float], training: Training, facts: Mapping[str, Any]) -> str:
        """Writes weights where no earlier ones have a better mean of the measure over directions and guidances.

        Args:
            values: What :meth:`measure` found.
            training: Holds the weights.
            facts: For the manifest, ``"step"`` among them.

        Returns:
            The mean as words for the person who waits; empty where others are better.

        Raises:
            OSError: They cannot be written.
            CheckpointError: Or not be read again.
        """
        measure = self._chosen({_measure(name) for name in values})
        if measure is None:
            return ""
        chosen = {name: value for name, value in values.items() if _measure(name) == measure}
        best = {
            **{"measure": measure, "value": math.fsum(chosen.values()) / len(chosen), "better": BEST_BY[measure]},
            "over": sorted(name.partition("/")[2].rpartition("/")[0] for name in chosen),
        }
        facts = {**facts, "translator": training.translator.describe(), "best": best}
        if not self._is_better(facts):
            return ""
        write_best(self._run, weights_in_use(training), facts)
        self._has_kept = True
        return f"{measure} {best['value']:.4g}"

    def _is_better(self, new: Mapping[str, Any]) -> bool:
        try:
            found = best_checkpoint(self._run)
        except CheckpointError:  # damaged ones are replaced
            return True
        if found is None or not comparable(found[1], new):
            return True
        if found[1]["step"] > self._since and not self._has_kept:  # of steps that training has gone back behind
            return True
        old, value = found[1]["best"]["value"], new["best"]["value"]
        return bool(value > old if new["best"]["better"] == "higher" else value < old)


def _measure(name: str) -> str:
    return name.rpartition("/")[2]
