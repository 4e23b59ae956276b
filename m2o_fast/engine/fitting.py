"""Which recipe for own images fits this machine: without a GPU a small one, of less than an hour."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from m2o_fast.data.folder import FolderDataset
from m2o_fast.data.learner import Fitting
from m2o_fast.data.several import SeveralDatasets
from m2o_fast.engine.batches import Batches
from m2o_fast.engine.build import build_translator
from m2o_fast.engine.config import CPU_PRESETS, Config, load_config
from m2o_fast.engine.device import choose_device
from m2o_fast.engine.processes import Processes
from m2o_fast.engine.runs import config_to_resume
from m2o_fast.engine.step import Stepper
from m2o_fast.m2o import Domain
from m2o_fast.translators import system

SIZES = (64, 32)  # pixels, the better one first
LIMIT = 1.0  # hours
_FEWEST_STEPS = 500  # of which less would not be worth it
_IMAGES = 4  # of noise in each domain
_STEPS = 2  # of each kind that are timed, behind a first one


def cpu_preset(config: Config) -> str | None:
    """The preset in the place of that of the data set where there is no GPU; ``None``: it stays, or there is one."""
    name = CPU_PRESETS.get(config.data.name)
    if name not in system(config.system).presets or choose_device(config.device).type != "cpu":
        return None
    return name


def settings_to_train(
    config: Path | None,
    run: Path | None,
    resume: str | None,
    assignments: Sequence[str] | None,
    options: Mapping[str, object],
    preset: str | None,
) -> tuple[Config, str]:
    """What options say; where they name no file, on top of the settings of the run that is gone on with.

    Args:
        config: YAML file with settings.
        run: Folder of the run.
        resume: As of :func:`m2o_fast.engine.loop.train`; ``None``: never.
        assignments: ``key=value``, which win over everything.
        options: Setting -> value; one that is ``None`` was not given.
        preset: Recipe to start from.

    Returns:
        The settings, and what to say of their recipe: where nothing names one, that of a data set may depend on whether
        there is a GPU. Empty: it is the usual one, or the one that was named.
    """
    if config is None and run is not None:
        config = config_to_resume(run, resume)
    given = {key: value for key, value in options.items() if value is not None}
    settings = load_config(config, given, assignments or [], preset)
    usual = settings.data.name
    if config is None and preset is None and resume in (None, "never", "auto") and usual in CPU_PRESETS:
        if (instead := cpu_preset(settings)) is not None:
            settings = load_config(None, given, assignments or [], instead)
            return settings, (
                f"recipe: {instead}, small nets and {settings.data.image_size} pixels, as no preset is named and there "
                f"is no GPU; --preset {usual} is the usual one"
            )
    return settings, ""


def fitting(name: str, variant: str, domains: Sequence[Domain], side: int, sets: Sequence[int] = ()) -> Fitting | None:
    """The options with which training on own images takes less than an hour here, and what it takes.

    Args:
        name: The system.
        variant: The many-to-one rules.
        domains: As the images have them.
        side: The usual side length of the images.
        sets: How many of the domains, in their order, are of each data set; none: all of one.

    Returns:
        The larger size that fits, else the smaller one with as many steps as do; ``None`` where there is a GPU, or the
        system has no recipe without one.
    """
    given = {"system": name, "variant": variant, "data.name": "folder", "data.dir": "any"}
    preset = cpu_preset(load_config(overrides=given))
    if preset is None:
        return None
    usual = load_config(overrides=given, preset=preset)
    for size in [size for size in SIZES if size <= max(side, SIZES[-1])]:
        config = usual.with_values({"data.image_size": size})
        hours = seconds_per_step(config, domains, sets) * config.steps / 3600
        words = [] if size == usual.data.image_size else ["--set", f"data.image_size={size}"]
        if hours <= LIMIT:
            return Fitting(["--preset", preset, *words], hours)
    steps = max(_FEWEST_STEPS, int(config.steps * LIMIT / hours) // 100 * 100)
    return Fitting(["--preset", preset, *words, "--steps", str(steps)], hours * steps / config.steps)


def seconds_per_step(config: Config, domains: Sequence[Domain], sets: Sequence[int] = ()) -> float:
    """How long a step takes on this machine; on noise, so that no image has to be there.

    Of each kind of iteration it is the fastest of some, and each counts as often as a run has it.
    """
    ends = list(accumulate(sets or [len(domains)]))
    parts = [_noise(domains[start:end], config.data.image_size) for start, end in pairwise([0, *ends])]
    data = parts[0] if len(parts) == 1 else SeveralDatasets(parts)
    device, alone = choose_device(config.device), Processes()
    translator = build_translator(config, data.domains, data.sets).to(device)
    averaged = copy.deepcopy(translator) if translator.averaged_groups() else translator
    stepper = Stepper(translator, averaged, config.filled().optim, alone, config.precision)
    batches = Batches(config, data, translator, alone, device)

    def seconds(step: int) -> float:
        started = time.perf_counter()
        float(stepper(batches(step), step).failed)  # which waits for the device
        return time.perf_counter() - started

    kinds = [translator.kind(step) for step in range(config.steps)]
    seconds(0)
    total = 0.0
    for kind, often in Counter(kinds).items():
        total += often * min(seconds(kinds.index(kind)) for _ in range(_STEPS))
    return total / len(kinds)


def _noise(domains: Sequence[Domain], size: int) -> FolderDataset:
    """A data set of noise."""
    numbers = np.random.default_rng(0)
    images = [numbers.integers(0, 256, (_IMAGES, d.channels, size, size), dtype=np.uint8) for d in domains]
    names = [str(number) for number in range(_IMAGES)]
    return FolderDataset(domains, images, [names] * len(domains), split="train", fingerprint="")
