"""What is measured on a stream of translations in one direction; each measure knows nothing of the others.

All keep sums, counts and a limited number of features, never images; what several processes saw is added up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from m2o_fast.engine.evaluation.options import BINS, BITS, KID_SUBSET_SIZE, KID_SUBSETS, NEIGHBOURS
from m2o_fast.engine.processes import Processes
from m2o_fast.errors import UserError
from m2o_fast.labels import read_labels
from m2o_fast.m2o import Domain
from m2o_fast.metrics import ColorStatistics, Confusion, FeatureBank, PixelErrors, color_report
from m2o_fast.metrics.distribution import distribution_report, distribution_warnings
from m2o_fast.metrics.diversity import Lpips, PairwiseDistance
from m2o_fast.metrics.looks import NearestLook, pixel_vectors

Value = float | int | bool
#: image numbers of the source domain -> true images in [0, 1], and which of them are known
Truth = Callable[[Tensor], tuple[Tensor, Tensor]]

_WORST = 16


@dataclass(frozen=True)
class Outputs:
    """Translations of some source images.

    Attributes:
        numbers: int64 ``[n]``: numbers of the sources in the list of those translated.
        indices: int64 ``[n]``: their image numbers in the source domain.
        exact: ``[n, m >= M, C, S, S]``: images as the networks gave them, about [-1, 1].
        images: float32 ``[n, M, C, S, S]`` in [0, 1], of the first M.
    """

    numbers: Tensor
    indices: Tensor
    exact: Tensor
    images: Tensor


class Measure(ABC):
    """Measures of one direction."""

    @abstractmethod
    def update(self, outputs: Outputs) -> None:
        """Adds translations."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Everything seen, for :meth:`merge_state` of another process."""

    @abstractmethod
    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds what another process has seen."""

    @abstractmethod
    def values(self) -> dict[str, Value]:
        """The measures by name."""

    def details(self) -> dict[str, Any]:
        """What lies behind them, as JSON values."""
        return {}

    def warnings(self) -> list[str]:
        """What the reader of the measures should know, without the name of the direction."""
        return []


def merge(measure: Any, processes: Processes) -> None:
    """Adds, in the leading process, what the others have seen to anything with ``state`` and ``merge_state``."""
    if processes.count == 1:
        return
    state = {name: tensor.contiguous() for name, tensor in measure.state().items()}
    for message in processes.collect(save(state))[1:]:
        measure.merge_state(load(message))


class Worst:
    """The images with the largest errors; of equal ones those with the smallest numbers."""

    def __init__(self) -> None:
        self._indices = torch.zeros(0, dtype=torch.int64)
        self._errors = torch.zeros(0, dtype=torch.float64)

    def update(self, indices: Tensor, errors: Tensor) -> None:
        """Adds images: int64 ``[n]`` and float64 ``[n]``."""
        indices, errors = torch.cat((self._indices, indices)), torch.cat((self._errors, errors))
        by_index = indices.argsort()
        chosen = by_index[errors[by_index].argsort(descending=True, stable=True)][:_WORST]
        self._indices, self._errors = indices[chosen], errors[chosen]

    def state(self) -> dict[str, Tensor]:
        """For :meth:`update` of another one."""
        return {"worst_indices": self._indices, "worst_errors": self._errors}

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds what another one has seen."""
        self.update(state["worst_indices"], state["worst_errors"])

    def named(self, measure: str, value: Callable[[float], float] = float) -> list[dict[str, Any]]:
        """The worst first, with ``value`` of their error."""
        pairs = zip(self._indices.tolist(), self._errors.tolist(), strict=True)
        return [{"index": index, "measure": measure, "value": value(error)} for index, error in pairs]


class TrueImages(Measure):
    """``mse``, ``psnr`` and ``ssim`` against the true image, where it is known."""

    def __init__(self, truth: Truth) -> None:
        self._truth, self._errors, self._worst = truth, PixelErrors(), Worst()

    def update(self, outputs: Outputs) -> None:
        """Adds the first translation of each source."""
        truth, known = self._truth(outputs.indices)
        if known.any():
            images = outputs.images[:, 0][known.to(outputs.images.device)]
            images, right = torch.broadcast_tensors(images, truth[known].to(images.device))  # gray: channel repeated
            errors = self._errors.update(images, right)
            self._worst.update(outputs.indices[known], errors["mse"])

    def state(self) -> dict[str, Tensor]:
        """See :meth:`Measure.state`."""
        return self._errors.state() | self._worst.state()

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """See :meth:`Measure.merge_state`."""
        self._errors.merge_state(state)
        self._worst.merge_state(state)

    def values(self) -> dict[str, Value]:
        """Empty if no true image is known."""
        return dict(self._errors.compute()) if self._errors.images else {}

    def details(self) -> dict[str, Any]:
        """The images with the largest ``mse``."""
        return {"worst": self._worst.named("mse")} if self._errors.images else {}


