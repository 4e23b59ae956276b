"""How near two sets of images are, from their features: FID, KID, precision and recall.

Definitions, ranges and caveats: ``docs/metrics.md``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from m2o_fast.errors import UserError
from m2o_fast.files import replacing
from m2o_fast.randomness import numpy_generator

#: Longest feature vectors: their covariance takes 2 GB.
LONGEST = 16_384

_ROWS = 128  # of a block of distances to 10,000 others: it stays in a core's cache
_FEW_IMAGES = 2048
_TIE = 1e-12  # squared distances that differ by less than this, relative to the squared norms, count as equal


class FeatureBank:
    """What is kept of a stream of feature vectors: their number, sum and second moments, and some of them as they are.

    Mean and covariance are of all features, in float64. KID, precision and recall need features themselves; which
    ``keep`` of them stay is decided by a random number that depends on the image's number and the seed alone. So
    nothing depends on how the images are cut into batches, on their order, or on how they are spread over processes.

    Args:
        size: Length D of a feature vector.
        keep: How many features are kept as they are, at most.
        seed: Seed of the choice.

    Attributes:
        size: As given.
        keep: As given.
        seed: As given.
        count: Number of features seen.
    """

    def __init__(self, size: int, keep: int = 10_000, seed: int = 0) -> None:
        if size < 1 or keep < 2:
            raise ValueError(f"FeatureBank needs size >= 1 and keep >= 2, got size={size}, keep={keep}")
        if size > LONGEST:
            raise UserError(
                f"an extractor gives {size} numbers for each image, but FID needs a covariance of all pairs of them: "
                f"at most {LONGEST} can be taken; pool them"
            )
        self.size, self.keep, self.seed = size, keep, seed
        self.count = 0
        self._held = 0
        with torch.inference_mode(False):  # what is made in that mode cannot be added to outside of it
            self._sum = torch.zeros(size, dtype=torch.float64)
            self._products = torch.zeros(size, size, dtype=torch.float64)
            # One tensor: many small ones would scatter over the heap and keep its free parts from being used again.
            self._numbers = torch.empty(2 * keep, dtype=torch.int64)
            self._features = torch.empty(2 * keep, size)

    def update(self, features: Tensor, numbers: Tensor) -> None:
        """Adds features.

        Args:
            features: Floating point ``[n, D]``, on any device.
            numbers: int64 ``[n]``: the number of each image within the whole set; no number may come twice.

        Raises:
            ValueError: Other shapes, or a feature that is NaN or infinite. That a number came twice may be found later,
                at the latest when the kept features are asked for.
        """
        if features.dim() != 2 or features.shape[1] != self.size or numbers.shape != features.shape[:1]:
            raise ValueError(
                f"FeatureBank: features must be [n, {self.size}] and numbers [n], got {list(features.shape)} and "
                f"{list(numbers.shape)}"
            )
        features = features.detach().cpu()
        if not bool(features.isfinite().all()):
            raise ValueError("FeatureBank: a feature is NaN or infinite; the images or the extractor are at fault")
        exact = features.double()
        state = {
            "count": torch.tensor(len(features)),
            "sum": exact.sum(0),
            "products": exact.T @ exact,
            "numbers": numbers.detach().cpu().to(torch.int64),
            "features": features.float(),
        }
        self.merge_state(state)

    def state(self) -> dict[str, Tensor]:
        """What another bank of the same settings needs to go on: pass it to :meth:`merge_state`."""
        self._shrink()
        return {
            "count": torch.tensor(self.count),
            "sum": self._sum.clone(),
            "products": self._products.clone(),
            "numbers": self._numbers[: self._held].clone(),
            "features": self._features[: self._held].clone(),
        }

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds everything that a bank with the same ``size``, ``keep`` and ``seed`` has seen.

        Raises:
            ValueError: Features of another size, or an image that both have seen.
        """
        if state["sum"].shape != self._sum.shape:
            raise ValueError(f"FeatureBank: features of size {len(state['sum'])} do not fit {self.size}")
        for numbers, features in zip(
            state["numbers"].split(self.keep), state["features"].split(self.keep), strict=True
        ):
            if self._held + len(numbers) > len(self._numbers):
                self._shrink()
            rows = slice(self._held, self._held + len(numbers))
            self._numbers[rows], self._features[rows] = numbers, features
            self._held = rows.stop
        self.count += int(state["count"])
        self._sum += state["sum"]
        self._products += state["products"]

    def mean(self) -> Tensor:
        """float64 ``[D]``. Raises ``ValueError`` without features."""
        if self.count == 0:
            raise ValueError("FeatureBank: there are no features; call update first")
        return self._sum / self.count

    def covariance(self) -> Tensor:
        """Unbiased covariance, float64 ``[D, D]``. Raises ``ValueError`` with fewer than two features."""
        if self.count < 2:
            raise ValueError(f"FeatureBank: a covariance needs at least 2 features, got {self.count}")
        mean = self.mean()
        return (self._products - self.count * mean[:, None] * mean) / (self.count - 1)

    def kept(self) -> Tensor:
        """The features kept as they are, in the order of their images' numbers: float32 ``[min(count, keep), D]``."""
        self._shrink()
        return self._features[: self._held].clone()

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Writes the bank to a safetensors file with ``about``: JSON values that say what its features are of."""
        state = {key: value.contiguous() for key, value in self.state().items()}
        settings = {"size": self.size, "keep": self.keep, "seed": self.seed}
        text = json.dumps({"about": dict(about), "settings": settings, "sha256": _sha256(state)}, sort_keys=True)
        with replacing(path) as file:
            file.write(save(state, {"features": text}))

    @classmethod
    def load(cls, path: Path, about: Mapping[str, Any]) -> FeatureBank:
        """Reads what :meth:`save` wrote.

        Raises:
            UserError: No such file, a damaged one, or one of other features than ``about`` says.
        """
        try:
            with safe_open(str(path), "pt") as file:
                facts = json.loads(file.metadata()["features"])
                state = {key: file.get_tensor(key) for key in file.keys()}
            found, settings = facts["about"], facts["settings"]
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: no usable statistics of features ({error}); delete the file") from error
        if found != json.loads(json.dumps(dict(about))):
            raise UserError(f"{path}: statistics of other features ({found}) than asked for; delete the file")
        try:
            bank = cls(**settings)
            bank.merge_state(state)
            kept = min(bank.count, bank.keep)
            if bank._held != kept:
                raise ValueError(f"of {kept} features some are missing")
            if facts["sha256"] != _sha256(bank.state()):
                raise ValueError("its content has changed")
        except (ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
            raise UserError(f"{path}: no usable statistics of features ({error}); delete the file") from error
        return bank

    def _shrink(self) -> None:
        """Leaves the features that are kept, sorted by number."""
        numbers, order = self._numbers[: self._held].sort()
        if (numbers[1:] == numbers[:-1]).any():
            twice = int(numbers[1:][numbers[1:] == numbers[:-1]][0])
            raise ValueError(f"FeatureBank: image {twice} came twice")
        if len(numbers) > self.keep:
            lowest = torch.from_numpy(np.argsort(_priorities(self.seed, numbers), kind="stable")[: self.keep].copy())
            chosen = lowest.sort().values
            numbers, order = numbers[chosen], order[chosen]
        self._held = len(numbers)
        self._features[: self._held] = self._features[order]
        self._numbers[: self._held] = numbers


def _sha256(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {list(state[name].shape)}".encode())
        digest.update(state[name].contiguous().numpy().data)
    return digest.hexdigest()


def _priorities(seed: int, numbers: Tensor) -> np.ndarray:
    """uint64 ``[n]``: a random number for each image number; SplitMix64 (doi 10.1145/2660193.2660195)."""
    key = numpy_generator(seed, "metrics/kept features").integers(0, 2**64, dtype=np.uint64)
    with np.errstate(over="ignore"):
        x = numbers.numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + key
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def frechet_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """Squared Frechet distance of two Gaussians: ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` (arXiv 1706.08500).

    The trace of ``(S1 S2)^(1/2)`` is the sum of the square roots of the eigenvalues of ``S1^(1/2) S2 S1^(1/2)``, which
    is symmetric: no complex numbers arise, and covariances may be singular.

    Args:
        mean: ``[D]``.
        covariance: ``[D, D]``, symmetric and positive semi-definite up to rounding.
        other_mean: ``[D]``.
        other_covariance: ``[D, D]``.

    Returns:
        The distance in float64, at least 0.
    """
    root, other_root = _root(covariance.double()), _root(other_covariance.double())
    product = root.T @ other_root
    cross = torch.linalg.eigvalsh(product @ product.T).clamp(min=0).sqrt().sum()
    shift = (mean.double() - other_mean.double()).square().sum()
    distance = shift + root.square().sum() + other_root.square().sum() - 2 * cross
    return max(0.0, float(distance))


def _root(covariance: Tensor) -> Tensor:
    """``R`` with ``R R^T = covariance``, only as many columns as the covariance's rank."""
    values, vectors = torch.linalg.eigh(covariance)
    known = values > values.abs().max() * len(values) * torch.finfo(torch.float64).eps
    return vectors[:, known] * values[known].sqrt()


def kid(
    generated: Tensor, real: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Kernel inception distance (arXiv 1801.01401): unbiased squared MMD with kernel ``(x.y / D + 1)^3``.

    Args:
        generated: Features ``[n, D]``.
        real: Features ``[m, D]``.
        subsets: How often as many random features of both are compared.
        subset_size: How many; fewer where there are fewer.
        seed: Seed of the subsets.

    Returns:
        Mean and standard deviation over the subsets; the mean is about 0, and can be below it, for equal distributions.

    Raises:
        ValueError: Fewer than two features.
    """
    size = min(subset_size, len(generated), len(real))
    if size < 2:
        raise ValueError(f"kid needs at least 2 features of each set, got {len(generated)} and {len(real)}")
    if size == len(generated) == len(real):
        subsets = 1  # all would be the same
    values = []
    buffer = torch.empty(size, size, dtype=torch.float64)  # one for all, as for distances
    for subset in range(subsets):
        generator = numpy_generator(seed, "metrics/kid", subset)
        x, y = (
            features[torch.from_numpy(generator.permutation(len(features))[:size])].double()
            for features in (generated, real)
        )
        values.append(_squared_mmd(x, y, buffer))
    return float(np.mean(values)), float(np.std(values))


def _squared_mmd(x: Tensor, y: Tensor, buffer: Tensor) -> float:
    """Unbiased estimate from two samples ``[n, D]``; ``buffer`` is ``[n, n]``."""
    count = len(x)
    within = 0.0
    for sample in (x, y):
        kernel = _kernel(sample, sample, buffer)
        within += float(kernel.sum() - kernel.trace()) / (count * (count - 1))
    return within - 2 * float(_kernel(x, y, buffer).mean())


def _kernel(x: Tensor, y: Tensor, buffer: Tensor) -> Tensor:
    return torch.mm(x, y.T, out=buffer).div_(x.shape[1]).add_(1).pow_(3)


def precision_recall(generated: Tensor, real: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (arXiv 1904.06991).

    The set covered by a sample is the union of balls around its points, each as large as the distance to the point's
    k-th nearest neighbour in the sample. Precision is the share of generated points in the set that the real ones
    cover, recall the share of real points in the set that the generated ones cover. All distances are computed, in
    blocks.

    Args:
        generated: Features ``[n, D]``.
        real: Features ``[m, D]``.
        k: Which neighbour.

    Returns:
        Precision and recall, each in [0, 1].

    Raises:
        ValueError: Not more than k features.
    """
    if min(len(generated), len(real)) <= k:
        raise ValueError(f"precision_recall needs more than {k} features, got {len(generated)} and {len(real)}")
    center = real.double().mean(0)  # near 0 the products lose less to rounding
    generated, real = generated.double() - center, real.double() - center
    return _share_inside(generated, real, k), _share_inside(real, generated, k)


def _share_inside(points: Tensor, reference: Tensor, k: int) -> float:
    """Share of ``points`` that lie in a ball around a point of ``reference``."""
    # One buffer for all blocks: freed and allocated anew, with small results in between, they add up in the heap.
    buffer = reference.new_empty(_ROWS, len(reference))
    norms = reference.square().sum(1)
    nearest = [
        _squared_distances(block, reference, norms, buffer).topk(k + 1, largest=False).values
        for block in reference.split(_ROWS)
    ]
    limits = torch.cat(nearest)[:, k] + _TIE * norms  # the first is the point itself
    inside = 0
    for block in points.split(_ROWS):
        tie = _TIE * block.square().sum(1, keepdim=True)
        inside += int((_squared_distances(block, reference, norms, buffer).sub_(tie) <= limits).any(1).sum())
    return inside / len(points)


def _squared_distances(x: Tensor, y: Tensor, norms: Tensor, buffer: Tensor) -> Tensor:
    """Of ``[n, D]`` to ``[m, D]``, whose squared lengths are ``norms``: ``[n, m]``, the first rows of ``buffer``."""
    distances = torch.addmm(norms[None], x, y.T, alpha=-2, out=buffer[: len(x)])
    return distances.add_(x.square().sum(1, keepdim=True)).clamp_(min=0)


def distribution_report(
    generated: FeatureBank,
    real: FeatureBank,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    k: int = 3,
    seed: int = 0,
) -> dict[str, float]:
    """Compares the features of generated images with those of real ones.

    Args:
        generated: The generated images.
        real: The real ones; their number may differ.
        subsets: See :func:`kid`.
        subset_size: See :func:`kid`.
        k: See :func:`precision_recall`.
        seed: See :func:`kid`.

    Returns:
        ``fid`` from all features; ``kid_mean``, ``kid_std``, ``precision`` and ``recall`` from those kept.

    Raises:
        ValueError: Features of different sizes, or too few of them.
    """
    if generated.size != real.size:
        raise ValueError(f"features of size {generated.size} and {real.size} cannot be compared")
    kid_mean, kid_std = kid(generated.kept(), real.kept(), subsets=subsets, subset_size=subset_size, seed=seed)
    precision, recall = precision_recall(generated.kept(), real.kept(), k)
    fid = frechet_distance(generated.mean(), generated.covariance(), real.mean(), real.covariance())
    return {"fid": fid, "kid_mean": kid_mean, "kid_std": kid_std, "precision": precision, "recall": recall}


def distribution_warnings(generated: FeatureBank, real: FeatureBank) -> list[str]:
    """What makes a :func:`distribution_report` of these banks hard to compare, in sentences; empty: nothing."""
    warnings = []
    for name, bank in (("generated", generated), ("real", real)):
        if bank.count <= bank.size:
            warnings.append(
                f"{bank.count} {name} images for {bank.size} features: their covariance is singular, so FID is far too "
                "large; KID has no such bias"
            )
        elif bank.count < _FEW_IMAGES:
            warnings.append(
                f"{bank.count} {name} images, fewer than {_FEW_IMAGES}: FID is biased upwards, compare it at equal "
                "numbers of images only"
            )
        if bank.count > bank.keep:
            warnings.append(f"KID, precision and recall are of {bank.keep} of {bank.count} {name} images")
    return warnings
