"""The affine map of styles: it takes one mean and covariance to another, by the shortest way."""

from __future__ import annotations

import math

import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from m2o_fast.nn.style_fit import Moments, StyleFit, shortest_way


def covariance(seed: int, dim: int, spread: float = 1.0) -> Tensor:
    """A random one whose standard deviations differ by factors."""
    generator = torch.Generator().manual_seed(seed)
    turned, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    return turned * torch.exp(spread * torch.randn(dim, generator=generator, dtype=torch.float64)) @ turned.T


def floored(wanted: Tensor) -> Tensor:
    return 1e-3 * wanted.trace() / len(wanted) * torch.eye(len(wanted), dtype=torch.float64)


@given(seeds=st.tuples(st.integers(0, 999), st.integers(0, 999)), dim=st.integers(1, 9))
def test_the_way_leads_there_and_no_other_symmetric_positive_one_does(seeds: tuple[int, int], dim: int) -> None:
    found, wanted = (covariance(seed, dim) for seed in seeds)
    way = shortest_way(found, wanted)
    assert torch.allclose(way, way.T, atol=1e-9) and torch.linalg.eigvalsh(way)[0] > 0
    assert torch.allclose(way @ (found + floored(wanted)) @ way, wanted + floored(wanted), atol=1e-9)


def test_as_scipy_has_it() -> None:
    found, wanted = covariance(1, 6), covariance(2, 6)
    a, b = ((x + floored(wanted)).numpy() for x in (found, wanted))
    root = scipy.linalg.sqrtm(a)
    way = scipy.linalg.inv(root) @ scipy.linalg.sqrtm(root @ b @ root) @ scipy.linalg.inv(root)
    assert torch.allclose(shortest_way(found, wanted), torch.from_numpy(way), atol=1e-9)


def test_by_hand() -> None:
    # Independent directions are scaled by the ratio of standard deviations, each with a floor of 1e-3 * (16 + 0) / 2.
    way = shortest_way(torch.diag(torch.tensor([4.0, 0.0]).double()), torch.diag(torch.tensor([16.0, 0.0]).double()))
    assert torch.allclose(way, torch.diag(torch.tensor([math.sqrt(16.008 / 4.008), 1.0]).double()), atol=1e-12)


def test_a_direction_that_nothing_uses_stays_finite() -> None:
    found = torch.diag(torch.tensor([1.0, 1e-30]).double())
    assert shortest_way(found, torch.eye(2).double()).abs().max() < 40


def test_moves_add_up_and_leave_alone_what_is_right() -> None:
    generator = torch.Generator().manual_seed(3)
    styles = torch.randn(4000, 3, generator=generator) @ torch.randn(3, 3, generator=generator) + 2
    fit = StyleFit(3).eval()
    assert torch.equal(fit(styles), styles)
    wanted = Moments(torch.tensor([1.0, -2.0, 0.5]).double(), covariance(5, 3, spread=0.3))
    for _ in range(2):  # the second one has next to nothing to do
        fit.move(Moments.of(fit(styles)), wanted)
        reached = Moments.of(fit(styles))
        assert torch.allclose(reached.mean, wanted.mean, atol=1e-5)
        assert torch.allclose(reached.covariance, wanted.covariance, rtol=5e-3, atol=5e-3)
    assert fit.train()(styles) is styles


@pytest.mark.parametrize(
    ("styles", "usable"),
    [
        (torch.tensor([[0.0], [1.0]]), True),
        (torch.ones(4, 2), False),
        (torch.tensor([[math.nan, 0.0], [1.0, 2.0]]), False),
        (torch.tensor([[math.inf, 0.0], [1.0, 2.0]]), False),
    ],
)
def test_what_styles_can_be_fitted_to(styles: Tensor, usable: bool) -> None:
    assert Moments.of(styles).is_usable() is usable


def test_moments_by_hand() -> None:
    moments = Moments.of(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
    assert moments.mean.tolist() == [1, 3] and moments.covariance.tolist() == [[1, 2], [2, 4]]


def test_distance_by_hand() -> None:
    # Along each axis the difference of means and of standard deviations, squared: 3^2 + (2 - 1)^2 + (1 - 1)^2.
    zeros, ones = torch.zeros(2).double(), torch.eye(2).double()
    a = Moments(zeros, torch.diag(torch.tensor([4.0, 1.0]).double()))
    b = Moments(torch.tensor([0.0, 3.0]).double(), ones)
    assert a.distance(b) == pytest.approx(10, rel=1e-3) and b.distance(a) == pytest.approx(10, rel=1e-3)
    assert a.distance(a) == pytest.approx(0, abs=1e-12)
