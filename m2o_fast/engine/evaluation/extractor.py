"""The feature extractor of an evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from m2o_fast.data import Dataset
from m2o_fast.data.cache import Report
from m2o_fast.data.digits import load_digits
from m2o_fast.data.mnist import load_mnist
from m2o_fast.data.representative import representative
from m2o_fast.engine.evaluation.options import KID_SUBSET_SIZE, KID_SUBSETS, NEIGHBOURS, NO_EXTRACTOR, Options
from m2o_fast.engine.evaluation.real import RealImages
from m2o_fast.metrics import Extractor, open_extractor
from m2o_fast.metrics.digits_cnn import DigitsData, DigitsSource
from m2o_fast.metrics.own_net import OwnSource, input_size, resized

MISSING = "no FID, KID, precision and recall: --extractor brings them, own or inception:FILE say"
NO_REAL = "no FID, KID, precision and recall: --real DIR and --extractor bring them"

_DIGITS = ("digits", "mnist")
_MOST = 4096  # images of a domain that own is trained on
_AT_ONCE = 64  # of them read at a time
_SIZE = 32  # of the digits that digits-cnn is trained on, whatever is evaluated


def open_features(
    options: Options,
    device: torch.device,
    data: str | None = None,
    data_dir: str | None = None,
    own: Callable[[], OwnSource] | None = None,
) -> Extractor | None:
    """The extractor that is asked for; if none is named, the one for digits where the data are digits.

    Args:
        options: Name an extractor, or not.
        device: Where it runs.
        data: Name of the data set; ``None``: images of which nothing is known.
        data_dir: Folder of the data set.
        own: Opens the real images that the extractor of that name is trained on.

    Raises:
        UserError: It cannot be opened.
    """
    spec = options.extractor or ("digits-cnn" if data in _DIGITS else NO_EXTRACTOR)
    if spec == NO_EXTRACTOR:
        return None
    digits = None
    if spec == "digits-cnn" and data in (*_DIGITS, None):
        digits = _digits(data or "digits", data_dir)
    source = own() if spec == "own" and own is not None else None
    return open_extractor(
        spec, protocol=options.fid, device=device, download=options.download, digits=digits, own=source
    )


def features_protocol(extractor: Extractor, real: str) -> dict[str, Any]:
    """JSON values that belong beside every number that is made from features."""
    return {
        **extractor.describe(),
        "features_of": "images of 8 bits per channel",
        "real": real,
        "kid_subsets": KID_SUBSETS,
        "kid_subset_size": KID_SUBSET_SIZE,
        "neighbours": NEIGHBOURS,
    }


def own_of_data(open_data: Callable[[], Dataset], say: Report) -> OwnSource:
    """What own is trained on: at most so many images of each domain of pictures, from everywhere in it."""
    dataset = open_data()
    names = [domain.name for domain in dataset.domains if domain.kind == "continuous"]
    size = input_size(dataset.image_size)
    chosen = {name: representative(dataset.contents(name), _MOST, name) for name in names}
    pictures = [_small(partial(dataset.images, name), numbers, size) for name, numbers in chosen.items()]
    return _own(pictures, size, f"images of {' and '.join(names)}", say)


def own_of_images(images: RealImages, size: int, say: Report) -> OwnSource:
    """The same of images that are no data set, and S x S pixels large."""

    def read(numbers: Sequence[int]) -> Tensor:
        return torch.cat([images.read(range(number, number + 1)) for number in numbers])

    chosen = representative(torch.arange(images.count), _MOST, "images")
    return _own([_small(read, chosen, input_size(size))], input_size(size), images.name, say)


def _own(pictures: Sequence[Tensor], size: int, name: str, say: Report) -> OwnSource:
    """The same pictures have the same net, whatever else is known of where they are from."""
    digest = hashlib.sha256()
    for some in pictures:
        digest.update(f"{list(some.shape)}".encode())
        digest.update(some.numpy().data)

    def load() -> Sequence[Tensor]:
        say(f"training the extractor own on {name}, which takes a minute or more")
        return pictures

    return OwnSource(digest.hexdigest()[:16], size, load)


def _small(read: Callable[[list[int]], Tensor], numbers: list[int], size: int) -> Tensor:
    """Images in [0, 1] as uint8 ``[n, C, size, size]``; only some are in memory in their own size."""
    parts = [numbers[start : start + _AT_ONCE] for start in range(0, len(numbers), _AT_ONCE)]
    return torch.cat([(resized(read(part).cpu(), size) * 255).round().to(torch.uint8) for part in parts])


def _digits(data: str, data_dir: str | None) -> DigitsSource:
    """What digits-cnn is trained on; its key says which digits exactly."""
    load = partial(load_mnist, data_dir=data_dir) if data == "mnist" else load_digits
    images, labels = load("train", _SIZE)
    key = f"{data}-{hashlib.sha256(images.numpy().data).hexdigest()[:12]}"
    return DigitsSource(key, lambda: DigitsData(images, labels, *load("test", _SIZE)))
