"""An affine map of styles that is fitted, not trained, so that random styles are spread as those of real images.

Spread alike means: with the same mean and covariance, as where a normal law is fitted to what an encoder makes of real
images once it is trained ("ex-post density estimation", arXiv 1903.12436, section 4).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

_FLOOR = 1e-3  # added to all variances, as a share of their mean: directions that nothing uses are left nearly alone


class Moments(NamedTuple):
    """Of styles: mean ``[d]`` and covariance ``[d, d]``, float64 on the CPU."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, styles: Tensor) -> Moments:
        """Those of at least two styles ``[n, d]``."""
        rows = styles.detach().double().cpu()
        return cls(rows.mean(dim=0), torch.cov(rows.T, correction=0).reshape(rows.shape[1], rows.shape[1]))

    def is_usable(self) -> bool:
        """Whether all are finite, and styles differ at all."""
        return bool(self.mean.isfinite().all() and self.covariance.isfinite().all() and self.covariance.trace() > 0)

    def distance(self, other: Moments) -> float:
        """Squared Wasserstein distance of the normal laws with these moments and the other ones, both usable."""
        way = shortest_way(self.covariance, other.covariance)
        of_spread = (self.covariance + other.covariance - 2 * way @ self.covariance).trace()
        return float((self.mean - other.mean).square().sum() + of_spread)


class StyleFit(nn.Module):
    """``matrix @ style + shift`` in evaluation mode; in training, and until it is fitted, styles stay as they are.

    Args:
        style_dim: Length d of a style.

    Attributes:
        matrix: Buffer ``[d, d]``.
        shift: Buffer ``[d]``.
    """

    matrix: Tensor
    shift: Tensor

    def __init__(self, style_dim: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.eye(style_dim))
        self.register_buffer("shift", torch.zeros(style_dim))

    def forward(self, style: Tensor) -> Tensor:
        """Styles ``[n, d]`` to styles ``[n, d]``."""
        if self.training:
            return style
        return nn.functional.linear(style, self.matrix, self.shift)

    @torch.no_grad()
    def move(self, found: Moments, wanted: Moments) -> None:
        """Puts behind what there is the map that takes one mean and covariance to others by the shortest way."""
        way = shortest_way(found.covariance, wanted.covariance)
        self.matrix.copy_(way @ self.matrix.double().cpu())
        self.shift.copy_(way @ (self.shift.double().cpu() - found.mean) + wanted.mean)


def shortest_way(found: Tensor, wanted: Tensor) -> Tensor:
    """The matrix A, symmetric and positive, with A found A = wanted: it moves normal numbers least, squared.

    Args:
        found: A covariance, float64 ``[d, d]``.
        wanted: Another one, of which not all is zero. Both are taken with a thousandth of its mean variance on the
            diagonal.

    Returns:
        Float64 ``[d, d]``.
    """
    floor = _FLOOR * wanted.trace() / len(wanted) * torch.eye(len(wanted), dtype=wanted.dtype)
    root, inverse = _power(found + floor, 0.5), _power(found + floor, -0.5)
    return inverse @ _power(root @ (wanted + floor) @ root, 0.5) @ inverse


def _power(covariance: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    smallest = torch.finfo(values.dtype).eps * values[-1]  # rounding may leave less than nothing
    return vectors * values.clamp(min=smallest) ** exponent @ vectors.T
