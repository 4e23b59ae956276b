"""Colours covered: cases by hand, the definition in plain loops, and generators that should and should not win."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from m2o_fast.metrics import PixelColors, pixel_color_report

RED, GREEN, WHITE, GRAY, PALE = (1, 0, 0), (0, 1, 0), (1, 1, 1), (0.5, 0.5, 0.5), (1, 0.8, 0.8)


def picture(*colors: tuple[float, float, float]) -> Tensor:
    """An image of one row, ``[1, 3, 1, n]``."""
    return torch.tensor(colors, dtype=torch.float32).T[None, :, None]


def colors_of(*groups: Tensor) -> PixelColors:
    found = PixelColors(len(groups))
    for group, images in enumerate(groups):
        found.update(images, torch.full((len(images),), group))
    return found


def recall(generated: PixelColors, *real: Tensor) -> float:
    """Against two groups of real images; of one, against that and itself."""
    return pixel_color_report(generated, colors_of(*(real * 2)[:2]))["pixel_color_recall"]


def test_a_case_by_hand() -> None:
    """Real: half of the pixels red, a quarter green, a quarter white; generated: a quarter red, no green."""
    real = picture(RED, RED, GREEN, WHITE)
    made = colors_of(picture(RED, GRAY, WHITE, WHITE))
    assert colors_of(real).per_pixel().sum() == 0.75 and colors_of(real).pixels.tolist() == [4]
    report = pixel_color_report(made, colors_of(real, real))
    assert report == {"pixel_color_recall": pytest.approx(0.25 / 0.75), "pixel_color_recall_ceiling": 1.0}


def test_white_paper_does_not_count_and_pale_colours_count_little() -> None:
    red, pale = picture(RED, WHITE, WHITE, WHITE), picture(PALE, WHITE, WHITE, WHITE)
    assert recall(colors_of(picture(WHITE, WHITE)), red) == 0
    assert recall(colors_of(pale), pale) == pytest.approx(1)
    assert recall(colors_of(pale), red) == 0  # other cells
    assert recall(colors_of(red), pale) == 0


def test_more_colour_than_real_images_have_is_all_of_it_in_the_shares_that_it_has() -> None:
    real = picture(RED, WHITE, WHITE, WHITE)
    assert recall(colors_of(picture(RED)), real) == 1
    assert recall(colors_of(picture(RED, RED, GREEN, WHITE)), real) == pytest.approx(2 / 3)


def test_between_two_cells_a_colour_belongs_to_both() -> None:
    real, near = picture((1, 0.4, 0)), colors_of(picture((1, 0.3, 0)))
    assert 0.7 < recall(near, real) < 1


def test_all_groups_count() -> None:
    red, both = picture(RED, RED), picture(RED, GREEN)
    assert pixel_color_report(colors_of(red, both), colors_of(both, red)) == {
        "pixel_color_recall": pytest.approx((0.5 + 1 + 1 + 0.5) / 4),
        "pixel_color_recall_ceiling": pytest.approx((0.5 + 0.5) / 2),
    }
    empty = PixelColors(2)
    empty.update(red)
    assert recall(empty, red) == 1


def test_it_is_the_definition_however_it_is_cut() -> None:
    images = torch.rand(7, 3, 5, 16, generator=torch.Generator().manual_seed(1))
    levels = np.rint(images.numpy() * np.float32(255)).reshape(7, 3, 5, 8, 2).mean(4)
    mass = np.zeros(64)
    for pixel in np.rint(levels).transpose(0, 2, 3, 1).reshape(-1, 3):
        for cell in product(range(4), repeat=3):
            near = np.prod(np.maximum(0, 1 - abs(pixel / 85 - cell)))
            mass[cell[0] * 16 + cell[1] * 4 + cell[2]] += near * (pixel.max() - pixel.min())
    whole, first, second = colors_of(images), PixelColors(), colors_of(images[3:])
    for image in images[:3].split(1):
        first.update(image)
    first.merge_state(second.state())
    assert whole.pixels.tolist() == [7 * 40] and whole.per_pixel()[0].tolist() == pytest.approx(mass / 255 / 280)
    assert torch.equal(first.mass, whole.mass) and torch.equal(first.pixels, whole.pixels)


def squares(count: int, generator: torch.Generator) -> Tensor:
    """A square of one colour on each white picture."""
    images = torch.ones(count, 3, 32, 32)
    for image in images:
        row, column = torch.randint(0, 17, (2,), generator=generator).tolist()
        image[:, row : row + 16, column : column + 16] = torch.rand(3, 1, 1, generator=generator)
    return images


@pytest.mark.parametrize("count", [16, 64])
def test_a_perfect_generator_comes_to_its_ceiling_and_noise_does_not(count: int) -> None:
    """Four pictures for each real one, in groups as large as a half of these."""
    generator = torch.Generator().manual_seed(0)
    reports = []
    for _ in range(4):
        real = colors_of(*squares(count, generator).chunk(2))
        noise = torch.rand(4 * count, 3, 32, 32, generator=generator)
        pictures = (squares(4 * count, generator), noise, squares(1, generator).expand(count, -1, -1, -1))
        found = [pixel_color_report(colors_of(*images.split(count // 2)), real) for images in pictures]
        reports.append([found[0]["pixel_color_recall_ceiling"], *(one["pixel_color_recall"] for one in found)])
    ceiling, perfect, noise_recall, one_picture = np.mean(reports, axis=0)
    assert ceiling == pytest.approx(perfect, abs=0.08) and ceiling > 0.25
    assert noise_recall < perfect - 0.05 and one_picture < perfect - 0.1


def test_without_colours_there_is_no_number() -> None:
    gray, red = picture(GRAY, WHITE), picture(RED)
    assert pixel_color_report(colors_of(red), colors_of(gray, gray)) == {}
    assert pixel_color_report(colors_of(red), colors_of(red, gray)) == {}
    assert pixel_color_report(PixelColors(), colors_of(red, red)) == {}


def test_wrong_input_is_refused_in_words() -> None:
    for wrong in (torch.zeros(1, 1, 2, 2), torch.zeros(3, 2, 2), torch.full((1, 3, 2, 2), torch.nan)):
        with pytest.raises(ValueError, match=r"must be \[N, 3, H, W\] without NaN"):
            PixelColors().update(wrong)
