"""The net for whatever pictures: it learns what it is asked for, the same way every time, and orders damaged copies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from m2o_fast.data.digits import load_digits
from m2o_fast.metrics import FeatureBank, frechet_distance, own_net
from m2o_fast.metrics.features import open_extractor
from m2o_fast.metrics.kept_nets import weights_sha256
from m2o_fast.metrics.own_net import OwnNet, OwnSource, blur, input_size, kept_own_net, train_own_net


def painted(split: str) -> Tensor:
    """Digits in random colours."""
    gray, _ = load_digits(split, 32)
    colors = torch.rand((len(gray), 3, 1, 1), generator=torch.Generator().manual_seed(1))
    return (gray * colors).to(torch.uint8)


@pytest.fixture(scope="module")
def trained() -> tuple[OwnNet, dict[str, float]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_net, "_STEPS", 100)  # an eighth of what is usual
        net, facts = train_own_net([painted("train")], 32)
    return net.eval(), facts


def test_it_learns_what_pictures_show_and_how_they_were_damaged(trained: tuple[OwnNet, dict[str, float]]) -> None:
    assert 0 < trained[1]["thumbnail_mse"] < 0.06  # after 20 steps it is 0.24
    # The amounts have a variance of 0.104 (twice) and 0.167 (three times), which digits of any colour say nothing of.
    assert 0.1 < trained[1]["damage_mse"] < 0.142


def fid(net: OwnNet, images: Tensor, others: Tensor) -> float:
    banks = [FeatureBank(own_net.FEATURES) for _ in range(2)]
    for bank, some in zip(banks, (images, others), strict=True):
        bank.update(net.features(some), torch.arange(len(some)))
    return frechet_distance(banks[0].mean(), banks[0].covariance(), banks[1].mean(), banks[1].covariance())


@torch.no_grad()
def test_more_damage_is_farther_away(trained: tuple[OwnNet, dict[str, float]]) -> None:
    net, _ = trained
    real, test = painted("train").float() / 255, painted("test").float() / 255
    noise = torch.randn(test.shape, generator=torch.Generator().manual_seed(0))
    tint = torch.tensor([1.0, 0.0, -1.0])[:, None, None]
    copies = {
        "blur": [blur(test, torch.full((len(test),), sigma)) for sigma in (1.0, 2.0)],
        "noise": [(test + deviation * noise).clamp(0, 1) for deviation in (0.05, 0.1)],
        "colours": [(test * (1 + share * tint)).clamp(0, 1) for share in (0.2, 0.4)],
        "kinds": [test[:count].repeat(360 // count, 1, 1, 1) for count in (60, 10)],
    }
    whole = fid(net, real, test)
    for name, damages in copies.items():
        distances = [fid(net, real, damage) for damage in damages]
        assert whole < distances[0] < distances[1], name


def test_blur_by_hand() -> None:
    point = torch.zeros(2, 3, 21, 21)
    point[:, :, 10, 10] = 1
    whole, spread = blur(point, torch.tensor([0.0, 1.5]))
    assert torch.allclose(whole, point[0], atol=1e-6)
    offsets = torch.arange(-5, 6).double()
    kernel = torch.exp(-(offsets**2) / (2 * 1.5**2))
    kernel = kernel / kernel.sum()
    assert torch.allclose(spread[0, 5:16, 5:16].double(), kernel[:, None] * kernel, atol=1e-6)


def test_training_depends_on_pictures_and_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_net, "_STEPS", 2)
    pictures = [torch.randint(0, 256, (9, channels, 40, 40), dtype=torch.uint8) for channels in (3, 1)]

    def digest(*arguments: object, **more: int) -> str:
        return weights_sha256(train_own_net(*arguments, **more)[0].state_dict())  # type: ignore[arg-type]

    first = digest(pictures, 64)
    torch.rand(7)
    with torch.no_grad():
        assert digest(pictures, 64) == first
    assert len({first, digest(pictures[::-1], 64), digest(pictures, 64, seed=1)}) == 3
    assert OwnNet(64).features(torch.rand(2, 3, 64, 64)).shape == (2, own_net.FEATURES)
    assert [input_size(size) for size in (16, 32, 48, 64, 256)] == [32, 32, 64, 64, 64]


def test_it_is_trained_once_for_each_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_net, "_STEPS", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def load() -> list[Tensor]:
        calls.append(1)
        return [torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))]

    net, digest = kept_own_net(OwnSource("some", 32, load))
    again = open_extractor("own", own=OwnSource("some", 32, load))
    assert len(calls) == 1 and again.sha256 == digest and not net.training
    assert again.name == "own (some)" and again.size == own_net.FEATURES and again.resize == "bicubic to 32x32"
    images = torch.rand(3, 3, 32, 32)
    assert torch.equal(again(images), net.features(images))
    (path,) = (tmp_path / "m2o_fast" / "extractors").iterdir()
    path.write_bytes(path.read_bytes()[:-4])
    assert kept_own_net(OwnSource("some", 32, load))[1] == digest and len(calls) == 2
    kept_own_net(OwnSource("other", 32, load))
    assert len(calls) == 3


def test_wrong_pictures_are_refused_in_words() -> None:
    for wrong in ([], [torch.zeros(0, 3, 8, 8)], [torch.zeros(2, 4, 8, 8)]):
        with pytest.raises(ValueError, match=r"pictures must be \[n >= 1, 1 or 3, S, S\]"):
            train_own_net(wrong, 32)
