"""What a run can be told about its data. No torch here."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, model_validator

from m2o_fast.settings import Section, Share, nearest, number

#: the data sets that :func:`m2o_fast.data.open_dataset` knows; each has a preset
DATASETS = ("digits", "mnist", "ade20k", "folder")
#: those of them that are a folder of image files
IN_FOLDERS = ("ade20k", "folder")


def _known_dataset(name: str) -> str:
    if name not in DATASETS:
        raise ValueError(f"unknown data set{nearest(name, DATASETS)} (data sets: {', '.join(DATASETS)})")
    return name


def _folder(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):  # a folder may be called 2024
        value = str(value)
    if value == "":
        raise ValueError("must name a folder; leave the key out for the default")
    if isinstance(value, str) and "\0" in value:
        raise ValueError("no folder's name has a null character")
    return os.path.expanduser(value) if isinstance(value, str) else value


class DataConfig(Section):
    """What is trained on.

    Attributes:
        name: ``"digits"`` (scikit-learn's 8x8 digits, always there), ``"mnist"`` (four IDX files), ``"ade20k"``
            (scenes and their label maps) or ``"folder"`` (own images, a folder per domain); docs/data.md shows the
            layouts. ``"folder:DIR"`` sets the folder too.
        dir: Folder of the data set's files; ``None``, for MNIST: ``M2O_DATA_DIR`` of the environment, then the cache.
        also: For ``"folder"``: folders of further data sets, each with labels of its own. As name,
            ``["folder:A", "folder:B"]`` sets both.
        uni: For ``"folder"``: names of the uni-modal domains.
        labels: For ``"ade20k"``: label maps as colours, ``"palette"``, or as one channel per class, ``"onehot"``.
        cache: Keep decoded images in the cache folder, for the next run and other processes.
        verify: Read all image files again at the start, whatever their dates say.
        max_unreadable: Share of a domain's image files that may be unreadable; they are named and left out.
        image_size: Side length of the images in pixels; which ones there are depends on the system.
        fit: What becomes of image files that are not square: ``"stretch"`` them, ``"crop"`` the largest centred square,
            or ``"pad"`` the shorter side by mirroring, label maps with void.
        color_law: Law of a digit's colour: ``"rgb"`` (uniform in the RGB cube where the brightest channel is at
            least 0.25) or ``"hue"`` (fully saturated, uniform hue).
        pair_fraction: Share of the contents whose pairs are known, in [0, 1]; of digits: of the colour images.
        crop_probability: Probability of a random crop, in [0, 1].
        crop_law: How a crop is drawn, which is enlarged to the size of the images: ``"resized"`` (0.8 to 1 of the area,
            of aspect ratio 0.9 to 1.1) or ``"jitter"`` (256 of 286 parts of either side).
        flip_probability: Probability of a horizontal flip, in [0, 1]. Flipped digits are no digits: 0 for them.
    """

    name: Annotated[str, AfterValidator(_known_dataset)] = "digits"
    dir: Annotated[str, BeforeValidator(_folder)] | None = None
    also: tuple[Annotated[str, BeforeValidator(_folder)], ...] = ()
    uni: tuple[str, ...] = ()
    labels: Literal["palette", "onehot"] = "palette"
    cache: StrictBool = True
    verify: StrictBool = False
    max_unreadable: Share = 0.01
    image_size: Annotated[int, BeforeValidator(number), Field(ge=1, le=2**16)] = 32
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    color_law: Literal["rgb", "hue"] = "rgb"
    pair_fraction: Share = 1.0
    crop_probability: Share = 0.0
    crop_law: Literal["resized", "jitter"] = "resized"
    flip_probability: Share = 0.0

    @model_validator(mode="after")
    def _agree(self) -> DataConfig:
        if self.name in IN_FOLDERS and self.dir is None:
            raise ValueError(f"data set {self.name!r} needs its folder: --data {self.name}:DIR")
        if self.uni and self.name != "folder":
            raise ValueError(f"data.uni (--uni) is for own folders; data set {self.name!r} knows its uni-modal domain")
        if self.also and self.name != "folder":
            raise ValueError(f"data.also is for own folders; leave it out with data set {self.name!r}")
        return self

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of all data sets, those that are named."""
        return () if self.dir is None else (self.dir, *self.also)

    @property
    def named(self) -> tuple[str, ...]:
        """All data sets as they are chosen, ``name:folder`` where they are folders of image files."""
        return tuple(f"{self.name}:{folder}" for folder in self.folders) if self.name in IN_FOLDERS else (self.name,)
