"""What an evaluation is asked for, and what is fixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from m2o_fast.errors import UserError

Guidance = Literal["latent", "reference", "both"]
Protocol = Literal["clean", "stargan2"]

SEED = 2024  # of styles, references, subsets and kept features: every evaluation draws the same ones
BINS = 4  # of a colour histogram, per channel, so 64 cells
BITS = 8  # of a colour channel, for the number of unique colours
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000  # the size: at most
NEIGHBOURS = 3  # of precision and recall
NO_STYLE = "none"  # the guidance of targets without style
NO_EXTRACTOR = "none"

_PIXELS = {"cpu": 200 * 32 * 32, "cuda": 2000 * 32 * 32}  # of one batch: enough to keep the device busy


@dataclass(frozen=True)
class Options:
    """What to measure. ``batch_size`` changes the numbers by rounding only.

    Attributes:
        extractor: Feature extractor of FID, KID, precision and recall: ``"own"``, ``"digits-cnn"``,
            ``"inception:FILE"``, ``"torchscript:FILE"``, ``"module:pkg.fn"`` or ``"none"``; ``None``: ``digits-cnn``
            for digits, else none.
        fid: How images come to the extractor's size: ``"clean"`` (antialiased) or ``"stargan2"`` (as published).
        lpips: Files of weights ``ALEXNET[,HEADS]``, for the diversity of translations; ``None``: not measured.
        download: Fetch missing weights that are published.
        outputs_per_source: Translations of each image into a multi-modal domain, each with another style.
        guidance: Where styles come from: random latents, reference images, or both, one after the other.
        sources: Translate only so many images of each domain, a fixed choice; ``None``: all.
        batch_size: Images translated at a time; ``None``: as many as suit the device.

    Raises:
        UserError: A number below 1, or an unknown word.
    """

    extractor: str | None = None
    fid: Protocol = "clean"
    lpips: str | None = None
    download: bool = False
    outputs_per_source: int = 10
    guidance: Guidance = "both"
    sources: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("outputs_per_source", "sources", "batch_size"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise UserError(f"{_option(name)} must be at least 1, got {number}")
        for name, words in (("guidance", get_args(Guidance)), ("fid", get_args(Protocol))):
            if getattr(self, name) not in words:
                raise UserError(f"{_option(name)} must be one of {', '.join(words)}, got {getattr(self, name)!r}")

    @property
    def guidances(self) -> tuple[str, ...]:
        """Where styles come from, for targets that have one."""
        return ("latent", "reference") if self.guidance == "both" else (self.guidance,)

    def batch(self, image_size: int, device: torch.device) -> int:
        """Images to translate at a time."""
        return self.batch_size or images_at_once(image_size**2, device)


def images_at_once(pixels: int, device: torch.device) -> int:
    """How many images of so many pixels each are translated at a time."""
    return max(1, _PIXELS.get(device.type, _PIXELS["cpu"]) // pixels)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
