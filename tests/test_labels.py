"""Label maps as images and back."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from m2o_fast.labels import draw_labels, palette, read_labels

ADE20K = 151


def distances(colors: torch.Tensor) -> torch.Tensor:
    """Between all pairs of different colours."""
    colors = colors.double()
    return torch.stack([(a - b).norm() for i, a in enumerate(colors) for b in colors[:i]])


def test_the_colors_of_ade20k_are_well_separated() -> None:
    colors = palette(ADE20K)
    assert colors.shape == (ADE20K, 3) and colors.dtype == torch.uint8
    assert colors[0].tolist() == [0, 0, 0]
    # Levels 0, 42, 85, 128, 170, 212, 255; neighbours of the lattice differ by one level in two channels.
    assert distances(colors).min().item() == pytest.approx(np.hypot(42, 42), abs=1e-9)
    assert distances(colors[:9]).min() > 150  # the first classes, which are the most frequent ones, more so


def test_the_palette_is_pinned() -> None:
    """Files that are written today are to be read tomorrow."""
    assert palette(5).tolist() == [[0, 0, 0], [255, 255, 255], [0, 0, 255], [0, 255, 0], [0, 255, 255]]
    assert palette(ADE20K)[[1, 2, 3, 150]].tolist() == [[255, 255, 255], [0, 85, 255], [85, 255, 0], [212, 212, 85]]


@given(st.integers(2, 256))
@settings(max_examples=25, deadline=None)
def test_every_palette_is_injective(classes: int) -> None:
    colors = palette(classes)
    assert len(colors.unique(dim=0)) == classes and not colors[0].any()
    assert distances(colors[torch.randperm(classes)[:20]]).min() > 50


def test_a_palette_is_the_callers_own() -> None:
    palette(7).zero_()
    assert palette(7).any()


@st.composite
def label_maps(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    classes = draw(st.integers(2, 256))
    shape = draw(st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9)))
    dtype = draw(st.sampled_from([torch.uint8, torch.int16, torch.int64]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return torch.randint(0, classes, shape, generator=generator).to(dtype), classes


@given(label_maps(), st.sampled_from(["palette", "onehot"]), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=60, deadline=None)
def test_drawing_and_reading_give_the_map_back(case, kind: str, dtype: torch.dtype) -> None:
    labels, classes = case
    images = draw_labels(labels, kind, classes)
    channels = 3 if kind == "palette" else classes
    assert images.shape == (labels.shape[0], channels, *labels.shape[1:]) and images.dtype == torch.float32
    found = read_labels(images.to(dtype), kind, classes)
    assert found.dtype == torch.int64 and torch.equal(found, labels.long())


def test_a_png_of_all_colors_is_read_exactly() -> None:
    labels = torch.arange(ADE20K * 2).reshape(1, 2, ADE20K) % ADE20K
    picture = (draw_labels(labels, "palette", ADE20K)[0] * 255).round().to(torch.uint8).permute(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(picture.contiguous().numpy()).save(file, format="PNG")
    again = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None]
    assert torch.equal(read_labels(again.float() / 255, "palette", ADE20K), labels)
    inside = (again.float() / 255) * 2 - 1  # as the networks take it
    assert torch.equal(read_labels((inside + 1) / 2, "palette", ADE20K), labels)


def test_reading_takes_the_nearest_color_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2o_fast.labels._CHUNK", 7)
    images = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(3)) * 1.4 - 0.2
    colors = palette(ADE20K).double() / 255
    expected = torch.cdist(images.double().permute(0, 2, 3, 1).reshape(-1, 3), colors).argmin(dim=1)
    assert torch.equal(read_labels(images, "palette", ADE20K).flatten(), expected)
    assert len(expected.unique()) > 10


def test_half_the_smallest_distance_of_noise_changes_no_class() -> None:
    labels = torch.arange(ADE20K).reshape(1, 1, -1)
    images = draw_labels(labels, "palette", ADE20K)
    noise = torch.nn.functional.normalize(torch.randn(images.shape, generator=torch.Generator().manual_seed(1)), dim=1)
    assert torch.equal(read_labels(images + noise * (29.6 / 255), "palette", ADE20K), labels)


def test_the_first_of_equal_classes_is_taken() -> None:
    assert read_labels(torch.zeros(1, 4, 2, 2), "onehot", 4).unique().tolist() == [0]
    middle = (palette(2).double()[0] + palette(2).double()[1]) / 510
    assert read_labels(middle.reshape(1, 3, 1, 1), "palette", 2).item() == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: palette(1), r"in \[2, 256\], got 1"),
        (lambda: palette(257), "got 257"),
        (lambda: draw_labels(torch.zeros(1, 2, 2), "palette", 5), "whole numbers"),
        (lambda: draw_labels(torch.zeros(2, 2, dtype=torch.int64), "palette", 5), r"\[N, H, W\]"),
        (lambda: draw_labels(torch.full((1, 2, 2), 5), "onehot", 5), r"in \[0, 5\), got 5 to 5"),
        (lambda: draw_labels(torch.full((1, 2, 2), -1), "palette", 5), "got -1 to -1"),
        (lambda: draw_labels(torch.zeros(1, 2, 2, dtype=torch.int64), "continuous", 5), "'continuous'"),
        (lambda: read_labels(torch.zeros(1, 3, 2, 2), "continuous", 5), "'continuous'"),
        (lambda: read_labels(torch.zeros(1, 4, 2, 2), "palette", 5), r"float \[N, 3, H, W\]"),
        (lambda: read_labels(torch.zeros(1, 4, 2, 2), "onehot", 5), r"float \[N, 5, H, W\]"),
        (lambda: read_labels(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), "palette", 5), "float"),
    ],
)
def test_wrong_input_is_worded(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