class TrueLabels(Measure):
    """Pixel accuracy and intersection over union of translated label maps."""

    def __init__(self, domain: Domain, class_names: tuple[str, ...], truth: Truth) -> None:
        self._domain, self._names, self._truth = domain, class_names, truth
        self._confusion, self._worst = Confusion(domain.classes), Worst()

    def update(self, outputs: Outputs) -> None:
        """Adds the first translation of each source."""
        truth, known = self._truth(outputs.indices)
        if not known.any():
            return
        right, shown = (
            read_labels(images, self._domain.kind, self._domain.classes)  # type: ignore[arg-type]
            for images in (truth[known], outputs.images[:, 0][known.to(outputs.images.device)])
        )
        accuracy = self._confusion.update(shown, right.to(shown.device))
        labelled = ~accuracy.isnan()
        self._worst.update(outputs.indices[known][labelled], 1 - accuracy[labelled])

    def state(self) -> dict[str, Tensor]:
        """See :meth:`Measure.state`."""
        return self._confusion.state() | self._worst.state()

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """See :meth:`Measure.merge_state`."""
        self._confusion.merge_state(state)
        self._worst.merge_state(state)

    def values(self) -> dict[str, Value]:
        """Empty if no label map is known."""
        return dict(self._confusion.compute()) if self._confusion.images else {}

    def details(self) -> dict[str, Any]:
        """Intersection over union of each class, and the images with the lowest pixel accuracy."""
        if not self._confusion.images:
            return {}
        iou = [None if value != value else value for value in self._confusion.iou.tolist()]
        worst = self._worst.named("pixel_accuracy", lambda error: 1 - error)
        return {"classes": list(self._names), "iou": iou, "worst": worst}


class StyleIndependence(Measure):
    """``style_independent``: whether another style changed not one bit of any translation."""

    def __init__(self) -> None:
        self._holds = True

    def update(self, outputs: Outputs) -> None:
        """Adds translations with two styles."""
        first, *others = outputs.exact.unbind(1)
        self._holds = self._holds and all(_same_bits(first, other) for other in others)

    def state(self) -> dict[str, Tensor]:
        """See :meth:`Measure.state`."""
        return {"holds": torch.tensor(self._holds)}

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """See :meth:`Measure.merge_state`."""
        self._holds = self._holds and bool(state["holds"])

    def values(self) -> dict[str, Value]:
        """One truth value."""
        return {"style_independent": self._holds}


class Features(Measure):
    """Fréchet and kernel distance, precision and recall of the translations' features against real ones.

    Args:
        extractor: Images in [0, 1] to features.
        real: Features of the real images; filled before :meth:`values` is called.
        fid: Name of the Fréchet distance, which says how images were resized.
        batch: Images passed through the extractor at a time.
    """

    def __init__(self, extractor: Callable[[Tensor], Tensor], real: FeatureBank, fid: str, batch: int) -> None:
        self._extractor, self._real, self._fid, self._batch = extractor, real, fid, batch
        self._generated = FeatureBank(real.size, real.keep, real.seed)

    def update(self, outputs: Outputs) -> None:
        """Adds translations."""
        many = outputs.images.shape[1]
        numbers = (outputs.numbers[:, None] * many + torch.arange(many)).flatten()
        add_features(self._generated, self._extractor, outputs.images.flatten(0, 1), numbers, self._batch)

    def state(self) -> dict[str, Tensor]:
        """See :meth:`Measure.state`."""
        return self._generated.state()

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """See :meth:`Measure.merge_state`."""
        self._generated.merge_state(state)

    def values(self) -> dict[str, Value]:
        """Empty with too few images, of which nothing can be said."""
        if min(self._generated.count, self._real.count) < _FEWEST_FEATURES:
            return {}
        report = distribution_report(
            self._generated, self._real, subsets=KID_SUBSETS, subset_size=KID_SUBSET_SIZE, k=NEIGHBOURS
        )
        return {f"fid_{self._fid}": report.pop("fid"), **report}

    def warnings(self) -> list[str]:
        """Too few images."""
        few = min(self._generated.count, self._real.count)
        if few < _FEWEST_FEATURES:
            return [f"too few images for FID, KID, precision and recall: {few}"]
        return distribution_warnings(self._generated, self._real)


_FEWEST_FEATURES = NEIGHBOURS + 1  # without that many, there is no third neighbour


