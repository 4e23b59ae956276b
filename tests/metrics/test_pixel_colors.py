"""Colours covered: cases by hand, and the definition in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m2o_fast.metrics import PixelColors, pixel_color_report

RED, GREEN, WHITE, GRAY, PALE = (1, 0, 0), (0, 1, 0), (1, 1, 1), (0.5, 0.5, 0.5), (1, 0.8, 0.8)


def picture(*colors: tuple[float, float, float]) -> torch.Tensor:
    """An image of one row, ``[1, 3, 1, n]``."""
    return torch.tensor(colors, dtype=torch.float32).T[None, :, None]


def colors_of(*images: torch.Tensor) -> PixelColors:
    found = PixelColors()
    for image in images:
        found.update(image)
    return found


def test_a_case_by_hand() -> None:
    """Real: half of the pixels red, a quarter green, a quarter white; generated: a quarter red, no green."""
    real = colors_of(picture(RED, RED, GREEN, WHITE))
    made = colors_of(picture(RED, GRAY, WHITE, WHITE))
    assert real.per_pixel().sum() == 0.75 and real.pixels == 4
    report = pixel_color_report(made, real, real)
    assert report == {"pixel_color_recall": pytest.approx(0.25 / 0.75), "pixel_color_recall_ceiling": 1.0}


def test_white_paper_does_not_count_and_pale_colours_count_little() -> None:
    real = colors_of(picture(RED, WHITE, WHITE, WHITE))
    assert pixel_color_report(colors_of(picture(WHITE, WHITE)), real, real)["pixel_color_recall"] == 0
    pale = colors_of(picture(PALE, WHITE, WHITE, WHITE))
    assert pixel_color_report(pale, pale, pale)["pixel_color_recall"] == 1
    assert pixel_color_report(pale, real, real)["pixel_color_recall"] == 0  # another cell
    assert pixel_color_report(real, pale, pale)["pixel_color_recall"] == 0


def test_more_colour_than_real_images_have_is_no_more_than_all_of_it() -> None:
    real = colors_of(picture(RED, WHITE))
    assert pixel_color_report(colors_of(picture(RED)), real, real)["pixel_color_recall"] == 1


def test_both_halves_of_the_real_images_count() -> None:
    halves = colors_of(picture(RED, GREEN)), colors_of(picture(RED, RED))
    assert pixel_color_report(colors_of(picture(RED, RED)), *halves) == {
        "pixel_color_recall": pytest.approx((0.5 + 1) / 2),
        "pixel_color_recall_ceiling": pytest.approx((0.5 + 0.5) / 2),
    }


def test_it_is_the_definition_however_it_is_cut() -> None:
    images = torch.rand(7, 3, 5, 4, generator=torch.Generator().manual_seed(1))
    mass = np.zeros(64)
    for pixel in np.rint(images.permute(0, 2, 3, 1).reshape(-1, 3).numpy() * 255).astype(int):
        red, green, blue = pixel // 64
        mass[red * 16 + green * 4 + blue] += pixel.max() - pixel.min()
    whole, first, second = colors_of(images), colors_of(*images[:3].split(1)), colors_of(images[3:])
    first.merge_state(second.state())
    for found in (whole, first):
        assert found.mass.tolist() == mass.tolist() and found.pixels == 7 * 20
    assert whole.per_pixel().tolist() == pytest.approx((mass / 255 / 140).tolist())


def test_samples_of_one_distribution_come_to_their_ceiling() -> None:
    generator = torch.Generator().manual_seed(2)
    made, real, other = (colors_of(torch.rand(30, 3, 8, 8, generator=generator)) for _ in range(3))
    report = pixel_color_report(made, real, other)
    assert report["pixel_color_recall"] == pytest.approx(report["pixel_color_recall_ceiling"], abs=0.03)
    assert 0.8 < report["pixel_color_recall_ceiling"] < 1


def test_without_colours_there_is_no_number() -> None:
    gray, red = colors_of(picture(GRAY, WHITE)), colors_of(picture(RED))
    assert pixel_color_report(red, gray, gray) == {} == pixel_color_report(red, red, gray)
    assert pixel_color_report(PixelColors(), red, red) == {}


def test_wrong_input_is_refused_in_words() -> None:
    for wrong in (torch.zeros(1, 1, 2, 2), torch.zeros(3, 2, 2), torch.full((1, 3, 2, 2), torch.nan)):
        with pytest.raises(ValueError, match=r"must be \[N, 3, H, W\] without NaN"):
            PixelColors().update(wrong)
