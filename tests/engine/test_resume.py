"""N steps are k steps, a stop and N - k steps, byte for byte."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from tiny import contents, stop_at, tiny_config

from m2o_fast.engine.loop import train
from m2o_fast.engine.schema import Config

pytestmark = pytest.mark.usefixtures("tiny_data")
Setting = tuple[str, str, int]
STEPS = 5
VARIANTS = {"starganv2": "adain", "hmu": "demod", "hms": "adain"}
SETTINGS = list(product(VARIANTS, ("fp32", "bf16"), (1, 2)))
#: the setting that has all of it is stopped everywhere, the one that has none in the middle of an epoch; all others
#: take long
ALL, NONE = ("hms", "bf16", 2), ("starganv2", "fp32", 1)
#: with three steps per epoch
STOPS = {"first-step": 0, "epoch-end": 2, "mid-epoch": 3}
CASES = [
    pytest.param(
        setting,
        step,
        id="{}-{}-accumulate{}-{}".format(*setting, place),
        marks=[] if setting == ALL or (setting == NONE and step == STOPS["mid-epoch"]) else pytest.mark.slow,
    )
    for setting in SETTINGS
    for place, step in STOPS.items()
]


def config_of(setting: Setting) -> Config:
    variant, precision, parts = setting
    words = [f"variant={variant}", f"model.style_op={VARIANTS[variant]}", f"precision={precision}"]
    return tiny_config(*words, f"accumulate={parts}", f"steps={STEPS}", "keep_checkpoints=0", "sample_every=3")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Setting], dict[str, bytes]]:
    """The files of a setting's run without a stop; each is trained once."""

    @cache
    def files(setting: Setting) -> dict[str, bytes]:
        run = tmp_path_factory.mktemp("whole") / "run"
        assert train(config_of(setting), run, quiet=True).exit_code == 0
        return contents(run)

    return files


@pytest.mark.parametrize(("setting", "step"), CASES)
def test_interrupted_run_ends_with_the_same_bytes(
    setting: Setting,
    step: int,
    whole: Callable[[Setting], dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights, averages, optimizers, metrics and samples: all files."""
    config, wanted = config_of(setting), whole(setting)
    with monkeypatch.context() as patch:
        stop_at(step, signal.SIGTERM, patch)
        stopped = train(config, tmp_path / "parts", quiet=True)
    assert (stopped.step, stopped.exit_code) == (step + 1, 143)
    resumed = train(config, tmp_path / "parts", "auto", quiet=True)
    assert (resumed.step, resumed.exit_code) == (STEPS, 0)
    found = contents(tmp_path / "parts")
    assert [name for name in wanted if wanted[name] != found.get(name)] == []
    assert {Path(name).parent.name for name in found.keys() - wanted.keys()} <= {f"step-{step + 1:08d}"}
    assert len(wanted["metrics.jsonl"].splitlines()) == STEPS


def test_the_settings_differ_in_what_they_train(tmp_path: Path) -> None:
    """Else the comparison above would say nothing about them."""
    ends = {}
    for setting in SETTINGS:
        if setting[0] == "hms":
            run = tmp_path / "{}-{}-{}".format(*setting)
            train(config_of(setting).model_copy(update={"steps": 1}), run, quiet=True)
            ends[setting] = (run / "checkpoints" / "step-00000001" / "nets.safetensors").read_bytes()
    assert len(set(ends.values())) == len(ends) == 4