def add_features(
    bank: FeatureBank, extractor: Callable[[Tensor], Tensor], images: Tensor, numbers: Tensor, batch: int
) -> None:
    """Adds images to a bank of features, as 8-bit files would hold them.

    Args:
        bank: Where to.
        extractor: Images in [0, 1] to features.
        images: ``[n, C, S, S]``, in [0, 1].
        numbers: int64 ``[n]``.
        batch: Images passed through the extractor at a time.

    Raises:
        UserError: Features that are not finite, or not one vector of the usual length for each image.
    """
    for part, chosen in zip(images.split(batch), numbers.split(batch), strict=True):
        try:
            bank.update(extractor((part * 255).round_().div_(255)), chosen)
        except ValueError as error:
            raise UserError(f"the extractor gives features of no use: {error}") from error


class Colors(Measure):
    """Color Recall and what belongs to it; of images whose content is known.

    Args:
        content: Image numbers of the source domain -> content ``[n, 1, S, S]``.
        real: Colours of as many real images; filled before :meth:`values` is called.
        real_other: The same of other real images.
        repeats: How often each translation counts. One that no style changes is all that there is of its source,
            however often it is asked for, and recall depends on the number of images.
    """

    def __init__(
        self,
        content: Callable[[Tensor], Tensor],
        real: ColorStatistics,
        real_other: ColorStatistics,
        repeats: int = 1,
    ) -> None:
        self._content, self._real, self._real_other, self._repeats = content, real, real_other, repeats
        self._generated = ColorStatistics(BINS, BITS)

    def update(self, outputs: Outputs) -> None:
        """Adds translations."""
        images = outputs.images.flatten(0, 1).repeat_interleave(self._repeats, dim=0)
        content = self._content(outputs.indices).to(images.device)
        self._generated.update(images, content.repeat_interleave(outputs.images.shape[1] * self._repeats, dim=0))

    def state(self) -> dict[str, Tensor]:
        """See :meth:`Measure.state`."""
        return self._generated.state()

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """See :meth:`Measure.merge_state`."""
        self._generated.merge_state(state)

    def values(self) -> dict[str, Value]:
        """See :func:`m2o_fast.metrics.color_report`."""
        return dict(color_report(self._generated, self._real, self._real_other))

    def details(self) -> dict[str, Any]:
        """The colours, counted by cell; cell ``(r * bins + g) * bins + b``."""
        histograms = {"generated": self._generated.histogram.tolist(), "real": self._real.histogram.tolist()}
        return {"color_histogram": {"bins": BINS, **histograms}}


class Diversity(Measure):
    """``lpips_diversity``: the mean LPIPS distance between two translations of one source."""

    def __init__(self, lpips: Lpips) -> None:
        self._pairs = PairwiseDistance(lpips)

    def update(self, outputs: Outputs) -> None:
        """Adds translations, at least two of each source."""
        self._pairs.update(outputs.images)

    def state(self) -> dict[str, Tensor]:
        """See :meth:`Measure.state`."""
        return self._pairs.state()

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """See :meth:`Measure.merge_state`."""
        self._pairs.merge_state(state)

    def values(self) -> dict[str, Value]:
        """One distance."""
        return {"lpips_diversity": self._pairs.compute()}


class Looks(Measure):
    """Distance to the nearest look of the same content and coverage of the looks, by ``mse`` and, with it, by LPIPS.

    Args:
        looks: Image number of a source -> all known looks of its content, ``[L, 1 or C, S, S]`` in [0, 1].
        lpips: The distance of images; ``None``: squared errors alone.
    """

    def __init__(self, looks: Callable[[int], Tensor], lpips: Lpips | None) -> None:
        self._looks = looks
        self._distances = {"mse": NearestLook(pixel_vectors)}
        if lpips is not None:
            self._distances["lpips"] = NearestLook(lpips.embed)

    def update(self, outputs: Outputs) -> None:
        """Adds translations."""
        for index, images in zip(outputs.indices.tolist(), outputs.images, strict=True):
            looks = self._looks(index)
            if len(looks):
                for distance in self._distances.values():
                    distance.update(images, looks.to(images.device).expand(-1, images.shape[1], -1, -1))

    def state(self) -> dict[str, Tensor]:
        """See :meth:`Measure.state`."""
        return {name: distance.state()["sums"] for name, distance in self._distances.items()}

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """See :meth:`Measure.merge_state`."""
        for name, distance in self._distances.items():
            distance.merge_state({"sums": state[name]})

    def values(self) -> dict[str, Value]:
        """Empty if no look is known."""
        found = {name: distance.compute() for name, distance in self._distances.items() if distance.contents}
        return {f"{name}_{key}": value for name, values in found.items() for key, value in values.items()}


def _same_bits(first: Tensor, second: Tensor) -> bool:
    """Equality of memory, not of value: NaN equals itself and 0 differs from -0."""
    if first.dtype != second.dtype:
        return False
    return torch.equal(first.contiguous().view(torch.uint8), second.contiguous().view(torch.uint8))
