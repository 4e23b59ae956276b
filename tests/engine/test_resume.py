"""N steps are k steps, a stop and N - k steps, byte for byte."""

from __future__ import annotations

import signal
from itertools import product
from pathlib import Path

import pytest
from tiny import contents, stop_at, tiny_config, tiny_digits

from m2o_fast.engine.loop import train
from m2o_fast.engine.schema import Config

pytestmark = pytest.mark.usefixtures("tiny_data")
STEPS = 6
VARIANTS = {"starganv2": "adain", "hmu": "demod", "hms": "adain"}
SETTINGS = list(product(VARIANTS, ("fp32", "bf16"), (1, 2)))
#: every variant, and every precision with every number of parts, in the middle of an epoch; all others take long
ALWAYS = {("starganv2", "fp32", 1), ("hmu", "bf16", 1), ("hms", "fp32", 2), ("hms", "bf16", 2)}
#: with three steps per epoch; the setting that has all of it is stopped everywhere
STOPS = {"first-step": 0, "epoch-end": 2, "mid-epoch": 4}
CASES = [
    pytest.param(
        setting,
        step,
        id="{}-{}-accumulate{}-{}".format(*setting, place),
        marks=[] if setting == ("hms", "bf16", 2) or (setting in ALWAYS and step == 4) else pytest.mark.slow,
    )
    for setting in SETTINGS
    for place, step in STOPS.items()
]


def config_of(setting: tuple[str, str, int]) -> Config:
    variant, precision, parts = setting
    words = [f"variant={variant}", f"model.style_op={VARIANTS[variant]}", f"precision={precision}"]
    return tiny_config(*words, f"accumulate={parts}", f"steps={STEPS}", "keep_checkpoints=0", "sample_every=3")


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict[str, bytes]]:
    """A configuration and the files of its run without a stop."""
    config, run = config_of(request.param), tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)
        assert train(config, run, quiet=True).exit_code == 0
    return config, contents(run)


@pytest.mark.parametrize(("whole", "step"), CASES, indirect=["whole"])
def test_interrupted_run_ends_with_the_same_bytes(
    whole: tuple[Config, dict[str, bytes]], step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, averages, optimizers, metrics and samples: all files."""
    config, wanted = whole
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
