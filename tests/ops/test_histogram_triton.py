"""How the Triton launchers of the histogram family divide images among programs."""

from __future__ import annotations

import itertools
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # has to be set before the kernels are imported
pytest.importorskip("triton")

from histogram_cases import make_images  # noqa: E402

from m2o_fast.ops import unique_color_count  # noqa: E402
from m2o_fast.ops.triton import histogram  # noqa: E402
from m2o_fast.ops.triton.histogram import _parts_of, _run_of  # noqa: E402


def test_parts_cover_every_pixel_once() -> None:
    for count, pixels in itertools.product((1, 8, 10_000), (1, 15, 16, 49, 1024, 5000, 2**16, 10**7, 2**31)):
        parts, part_pixels, block = _parts_of(count, pixels)
        assert block & (block - 1) == 0 and part_pixels % block == 0 and block >= 16
        assert (parts - 1) * part_pixels < pixels <= parts * part_pixels and parts <= 1024


def test_runs_are_evenly_spaced_pixels() -> None:
    planes = torch.empty(2, 6, 8)
    assert _run_of(planes).one and _run_of(planes[:, :1, ::3]).one
    assert _run_of(torch.empty(2, 6, 8, 3)[..., 0]) == (144, 24, 3, True)
    assert not _run_of(planes[:, :, 1:]).one and not _run_of(planes.transpose(1, 2)).one


@pytest.mark.parametrize("most_per_program", [16384, 16])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_sets_of_colours_are_empty_for_the_next_image(monkeypatch, dtype, most_per_program) -> None:
    """With fewer sets than images: by a second look at the pixels, or between the launches."""
    monkeypatch.setattr(histogram, "SET_WORDS", 2 * 2**24 // 32)
    monkeypatch.setattr(histogram, "MOST_PER_PROGRAM", most_per_program)
    images, _ = make_images((5, 3, 9, 4), dtype)
    images[2:4] = images[0]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    counts = unique_color_count(images.to(device), per_image=True, backend="triton")
    assert torch.equal(counts.cpu(), unique_color_count(images, per_image=True, backend="reference"))
