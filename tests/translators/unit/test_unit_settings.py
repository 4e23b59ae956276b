"""What UNIT's settings mean, and which do not go together."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict

import pytest
from unit_cases import FORMS

from m2o_fast.engine.config import load_config
from m2o_fast.errors import UserError
from m2o_fast.m2o import ManyToOne
from m2o_fast.translators.unit.settings import UNITSettings, Weights


@pytest.mark.parametrize(
    ("model", "side", "message"),
    [
        ({"share": 5}, 32, "^model.share: 5 of 4 residual blocks cannot be shared"),
        ({"share": 4}, 32, "^model.share: with all 4 residual blocks shared, .* at most 3"),
        ({"discriminator_layers": 4}, 32, "model.scales 2 need images of at least 31 pixels"),
        ({"discriminator_layers": 4, "scales": 3}, 32, "need images of at least 61 pixels, not 32; take fewer"),
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


@pytest.mark.parametrize(
    ("form", "every", "refused"), [("rerelease", 0, True), ("paper", None, True), ("paper", 3, False)]
)
def test_a_rate_that_is_never_halved_is_not_halved_early(form: str, every: int | None, refused: bool) -> None:
    optim = {"halve_every": every, "halve_early": True}
    settings = UNITSettings.model_validate({"model": {"form": form}, "optim": optim})
    with pytest.raises(ValueError, match="^optim.halve_early: ") if refused else nullcontext():
        settings.check(32, ManyToOne())


def test_weights_are_those_of_the_form() -> None:
    """lambda_0 to lambda_4 of the paper, the re-release's, and beside either those of what is ours."""
    published = {form: UNITSettings.model_validate({"model": {"form": form}}) for form in FORMS}
    found = {form: Weights(**settings.weights()) for form, settings in published.items()}
    names = ("adversarial", "reconstruction", "cycle", "kl", "cycle_kl", "style", "diversity")
    assert [getattr(found["rerelease"], name) for name in names] == [1, 10, 10, 0.01, 0.01, 1, 1]
    assert [getattr(found["paper"], name) for name in names] == [10, 100, 100, 0.1, 0.1, 10, 10]
    assert {form: settings.supervised() for form, settings in published.items()} == {"rerelease": 10, "paper": 100}
    assert asdict(published["paper"].optim.optimizer("generators"))["weight_decay"] == 1e-4
    chosen = {"style": 0.5, "kl": 0.0, "supervised": 0.7, "kl_of": "sample"}
    settings = UNITSettings.model_validate({"model": {"form": "paper"}, "loss": chosen})
    assert (
        settings.weights() | {"supervised": settings.supervised()}
        == found["paper"].model_dump(exclude={"diversity_steps"}) | chosen
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            [],
            {
                "optim.halve_every": 100_000,
                "discriminator_layers": 4,
                "scales": 3,
                "discriminator_share": 0,
                "supervised": 10,
            },
        ),
        (
            ["model.form=paper"],
            {
                "optim.halve_every": 0,
                "discriminator_layers": 6,
                "scales": 0,
                "discriminator_share": 4,
                "supervised": 100,
            },
        ),
        (["model.form=paper", "optim.halve_every=7", "loss.supervised=3"], {"optim.halve_every": 7, "supervised": 3}),
    ],
)
def test_the_form_alone_makes_a_recipe_that_of_its_form(words: list[str], expected: dict[str, int]) -> None:
    given = ["system=unit", "variant=hms", "data.name=folder", "data.dir=photos", "data.uni=[sketch]", *words]
    config = load_config(preset="folder", assignments=given)
    found = config.settings.kept(config.steps) | config.settings.sizes(config.data.image_size)
    found |= {"supervised": config.rules.supervised_weight}
    assert {"scales": 0, "discriminator_share": 0, **found}.items() >= expected.items()
    schedule = config.filled().optim.optimizer("generators").schedule
    assert (schedule is None) == (expected["optim.halve_every"] == 0)


def test_a_supervised_weight_of_0_is_refused_in_either_form() -> None:
    given = ["system=unit", "variant=hms", "data.name=digits", "loss.supervised=0"]
    for form in FORMS:
        with pytest.raises(UserError, match="loss.supervised is 0; raise it"):
            load_config(assignments=[*given, f"model.form={form}"])


def test_rates_are_halved_in_time_or_one_step_early() -> None:
    rates = []
    for optim in ({"halve_every": 3}, {"halve_every": 3, "halve_early": True}):
        schedule = UNITSettings.model_validate({"optim": optim}).optim.optimizer("generators").schedule
        assert schedule is not None
        rates.append([schedule(index) for index in range(6)])
    assert rates == [[1, 1, 1, 0.5, 0.5, 0.5], [1, 1, 0.5, 0.5, 0.5, 0.25]]
    assert UNITSettings.model_validate({"optim": {"halve_every": 0}}).optim.optimizer("generators").schedule is None
