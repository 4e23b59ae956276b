from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from m2o_fast.data.augment import Augment, Views, apply_views
from m2o_fast.labels import draw_labels, read_labels
from m2o_fast.randomness import numpy_generator


def test_views_are_a_pure_function_of_the_sample_number() -> None:
    samples = np.arange(5000)
    everything = Augment().views(7, "source", samples)
    chosen = np.array([4999, 3, 1024, 1023])
    some = Augment().views(7, "source", chosen)
    assert torch.equal(some.boxes, everything.boxes[chosen]) and torch.equal(some.flips, everything.flips[chosen])
    for other in (Augment().views(8, "source", samples), Augment().views(7, "reference", samples)):
        assert not torch.equal(other.boxes, everything.boxes) and not torch.equal(other.flips, everything.flips)


def test_crops_have_the_published_areas_aspects_and_shares() -> None:
    views = Augment(0.5, 0.25).views(7, "source", np.arange(20000))
    left, top, width, height = views.boxes.double().unbind(1)
    cropped = (width < 1) | (height < 1)
    area, aspect = (width * height)[cropped], (width / height)[cropped]
    assert abs(cropped.double().mean() - 0.5) < 0.02 and abs(views.flips.double().mean() - 0.25) < 0.02
    assert area.min() >= 0.8 - 1e-6 and area.max() <= 1 and aspect.min() >= 0.9 - 1e-6 and aspect.max() <= 1.1 + 1e-6
    assert abs(views.flips[cropped].double().mean() - 0.25) < 0.02  # crop and flip do not depend on each other
    assert len(views.boxes[cropped].unique(dim=0)) == int(cropped.sum())  # and no two samples share a crop
    assert area.min() < 0.81 and aspect.min() < 0.91 and aspect.max() > 1.09
    assert left.min() >= 0 and top.min() >= 0 and (left + width).max() <= 1 + 1e-6 and (top + height).max() <= 1 + 1e-6


def test_the_resized_law_draws_in_a_fixed_order() -> None:
    """Runs that go on see the crops that they would have seen: coins, areas, aspects, corners."""
    generator = numpy_generator(7, "augment/source", 0)
    coins = generator.random((1024, 2))
    area = generator.uniform(0.8, 1.0, (1024, 10))
    aspect = np.exp(generator.uniform(np.log(0.9), np.log(1.1), (1024, 10)))
    corners = generator.random((1024, 2))
    views = Augment(0.5, 0.25).views(7, "source", np.arange(1024))
    assert np.array_equal(views.flips.numpy(), coins[:, 1] < 0.25)
    for box, coin, areas, aspects, corner in zip(views.boxes.numpy(), coins, area, aspect, corners, strict=True):
        sizes = [np.sqrt([a * r, a / r]) for a, r in zip(areas, aspects, strict=True) if max(a * r, a / r) <= 1]
        size = sizes[0] if sizes and coin[0] < 0.5 else np.ones(2)
        np.testing.assert_allclose(box, [*(corner * (1 - size)), *size], rtol=0, atol=1e-6)


def test_jitter_is_a_crop_of_256_pixels_of_an_image_enlarged_to_286() -> None:
    views = Augment(1.0, 0.0, "jitter").views(7, "source", np.arange(5000))
    offsets = views.boxes[:, :2].double() * 286
    assert (offsets - offsets.round()).abs().max() < 1e-4
    assert all(side.round().unique().tolist() == list(range(31)) for side in offsets.unbind(1)), "every corner"
    assert torch.equal(views.boxes[:, 2:], torch.full((5000, 2), 256 / 286))
    images = torch.rand(4, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    found = apply_views(images, views.rows(torch.arange(4)))
    enlarged = F.interpolate(images, (286, 286), mode="bilinear")
    for image, large, (left, top) in zip(found, enlarged, offsets.round().int().tolist(), strict=False):
        torch.testing.assert_close(image, large[:, top : top + 256, left : left + 256], rtol=0, atol=1e-4)
    some = Augment(0.5, 0.25, "jitter").views(7, "source", np.arange(20000))
    cropped = some.boxes[:, 2] < 1
    assert abs(cropped.double().mean() - 0.5) < 0.02 and abs(some.flips.double().mean() - 0.25) < 0.02
    assert torch.equal(some.boxes[~cropped].unique(dim=0), torch.tensor([[0.0, 0.0, 1.0, 1.0]]))


def test_no_crop_and_no_flip_keep_the_bits() -> None:
    images = torch.rand(6, 3, 9, 9)
    views = Augment(0.0, 0.0).views(7, "source", np.arange(6))
    assert not Augment(0.0, 0.0).enabled and Augment(0.0, 0.1).enabled and Augment(0.1, 0.0).enabled
    assert torch.equal(apply_views(images, views), images)


def test_a_flip_mirrors_left_and_right_and_leaves_the_others() -> None:
    images = torch.rand(2, 3, 4, 5)
    views = Views(torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2), torch.tensor([True, False]))
    result = apply_views(images, views)
    assert torch.equal(result[0], images[0].flip(2)) and torch.equal(result[1], images[1])


