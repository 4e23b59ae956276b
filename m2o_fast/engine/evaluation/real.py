"""Features of real images: computed once, kept in the cache folder, read by every later evaluation."""

from __future__ import annotations

import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m2o_fast.data import Dataset
from m2o_fast.engine.evaluation.measures import add_features, merge
from m2o_fast.engine.evaluation.options import SEED
from m2o_fast.engine.evaluation.progress import Meter
from m2o_fast.engine.processes import Processes
from m2o_fast.errors import UserError
from m2o_fast.files import user_cache
from m2o_fast.m2o import Domain
from m2o_fast.metrics import FeatureBank
from m2o_fast.metrics.features import FUNCTION, Extractor

FORMAT = 1  # of what is kept; another one is computed anew


class RealImages(ABC):
    """A set of images that others are compared with.

    Attributes:
        name: For the progress.
        count: How many there are.
        about: JSON values that determine the images.
    """

    name: str
    count: int
    about: dict[str, Any]

    @abstractmethod
    def read(self, numbers: range) -> Tensor:
        """Images by number, float32 ``[n, C, S, S]`` in [0, 1]."""


class DomainImages(RealImages):
    """The images of a domain of a data set.

    Args:
        dataset: One split.
        domain: The domain as the networks see it; images get its number of channels.
        split: Name of the split.
    """

    def __init__(self, dataset: Dataset, domain: Domain, split: str) -> None:
        self.name, self.count = f"real images of {domain.name}", dataset.count(domain.name)
        self.about = {
            "images": dataset.fingerprint,
            "split": split,
            "domain": domain.name,
            "channels": domain.channels,
            "image_size": dataset.image_size,
        }
        self._dataset, self._domain = dataset, domain

    def read(self, numbers: range) -> Tensor:
        """See :meth:`RealImages.read`."""
        return self._dataset.images(self._domain.name, numbers).expand(-1, self._domain.channels, -1, -1)


def real_features(
    images: RealImages, extractor: Extractor, batch: int, meter: Meter, processes: Processes
) -> FeatureBank:
    """The features of real images, in the leading process; the others do their share where they are not known yet.

    Args:
        images: The images.
        extractor: What computes the features.
        batch: Images passed through it at a time.
        meter: Shows progress.
        processes: Those that share the work.
    """
    about = {"format": FORMAT, **images.about, "count": images.count, "extractor": extractor.describe()}
    if extractor.name.startswith(FUNCTION):
        about["answer"] = extractor.answer
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    path = user_cache() / "statistics" / f"{key[:32]}.safetensors"
    known = _known(path, about) if processes.leads else None
    bank = known or FeatureBank(extractor.size, seed=SEED)
    if processes.tell({"known": known is not None} if processes.leads else None)["known"]:
        return bank
    share = processes.share(images.count)
    meter.expect(len(share))
    with meter.stage(images.name, len(share)) as advance:
        for start in range(share.start, share.stop, batch):
            numbers = range(start, min(start + batch, share.stop))
            add_features(bank, extractor, images.read(numbers), torch.tensor(numbers), batch)
            advance(len(numbers))
    merge(bank, processes)
    if processes.leads:
        _keep(bank, path, about)
    return bank


def _known(path: Path, about: dict[str, Any]) -> FeatureBank | None:
    """What is kept, if it is there, whole, and of these images."""
    if path.is_file():
        with suppress(UserError):  # damaged: it is written anew
            bank = FeatureBank.load(path, about)
            if bank.seed == SEED:
                return bank
    return None


def _keep(bank: FeatureBank, path: Path, about: dict[str, Any]) -> None:
    try:
        bank.save(path, about)
    except OSError as error:
        warnings.warn(
            f"{path}: {error.strerror or error}; the features of real images will be computed again the next time",
            RuntimeWarning,
            stacklevel=2,
        )
