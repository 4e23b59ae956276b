"""How varied the looks of one content are, against how varied real images are; needs no weights.

Definition and caveats: ``docs/metrics.md``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from m2o_fast.metrics.pixels import multiscale_similarity

SMALLEST = 6  # pixels of a side that structure can be compared at

_PIXELS = 1 << 19  # values compared at a time: their float64 copies stay small


class LookVariety:
    """How far the images of a group lie apart, over a stream of groups; float64.

    The result does not depend on how the groups are cut into batches.

    Attributes:
        groups: Number of groups seen.
    """

    def __init__(self) -> None:
        # of squared differences, of groups, of 1 - MS-SSIM, of pairs that it is of
        self._sums = torch.zeros(4, dtype=torch.float64)

    @property
    def groups(self) -> int:
        """Number of groups seen."""
        return int(self._sums[1])

    def update(self, images: Tensor, pairs: int = 0) -> None:
        """Adds groups.

        Args:
            images: Floating point ``[n, M >= 2, C, H, W]`` in [0, 1]: n groups.
            pairs: How many pairs of each group, (0, 1), (2, 3) and so on, are compared by structure; at most M // 2
                are. Images with a side below 6 pixels are not.

        Raises:
            ValueError: Other shapes.
        """
        if images.dim() != 5 or images.shape[1] < 2:
            raise ValueError(f"LookVariety: images must be [n, M >= 2, C, H, W], got {list(images.shape)}")
        pairs = min(pairs, images.shape[1] // 2) if min(images.shape[3:]) >= SMALLEST else 0
        for part in images.split(max(1, _PIXELS // images[0].numel())) if len(images) else ():
            values = part.double()
            # The mean of (a - b)^2 over all pairs is twice the unbiased variance.
            squares = 2 * values.var(1).flatten(1).mean(1).sum().cpu()
            structure = torch.zeros((), dtype=torch.float64)
            if pairs:
                first, second = values[:, : 2 * pairs].unflatten(1, (pairs, 2)).unbind(2)
                structure = (1 - multiscale_similarity(first.flatten(0, 1), second.flatten(0, 1))).sum().cpu()
            counts = torch.tensor([len(part), len(part) * pairs], dtype=torch.float64)
            self._sums = self._sums + torch.stack((squares, counts[0], structure, counts[1]))

    def state(self) -> dict[str, Tensor]:
        """What another instance needs to go on: pass it to :meth:`merge_state`."""
        return {"sums": self._sums}

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds everything that another instance has seen."""
        self._sums = self._sums + state["sums"]

    def compute(self) -> dict[str, float]:
        """How far two images of a group lie apart, as a mean over all groups.

        Returns:
            ``pixel``: root of the mean squared difference of two images, at least 0. ``structure``: mean of
            1 - MS-SSIM, in [0, 1]; absent where no pair was compared so.

        Raises:
            ValueError: No groups yet.
        """
        if not self.groups:
            raise ValueError("LookVariety: there are no groups; call update first")
        squares, groups, structure, pairs = self._sums.tolist()
        result = {"pixel": (squares / groups) ** 0.5}
        return {**result, "structure": structure / pairs} if pairs else result


def variety_report(outputs: LookVariety, real: LookVariety, looks: LookVariety | None = None) -> dict[str, float]:
    """The variety of the outputs for one source as a share of that of real images.

    Args:
        outputs: Groups of outputs for one source.
        real: Groups of two different real images.
        looks: Groups of real images of one content, where such are known.

    Returns:
        ``pixel_variety`` and ``structure_variety``: 0 where all outputs for a source are the same, 1 where they are as
        different as two real images; ``..._of_looks``: the same of the true looks of a content, what a perfect
        generator would score. What cannot be compared, because real images are all the same say, is absent.
    """
    of_real = real.compute() if real.groups else {}
    found = {"variety": outputs, "variety_of_looks": looks}
    return {
        f"{kind}_{name}": value / of_real[kind]
        for name, variety in found.items()
        if variety is not None and variety.groups
        for kind, value in variety.compute().items()
        if of_real.get(kind, 0) > 0
    }