def test_a_crop_shows_what_is_in_the_box() -> None:
    """On a linear ramp bilinear sampling is exact, so the crop must show the coordinates of the box."""
    size = 16
    centres = (torch.arange(size) + 0.5) / size
    ramp = torch.stack([centres.expand(size, size), centres[:, None].expand(size, size)])[None]
    left, top, width, height = 0.125, 0.0625, 0.75, 0.875
    views = Views(torch.tensor([[left, top, width, height]]), torch.tensor([False]))
    result = apply_views(ramp, views)[0]
    torch.testing.assert_close(result[0], (left + width * centres).expand(size, size), rtol=0, atol=1e-6)
    torch.testing.assert_close(result[1], (top + height * centres)[:, None].expand(size, size), rtol=0, atol=1e-6)


def test_a_crop_at_the_edge_takes_nothing_from_beyond_it() -> None:
    views = Augment(1.0, 0.0).views(3, "source", np.arange(64))
    views.boxes[0] = torch.tensor([0.0, 0.0, 0.9, 0.9])
    torch.testing.assert_close(apply_views(torch.ones(64, 1, 8, 8), views), torch.ones(64, 1, 8, 8))


def test_the_same_views_keep_a_colored_image_the_product_of_gray_and_color() -> None:
    gray = torch.rand(8, 1, 16, 16)
    color = torch.rand(8, 3, 1, 1)
    views = Augment(1.0, 0.5).views(3, "source", np.arange(8))
    colored = apply_views(gray * color, views)
    assert not torch.equal(colored, gray * color)
    torch.testing.assert_close(colored, apply_views(gray, views) * color, rtol=0, atol=1e-6)


def test_no_images_are_no_problem() -> None:
    views = Augment(1.0, 1.0).views(3, "source", np.arange(0))
    assert apply_views(torch.zeros(0, 3, 8, 8), views).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("options", [{"crop_probability": 1.5}, {"flip_probability": -0.1}, {"crop_law": "x"}])
def test_probabilities_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Augment(**options)


@pytest.mark.parametrize("kind", ["palette", "onehot"])
def test_a_nearest_view_of_a_drawn_label_map_is_the_drawn_view(kind: str) -> None:
    labels = torch.randint(0, 151, (8, 16, 16), generator=torch.Generator().manual_seed(0))
    views = Augment(1.0, 0.5).views(3, "source", np.arange(8))
    drawn = apply_views(draw_labels(labels, kind, 151), views, nearest=True)
    viewed = apply_views(labels[:, None].float(), views, nearest=True)[:, 0].long()
    assert torch.equal(drawn, draw_labels(viewed, kind, 151)) and torch.equal(read_labels(drawn, kind, 151), viewed)
    assert not torch.equal(viewed, labels)
    assert not torch.equal(apply_views(draw_labels(labels, kind, 151), views), drawn)  # bilinear is another


def test_a_nearest_crop_shows_the_pixels_in_the_box() -> None:
    """A crop of whole pixels that is enlarged by a whole factor repeats each of them."""
    labels = torch.arange(64.0).reshape(1, 1, 8, 8)
    views = Views(torch.tensor([[0.25, 0.5, 0.5, 0.5]]), torch.tensor([False]))
    expected = labels[:, :, 4:8, 2:6].repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(apply_views(labels, views, nearest=True), expected)
