"""How near outputs come to the looks of their content, and how many of the looks they reach.

Definition and caveats: ``docs/metrics.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def pixel_vectors(images: Tensor) -> Tensor:
    """Vectors whose squared Euclidean distances are mean squared errors: float64 ``[N, C H W]``."""
    flat = images.double().flatten(1)
    return flat / flat.shape[1] ** 0.5


class NearestLook:
    """Distance of the outputs for a content to the nearest of its looks, and the share of the looks reached; streaming.

    A look is reached where it is the nearest one of an output; of equally near ones that is the first. All contents
    count alike; only those with two looks or more say something about the share.

    Args:
        embed: Images ``[N, C, H, W]`` to vectors ``[N, E]`` whose squared Euclidean distances are meant.

    Attributes:
        contents: Number of contents seen.
    """

    def __init__(self, embed: Callable[[Tensor], Tensor]) -> None:
        self._embed = embed
        # of distances, of contents, of shares, of contents with several looks
        self._sums = torch.zeros(4, dtype=torch.float64)

    @property
    def contents(self) -> int:
        """Number of contents seen."""
        return int(self._sums[1])

    def update(self, outputs: Tensor, looks: Tensor) -> None:
        """Adds a content.

        Args:
            outputs: Floating point ``[M >= 1, C, H, W]`` in [0, 1].
            looks: True images of the same content, ``[L >= 1, C, H, W]``.

        Raises:
            ValueError: Other shapes.
        """
        if outputs.dim() != 4 or not len(outputs) or not len(looks) or outputs.shape[1:] != looks.shape[1:]:
            raise ValueError(
                "NearestLook: outputs and looks must be [M >= 1, C, H, W] and [L >= 1, C, H, W], "
                f"got {list(outputs.shape)} and {list(looks.shape)}"
            )
        vectors = self._embed(outputs).double()
        distances = torch.stack([(vectors - look.double()).square().sum(1) for look in self._embed(looks)], dim=1)
        nearest, which = distances.cpu().min(dim=1)
        several = len(looks) > 1
        share = len(which.unique()) / len(looks) if several else 0.0
        self._sums = self._sums + torch.tensor([float(nearest.mean()), 1.0, share, float(several)], dtype=torch.float64)

    def state(self) -> dict[str, Tensor]:
        """What another instance needs to go on: pass it to :meth:`merge_state`."""
        return {"sums": self._sums}

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds everything that another instance has seen."""
        self._sums = self._sums + state["sums"]

    def compute(self) -> dict[str, float]:
        """Means over the contents seen so far.

        Returns:
            ``nearest``: at least 0. ``looks_covered``: in (0, 1]; absent if no content had two looks.

        Raises:
            ValueError: No contents yet.
        """
        if not self.contents:
            raise ValueError("NearestLook: there are no contents; call update first")
        distance, contents, share, several = self._sums.tolist()
        result = {"nearest": distance / contents}
        return {**result, "looks_covered": share / several} if several else result
