"""What UNIT's settings mean, and which do not go together."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from unit_cases import SIDE

from m2o_fast.m2o import ManyToOne
from m2o_fast.translators.unit.settings import UNITSettings, Weights

FORMS = ("rerelease", "paper")


@pytest.mark.parametrize(
    ("model", "side", "message"),
    [
        ({"share": 5}, 32, "^model.share: 5 of 4 residual blocks cannot be shared"),
        ({"share": 4}, 32, "^model.share: with all 4 residual blocks shared, .* at most 3"),
        ({"discriminator_layers": 4}, 32, "model.scales 2 needs images of at least 31 pixels"),
        ({"discriminator_layers": 4, "scales": 3}, 32, "needs images of at least 61 pixels; take fewer"),
        ({"discriminator_share": 1}, 32, "^model.discriminator_share: the re-release shares no discriminator"),
        ({"form": "paper", "scales": 1}, 32, "^model.scales: the paper's discriminators"),
        ({"form": "paper", "discriminator_share": 4}, 32, "of 4 layers at most 3 can be shared, got 4"),
    ],
)
def test_settings_that_do_not_go_together(model: dict[str, object], side: int, message: str) -> None:
    settings = UNITSettings.model_validate({"model": model})
    if "at least 31" in message:
        settings.check(side, ManyToOne())
        side -= 4
    with pytest.raises(ValueError, match=message):
        settings.check(side, ManyToOne())


def test_weights_are_those_of_the_form() -> None:
    """lambda_0 to lambda_4 of the paper; the re-release's."""
    published = {form: UNITSettings.model_validate({"model": {"form": form}}) for form in FORMS}
    found = {
        form: Weights(**settings.description([], ManyToOne(), SIDE)["weights"]) for form, settings in published.items()
    }
    names = ("adversarial", "reconstruction", "cycle", "kl", "cycle_kl")
    assert [getattr(found["rerelease"], name) for name in names] == [1, 10, 10, 0.01, 0.01]
    assert [getattr(found["paper"], name) for name in names] == [10, 100, 100, 0.1, 0.1]
    assert asdict(published["paper"].optim.optimizer("generators"))["weight_decay"] == 1e-4


def test_rates_are_halved_in_time_or_one_step_early() -> None:
    rates = []
    for optim in ({"halve_every": 3}, {"halve_every": 3, "halve_early": True}):
        schedule = UNITSettings.model_validate({"optim": optim}).optim.optimizer("generators").schedule
        assert schedule is not None
        rates.append([schedule(index) for index in range(6)])
    assert rates == [[1, 1, 1, 0.5, 0.5, 0.5], [1, 1, 0.5, 0.5, 0.5, 0.25]]
    assert UNITSettings.model_validate({"optim": {"halve_every": 0}}).optim.optimizer("generators").schedule is None
