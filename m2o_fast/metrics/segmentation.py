"""Scores of predicted label maps; the formulae of the ADE20K scene parsing benchmark (arXiv 1608.05442)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_EPSILON = 1e-10  # of the benchmark's denominators: a class that is nowhere scores 0


class Confusion:
    """Counts of pixels by true and predicted class over a stream of label maps; integers, so no order matters.

    Pixels whose true class is 0 (void) are not scored, whatever was predicted there. Predicting void on a labelled
    pixel is an error like any other.

    Args:
        classes: Number of classes including void: 151 for ADE20K.

    Attributes:
        classes: As given.
        images: Number of label maps seen.
    """

    def __init__(self, classes: int) -> None:
        if classes < 2:
            raise ValueError(f"Confusion needs void and at least one class, got classes={classes}")
        self.classes = classes
        self.images = 0
        self._counts = torch.zeros(classes, classes, dtype=torch.int64)

    def update(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Adds label maps.

        Args:
            predicted: int64 ``[N, H, W]`` with classes 0 to ``classes - 1``.
            truth: The true label maps, of the same shape.

        Returns:
            float64 ``[N]``: share of the labelled pixels of each image that are right; NaN where none is labelled.

        Raises:
            TypeError: Not int64.
            ValueError: Shapes differ or are not ``[N, H, W]``, or a class is out of range.
        """
        for name, labels in (("predicted", predicted), ("truth", truth)):
            if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
                got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
                raise TypeError(f"Confusion: {name} must be an int64 tensor of classes, got {got}")
            if labels.numel() and not (0 <= int(labels.min()) and int(labels.max()) < self.classes):
                raise ValueError(
                    f"Confusion: classes must be in [0, {self.classes}), {name} has {int(labels.min())} to "
                    f"{int(labels.max())}"
                )
        if predicted.shape != truth.shape or predicted.dim() != 3:
            raise ValueError(
                "Confusion: predicted and truth must have one shape [N, H, W], "
                f"got {list(predicted.shape)} and {list(truth.shape)}"
            )
        truth = truth.to(predicted.device)
        pairs = (truth * self.classes + predicted).flatten()
        counts = torch.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)
        self._counts = self._counts + counts.cpu()
        self.images += len(truth)
        labelled = truth > 0
        right = ((predicted == truth) & labelled).flatten(1).sum(1)
        return (right.double() / labelled.flatten(1).sum(1)).cpu()

    def state(self) -> dict[str, Tensor]:
        """What another instance of as many classes needs to go on: pass it to :meth:`merge_state`."""
        return {"images": torch.tensor(self.images), "counts": self._counts}

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds everything that an instance of as many classes has seen. Raises ``ValueError`` for others."""
        if state["counts"].shape != self._counts.shape:
            raise ValueError(f"Confusion: {len(state['counts'])} classes do not fit {self.classes}")
        self.images += int(state["images"])
        self._counts = self._counts + state["counts"]

    @property
    def counts(self) -> Tensor:
        """int64 ``[classes, classes]``: pixels of each true class (rows; void, too) by predicted class (columns)."""
        return self._counts.clone()

    @property
    def iou(self) -> Tensor:
        """float64 ``[classes]``: intersection over union; NaN for void and for classes neither true nor predicted."""
        intersection, union = self._areas()
        return torch.cat((torch.full((1,), torch.nan, dtype=torch.float64), intersection / union))

    def compute(self) -> dict[str, float]:
        """The scores over all label maps seen so far, each in [0, 1].

        Returns:
            ``pixel_accuracy``: share of the labelled pixels that are right. ``miou``: mean intersection over union
            over all classes but void, where a class that is neither true nor predicted anywhere counts as 0, as the
            benchmark has it. ``miou_present``: the mean over the other classes. Empty if no pixel is labelled.

        Raises:
            ValueError: No label maps yet.
        """
        if self.images == 0:
            raise ValueError("Confusion: there are no label maps; call update first")
        scored = self._counts[1:]
        if not scored.any():
            return {}
        intersection, union = self._areas()
        present = union > 0
        return {
            "pixel_accuracy": float(scored[:, 1:].trace() / scored.sum().double()),
            "miou": float((intersection / (union + _EPSILON)).mean()),
            "miou_present": float((intersection[present] / union[present]).mean()),
        }

    def _areas(self) -> tuple[Tensor, Tensor]:
        """Intersection and union of each class but void, in scored pixels: float64 ``[classes - 1]``."""
        scored = self._counts[1:].double()
        intersection = scored[:, 1:].diagonal()
        return intersection, scored.sum(1) + scored[:, 1:].sum(0) - intersection
