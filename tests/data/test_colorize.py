from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from m2o_fast.data.colorize import DARKEST, ColorizedDigits, draw_colors
from m2o_fast.errors import UserError
from m2o_fast.randomness import numpy_generator


def digits(count: int = 50, **options: object) -> ColorizedDigits:
    generator = torch.Generator().manual_seed(1)
    content = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ColorizedDigits(content, torch.arange(count) % 10, **{"split": "train", **options})


def test_rgb_is_uniform_in_the_cube_without_its_dark_corner() -> None:
    colors = draw_colors("rgb", 64000, numpy_generator(1, "test"))
    assert colors.dtype == np.float32 and colors.max(axis=1).min() >= DARKEST and colors.max() < 1
    cells = np.zeros((4, 4, 4))
    np.add.at(cells, tuple((colors * 4).astype(int).T), 1)  # with 4 bins per channel the dark corner is one cell
    assert cells[0, 0, 0] == 0
    expected = 64000 / 63
    others = np.delete(cells.ravel(), 0)
    assert ((others - expected) ** 2 / expected).sum() < 108  # chi-square with 62 degrees of freedom: p > 0.0003


def test_hue_is_saturated_and_uniform() -> None:
    colors = draw_colors("hue", 6000, numpy_generator(1, "test"))
    assert colors.dtype == np.float32
    assert (colors.max(axis=1) == 1).all() and (colors.min(axis=1) == 0).all()
    hues = np.array([colorsys.rgb_to_hsv(*map(float, color))[0] for color in colors])
    assert np.abs(np.sort(hues) - np.linspace(0, 1, 6000)).max() < 0.025  # Kolmogorov-Smirnov: p > 0.001


def test_a_colored_image_is_exactly_content_times_color() -> None:
    dataset = digits()
    indices, epochs = torch.tensor([3, 3, 40, 7]), torch.tensor([0, 5, 5, 2])
    images = dataset.images("color", indices, epochs)
    content, colors = dataset.content(indices), dataset.colors(indices, epochs)
    assert images.dtype == torch.float32 and images.shape == (4, 3, 8, 8)
    assert torch.equal(images, content * colors[:, :, None, None])
    assert torch.equal(dataset.images("gray", indices, epochs), content)
    assert content.min() >= 0 and content.max() <= 1


def test_colors_are_a_pure_function_of_seed_split_epoch_and_number() -> None:
    dataset, everyone = digits(), list(range(50))
    colors = dataset.colors(everyone, 4)
    assert torch.equal(digits().colors([30], [4]), colors[30:31])
    for other in (dataset.colors(everyone, 5), digits(seed=1).colors(everyone, 4)):
        assert not torch.equal(other, colors)
    assert not torch.equal(digits(split="test").colors(everyone, 4), colors)
    assert not torch.equal(digits(color_law="hue").colors(everyone, 4), colors)


def test_pairs_are_the_same_digit_in_the_other_domain() -> None:
    dataset = digits()
    indices = [1, 9, 9]
    images, known = dataset.pair("color", "gray", indices)
    assert torch.equal(images, dataset.content(indices)) and known.all()
    colored, known = dataset.pair("gray", "color", indices, 3)
    assert known.all() and torch.equal(colored, dataset.images("color", indices, 3))
    assert dataset.looks("gray", "color", 0).tolist() == [], "they are too many to list"
    assert dataset.pair("color", "color", indices) is None and dataset.pair("gray", "gray", indices) is None


def test_the_known_pairs_are_a_fixed_nested_choice() -> None:
    everyone = list(range(50))

    def known(fraction: float, seed: int = 777) -> torch.Tensor:
        images, mask = digits(pair_fraction=fraction, seed=seed).pair(0, 1, everyone)
        assert not images[~mask].any() and images[mask].any()
        return mask

    assert known(0.2).sum() == 10 and known(0.5).sum() == 25
    assert (known(0.5) | ~known(0.2)).all()
    assert torch.equal(known(0.2), known(0.2)) and not torch.equal(known(0.2), known(0.2, seed=1))
    assert not digits(pair_fraction=0.0).pair(0, 1, everyone)[1].any()


def test_domains_and_counts() -> None:
    dataset = digits()
    assert [(d.name, d.channels, d.multimodal) for d in dataset.domains] == [("color", 3, True), ("gray", 1, False)]
    assert dataset.count("color") == dataset.count(1) == 50 and dataset.image_size == 8
    assert dataset.images("color", []).shape == (0, 3, 8, 8) and dataset.images(1, np.arange(2)).shape == (2, 1, 8, 8)


def test_wrong_arguments_are_named() -> None:
    dataset = digits()
    with pytest.raises(ValueError, match=r"in \[0, 50\) for domain 'color', got 3 to 50"):
        dataset.images("color", [3, 50])
    with pytest.raises(ValueError, match=r"got -1 to -1"):
        dataset.content([-1])
    with pytest.raises(ValueError, match="unknown domain 'blue'; the domains are color, gray"):
        dataset.count("blue")
    with pytest.raises(ValueError, match="unknown domain 2"):
        dataset.images(2, [0])
    with pytest.raises(ValueError, match="whole numbers"):
        dataset.images("gray", torch.tensor([0.5]))
    with pytest.raises(ValueError, match="2 images need as many epochs, got 3"):
        dataset.images("color", [0, 1], [0, 1, 2])
    with pytest.raises(UserError, match="unknown colour law 'cmyk'; choose from rgb, hue"):
        digits(color_law="cmyk")
    with pytest.raises(UserError, match=r"pair_fraction must be in \[0, 1\], got 1.5"):
        digits(pair_fraction=1.5)
    with pytest.raises(ValueError, match="content must be uint8"):
        ColorizedDigits(torch.zeros(2, 1, 8, 8), torch.zeros(2), split="train")
    with pytest.raises(ValueError, match="at least one square image"):
        ColorizedDigits(torch.zeros(2, 1, 8, 9, dtype=torch.uint8), torch.zeros(2), split="train")
    with pytest.raises(ValueError, match="2 images need as many labels"):
        ColorizedDigits(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(3), split="train")
