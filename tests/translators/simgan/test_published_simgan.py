"""Weights of SimGAN, in and out: the functions of the plain nets, and the same files again."""

from __future__ import annotations

from pathlib import Path

import plain_simgan as plain
import pytest
import torch
from safetensors.torch import save_file
from simgan_cases import copy, settings_of, translator_of
from torch import Tensor

from m2o_fast.errors import UserError
from m2o_fast.translators import from_official, to_official


def weights(form: str = "gaze") -> dict[str, dict[str, Tensor]]:
    return to_official(translator_of(settings_of({"form": form})))


@pytest.mark.parametrize("form", ["gaze", "hand"])
def test_the_same_functions_and_files(form: str, tmp_path: Path) -> None:
    given = weights(form)
    translator = from_official("simgan", given, domains=["sim", "photo"])
    refiner = plain.Refiner(1, 3, 4, {"gaze": 3, "hand": 7}[form], 2)
    judge = {"gaze": plain.gaze_discriminator, "hand": plain.hand_discriminator}[form](3, 2)
    copy(translator.refiners["1"], refiner)
    copy(translator.discriminators["1"], judge)
    x, y = torch.rand(2, 1, 20, 17) * 2 - 1, torch.rand(2, 3, 20, 17) * 2 - 1
    torch.testing.assert_close(translator.translate(x, "sim", "photo"), refiner(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(translator.discriminate(y, "photo")[0], judge(y), rtol=0, atol=1e-12)
    again = to_official(translator)
    assert list(again) == ["R", "D"] and translator.directions() == ((0, 1),)
    assert translator.describe()["weights"]["content"] == "identity"
    for name, net in given.items():
        assert list(again[name]) == list(net) and all(torch.equal(again[name][key], net[key]) for key in net)
        save_file(again[name], tmp_path / name)  # refuses what is not contiguous


def test_a_net_alone() -> None:
    judged = from_official("simgan", {"D_BA": weights()["D"]})
    assert judged.directions() == () and judged.discriminate(torch.rand(1, 3, 8, 8), "A")[0].shape == (1, 2, 2, 2)
    assert from_official("simgan", {"R_BA": weights()["R"]}).directions() == ((1, 0),)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: {"G": weights()["R"]}, "unknown nets: G "),
        (lambda: {"R": weights()["D"]}, "R: missing stem.weight"),
        (lambda: {"D": weights()["R"]}, "D: missing convs.0.weight"),
        (lambda: {"R": weights()["R"], "D": weights("hand")["D"]}, "the form is gaze in R, hand in D"),
        (lambda: {"R": {**weights()["R"], "stem.weight": torch.zeros(4, 1, 5, 5)}}, "R: its first kernel has a side"),
        (lambda: {"R": {**weights()["R"], "more": torch.zeros(1)}}, "R: the weights do not fit: superfluous more"),
        (lambda: {"R": {k: v for k, v in weights()["R"].items() if "blocks" not in k}}, "R: expected a refiner"),
        (lambda: {"R": {**styled(), "stem.style": torch.zeros(4, 3, 5, 5)}}, "R: stem.style .4, 3, 5, 5. does not go"),
        (lambda: {"R": {**styled(), "stem.style": torch.zeros(4)}}, "R: missing stem.style"),
        (lambda: {"R": styled(), "R_BA": styled()}, "R and R_BA both have a style"),
    ],
)
def test_what_does_not_fit_is_named(given: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_official("simgan", given())  # type: ignore[operator]


@pytest.mark.parametrize(("variant", "names"), [("hmu", ["R", "D"]), ("hms", ["R", "D", "R_BA", "D_BA"])])
def test_a_style_has_weights_of_its_own(variant: str, names: list[str], tmp_path: Path) -> None:
    translator = translator_of(settings_of(), variant, 2, 3)
    given = to_official(translator)
    assert list(given) == names and list(given["R"])[:2] == ["stem.weight", "stem.style"]
    assert given["R"]["stem.weight"].shape == (4, 2, 3, 3) and given["R"]["stem.style"].shape == (4, 3, 3, 3)
    again = from_official("simgan", given)
    ours, theirs = again.describe(), translator.describe()
    assert all(ours[key] == theirs[key] for key in ("domains", "refiners", "discriminators"))
    assert ours["rules"]["zero_style"] and (ours["rules"]["supervised_weight"] > 0) == (variant == "hms")
    x, style = torch.rand(1, 2, 8, 8), torch.randn(1, 3)
    assert torch.equal(again.translate(x, 0, 1, style=style), translator.translate(x, 0, 1, style=style))
    for name, net in to_official(again).items():
        assert list(given[name]) == list(net) and all(torch.equal(given[name][key], net[key]) for key in net)
        save_file(net, tmp_path / name)


def styled() -> dict[str, Tensor]:
    return to_official(translator_of(settings_of(), "hmu"))["R"]


def test_sizes_that_are_too_small() -> None:
    with pytest.raises(UserError, match="the image size must be at least 8"):
        from_official("simgan", weights(), image_size=4)
