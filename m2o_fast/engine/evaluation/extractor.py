"""The feature extractor of an evaluation."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import torch

from m2o_fast.data.digits import load_digits
from m2o_fast.data.mnist import load_mnist
from m2o_fast.engine.evaluation.options import KID_SUBSET_SIZE, KID_SUBSETS, NEIGHBOURS, NO_EXTRACTOR, Options
from m2o_fast.metrics import Extractor, open_extractor
from m2o_fast.metrics.digits_cnn import DigitsData, DigitsSource

MISSING = "no FID, KID, precision and recall: --extractor brings them, inception:FILE say"
NO_REAL = "no FID, KID, precision and recall: --real DIR and --extractor bring them"

_DIGITS = ("digits", "mnist")
_SIZE = 32  # of the digits that digits-cnn is trained on, whatever is evaluated


def open_features(
    options: Options, device: torch.device, data: str | None = None, data_dir: str | None = None
) -> Extractor | None:
    """The extractor that is asked for; if none is named, the one for digits where the data are digits.

    Args:
        options: Name an extractor, or not.
        device: Where it runs.
        data: Name of the data set; ``None``: images of which nothing is known.
        data_dir: Folder of the data set.

    Raises:
        UserError: It cannot be opened.
    """
    spec = options.extractor or ("digits-cnn" if data in _DIGITS else NO_EXTRACTOR)
    if spec == NO_EXTRACTOR:
        return None
    digits = None
    if spec == "digits-cnn" and data in (*_DIGITS, None):
        digits = _digits(data or "digits", data_dir)
    return open_extractor(spec, protocol=options.fid, device=device, download=options.download, digits=digits)


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


def _digits(data: str, data_dir: str | None) -> DigitsSource:
    """What digits-cnn is trained on; its key says which digits exactly."""
    load = partial(load_mnist, data_dir=data_dir) if data == "mnist" else load_digits
    images, labels = load("train", _SIZE)
    key = f"{data}-{hashlib.sha256(images.numpy().data).hexdigest()[:12]}"
    return DigitsSource(key, lambda: DigitsData(images, labels, *load("test", _SIZE)))
