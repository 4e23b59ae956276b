"""What a run folder holds, read without trust: whatever is missing or damaged is said, and the rest is used."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2o_fast.engine.checkpoint import list_checkpoints
from m2o_fast.engine.config import CPU_PRESETS, Config, differences, dump_config, flatten, load_config, presets
from m2o_fast.engine.runlog import METRICS, SAMPLES, TIMINGS
from m2o_fast.engine.runs import CONFIG
from m2o_fast.engine.watch import first_alarm, floors
from m2o_fast.errors import UserError
from m2o_fast.files import read_whole
from m2o_fast.report.evaluation import Evaluation, newest_evaluation
from m2o_fast.report.svg import drawable
from m2o_fast.translators import DEFAULT

#: settings that have an option of their own, in the order of the command line
_OPTIONS = ("system", "variant", "data.name", "data.dir", "preset", "steps", "batch_size", "seed", "precision")
_RENAMED = {"data.name": "data", "data.dir": "data-dir"}

Line = dict[str, float]


@dataclass(frozen=True)
class Record:
    """A run folder.

    Attributes:
        folder: Where it is.
        name: For tables and legends.
        config: Its settings; ``None`` if they cannot be read.
        config_text: The settings as they stand in the file.
        environment: ``env.json``.
        metrics: Losses, a dict per line with ``"step"``; only finite numbers.
        samples: What was measured on the sample grids.
        timings: Speeds.
        evaluation: The newest one.
        sample_picture: The newest sample grid.
        has_checkpoint: Whether there is any checkpoint.
        problems: What was damaged, failed, or is worth a look.
    """

    folder: Path
    name: str
    config: Config | None
    config_text: str
    environment: dict[str, Any]
    metrics: list[Line]
    samples: list[Line]
    timings: list[Line]
    evaluation: Evaluation | None
    sample_picture: Path | None
    has_checkpoint: bool
    problems: tuple[str, ...]

    @property
    def title(self) -> str:
        """Variant and data set, as far as they are known."""
        if self.config is None:
            return self.name
        return f"{self.config.title} on {self.config.data.name}"

    @property
    def quoted(self) -> str:
        """The folder, as a word of a command line."""
        return shlex.quote(str(self.folder))

    @property
    def step(self) -> int:
        """The last step that anything is known of."""
        return int(max((line["step"] for lines in (self.metrics, self.samples) for line in lines[-1:]), default=0))


def read_record(folder: Path, name: str) -> Record:
    """Reads a run folder.

    Raises:
        UserError: There is nothing in it to report.
    """
    config, text, problems = _read_config(folder / CONFIG)
    metrics = _read_lines(folder / METRICS, problems)
    samples = _read_lines(folder / SAMPLES, problems)
    timings = _read_lines(folder / TIMINGS, problems)
    evaluation, damaged = newest_evaluation(folder)
    pictures = sorted((folder / "samples").glob("step-*.png"))
    checkpoints = list_checkpoints(folder)
    if not (metrics or samples or pictures or checkpoints or evaluation):
        raise UserError(f"{folder} has nothing to report yet: no {METRICS}, samples, checkpoints or evaluation")
    record = Record(
        folder=folder,
        name=name,
        config=config,
        config_text=text,
        environment=_read_environment(folder / "env.json", problems),
        metrics=metrics,
        samples=samples,
        timings=timings,
        evaluation=evaluation,
        sample_picture=pictures[-1] if pictures else None,
        has_checkpoint=bool(checkpoints),
        problems=(*problems, *damaged),
    )
    return _with_findings(record)


def _read_config(path: Path) -> tuple[Config | None, str, list[str]]:
    try:
        text = read_whole(path, 1 << 20).decode("utf-8", errors="replace")
        return load_config(path), text, []
    except OSError as error:
        return None, "", [f"{path} cannot be read: {error.strerror}"]
    except UserError as error:
        return None, text, [f"the settings cannot be read: {error}"]


def _read_environment(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        facts = json.loads(read_whole(path))
        if isinstance(facts, dict):
            return facts
        problems.append(f"{path} is damaged: not a JSON object")
    except FileNotFoundError:
        pass
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror}")
    except (ValueError, RecursionError):
        problems.append(f"{path} is damaged: not JSON")
    return {}


def _read_lines(path: Path, problems: list[str]) -> list[Line]:
    """The lines of a log by step; damaged lines and numbers that no chart can hold are left out and counted."""
    try:
        raw = read_whole(path).splitlines() if path.exists() else []
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror}")
        return []
    lines, damaged, wild = [], 0, 0
    for text in raw:
        try:
            found = json.loads(text)
            step = found["step"]
            numbers = {
                str(key): float(value)
                for key, value in found.items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            }
            if isinstance(step, bool) or not isinstance(step, int) or not drawable(step):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            damaged += 1
            continue
        finite = {key: value for key, value in numbers.items() if drawable(value)}
        wild += len(numbers) - len(finite)
        lines.append(finite)
    if damaged:
        problems.append(f"{path}: {damaged} of {len(raw)} lines are damaged and left out")
    if wild:
        problems.append(f"{path}: {wild} numbers are not finite, or too large, and left out")
    return sorted(lines, key=lambda line: line["step"])


def _with_findings(record: Record) -> Record:
    """``record`` with what its numbers say about how the run went."""
    findings = [*_skips(record), *_alarms(record)]
    config = record.config
    if config is not None and 0 < record.step < config.steps:
        findings.append(
            f"the run is not finished: {record.step:,} of {config.steps:,} steps are logged; go on with "
            f"m2o-fast train --run {record.quoted} --resume auto"
        )
    if record.evaluation is not None and record.evaluation.step < record.step:
        findings.append(f"the evaluation is of step {record.evaluation.step:,}; the run has gone on since")
    return Record(**{**vars(record), "problems": (*record.problems, *findings)})


def _skips(record: Record) -> list[str]:
    """Steps whose loss was not finite."""
    counts = [(int(line["step"]), int(line["skipped"])) for line in record.metrics if "skipped" in line]
    if not counts or counts[-1][1] == 0:
        return []
    grown = [step for (_, before), (step, after) in zip([(0, 0), *counts], counts, strict=False) if after > before]
    places = ", ".join(f"{step:,}" for step in grown[:5]) + (", ..." if len(grown) > 5 else "")
    return [f"{counts[-1][1]:,} steps were skipped: their loss was not finite (in the log lines of step {places})"]


def _alarms(record: Record) -> list[str]:
    """The alarms for styles without effect and lost colours that sound at the last sample grid."""
    if not record.samples or record.config is None or record.samples[-1]["step"] < first_alarm(record.config):
        return []
    least = floors(int(record.samples[-1]["step"]))
    return [
        f"{name}: {value:.3g} is below {floor:g}; see docs/recipe.md, 'When the alarm sounds'"
        for name, value in record.samples[-1].items()
        if (floor := least.get(name.rpartition("/")[2], 0.0)) > value
    ]


def repeat_command(config: Config) -> str:
    """The command line that trains with these settings once more, into a new run; empty if there is none."""
    named = {
        "system": None if config.system == DEFAULT[0] else config.system,
        "variant": config.variant,
        "data.name": list(config.data.named) if config.data.also else config.data.name,
        "data.dir": None if config.data.also else config.data.dir,
    }
    shown = {key: value for key, value in named.items() if value is not None} | {"steps": config.steps}
    # Which preset is taken where none is named may depend on the machine.
    unnamed = [] if config.data.name in CPU_PRESETS else [None]
    fitting = [preset for preset in (*unnamed, *presets(config.system)) if _fits(shown, preset)]
    if not fitting:  # settings that only go together
        return ""
    left = {preset: _left_to_set(config, shown, preset) for preset in fitting}
    preset = min(fitting, key=lambda preset: len(left[preset]))  # of equal ones the first: none, if that will do
    given = {**shown, "preset": preset, "seed": config.seed, **left[preset]}
    words = ["m2o-fast", "train"]
    for key in _OPTIONS:
        value = given.pop(key, None)
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                words += [f"--{_RENAMED.get(key, key.replace('_', '-'))}", str(one)]
    for key, value in given.items():
        words += ["--set", f"{key}={json.dumps(value)}"]
    return shlex.join(words)


def _fits(shown: dict[str, Any], preset: str | None) -> bool:
    """Whether a preset can be the start of what ``shown`` says."""
    try:
        load_config(overrides=shown, preset=preset)
    except UserError:
        return False
    return True


def _left_to_set(config: Config, shown: dict[str, Any], preset: str | None) -> dict[str, Any]:
    """What has to be set by dotted key, beside the defaults, a preset and ``shown``."""
    plain = load_config(overrides=shown, preset=preset)
    said, before = flatten(config), flatten(plain)
    kept = plain.settings.kept(config.steps)
    unsaid = {key: None for key, number in kept.items() if before[key] is None and said[key] == number}
    return {key: new for key, (_, new) in differences(plain, config.with_values(unsaid)).items()}


def config_yaml(record: Record) -> str:
    """The resolved settings, as YAML; what stands in the file where they cannot be read."""
    return dump_config(record.config) if record.config is not None else record.config_text
