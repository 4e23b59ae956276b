"""Validation while training: a fixed sample of the test images, measured as an evaluation would, and the best weights.

Nothing is drawn from the randomness of training, so that a run ends with the same weights with and without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2o_fast.data.dataset import Dataset
from m2o_fast.engine.build import open_split
from m2o_fast.engine.checkpoint import CheckpointError, best_checkpoint, write_best
from m2o_fast.engine.evaluation.options import NO_EXTRACTOR, Options
from m2o_fast.engine.evaluation.translations import Evaluation
from m2o_fast.engine.runlog import VALIDATION, Log
from m2o_fast.engine.samples import in_evaluation
from m2o_fast.engine.schema import BEST_BY, Config
from m2o_fast.engine.training_state import Training, weights_in_use
from m2o_fast.errors import UserError
from m2o_fast.translators.base import Translator

SOURCES, OUTPUTS = 64, 4  # images of each domain, and translations of each into a domain with styles


def open_validation(config: Config, run: Path, test: Dataset) -> Validation:
    """What validates a run: on its test images, of which every pair that there is counts as known."""
    if config.data.pair_fraction < 1:
        test = open_split(config.with_values({"data.pair_fraction": 1.0}), "test")
    return Validation(test, run, config.best_by)


class Validation:
    """Measures weights, and keeps the best ones of a run.

    Args:
        dataset: The test split.
        run: The run folder.
        best_by: Name of the measure that says what is best; ``None``: the first of :data:`BEST_BY` that there is.
    """

    def __init__(self, dataset: Dataset, run: Path, best_by: str | None) -> None:
        self._dataset, self._run, self._best_by = dataset, run, best_by
        self._options = Options(extractor=NO_EXTRACTOR, sources=SOURCES, outputs_per_source=OUTPUTS)

    def validate(self, training: Training, facts: Mapping[str, Any], log: Log, *, keep: bool) -> None:
        """Measures weights, writes down what was found, and keeps them if they are the best so far.

        What fails is a warning: it must not end a run.

        Args:
            training: Holds the weights.
            facts: For their manifest, ``"step"`` among them.
            log: Where to.
            keep: Whether they may be kept.
        """
        step, best = facts["step"], ""
        try:
            with in_evaluation(training.averaged):
                values = self.measure(training.averaged)
            if keep:
                best = self.keep_if_best(values, training, facts)
        except (OSError, UserError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            log.warn(f"step {step}: validation: {reason}; training goes on")
        else:
            log.validated(step, values, best)

    def measure(self, translator: Translator) -> dict[str, float]:
        """``"validation/<source>-><target>/<guidance>/<measure>"`` of weights in evaluation mode.

        Raises:
            UserError: Translations that are not finite.
        """
        found = Evaluation(translator, self._dataset, lambda: self._dataset, self._options).run()
        return {
            f"{VALIDATION}/{direction}/{guidance}/{name}": float(value)
            for direction, guidances in found.directions.items()
            for guidance, values in guidances.items()
            for name, value in values.items()
            if name in BEST_BY and math.isfinite(value)
        }

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
        named = [name.rpartition("/")[2] for name in values]
        measure = self._best_by or next((name for name in BEST_BY if name in named), None)
        chosen = [value for name, value in zip(named, values.values(), strict=True) if name == measure]
        if measure is None or not chosen:
            return ""
        best = {"measure": measure, "value": math.fsum(chosen) / len(chosen), "better": BEST_BY[measure]}
        if not self._is_better(best):
            return ""
        facts = {**facts, "translator": training.translator.describe(), "best": best}
        write_best(self._run, weights_in_use(training), facts)
        return f"{measure} {best['value']:.4g}"

    def _is_better(self, new: Mapping[str, Any]) -> bool:
        try:
            found = best_checkpoint(self._run)
        except CheckpointError:  # damaged ones are replaced
            return True
        if found is None or found[1]["best"]["measure"] != new["measure"]:
            return True
        old = found[1]["best"]["value"]
        return bool(new["value"] > old if new["better"] == "higher" else new["value"] < old)
