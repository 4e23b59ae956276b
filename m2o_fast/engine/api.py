"""Training and translating from Python, in a line each."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from m2o_fast.data.fit import Fit, check_fit
from m2o_fast.data.images import InMemory, to_pillow
from m2o_fast.engine.evaluation.options import images_at_once
from m2o_fast.engine.fitting import settings_to_train
from m2o_fast.engine.looks import Request, styles_of
from m2o_fast.engine.loop import train as train_run
from m2o_fast.engine.runlog import show
from m2o_fast.engine.runs import fit_of, load_translator, local, newest_run
from m2o_fast.engine.translate import Picture, chosen_direction, prepared, read_domain_image, restored
from m2o_fast.errors import UserError
from m2o_fast.labels import pictures
from m2o_fast.m2o import Domain
from m2o_fast.translators.base import Translator

#: an image: the path of a file, one of Pillow, or ``[H, W]``, ``[H, W, 1]``, ``[H, W, 3]`` in uint8 or in [0, 1]
AnyImage = str | Path | Image.Image | np.ndarray


def train(
    *,
    system: str | None = None,
    variant: str | None = None,
    data: str | Sequence[str] | None = None,
    uni: str | Sequence[str] = (),
    steps: int | None = None,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    run: str | Path | None = None,
    resume: str = "never",
    quiet: bool = False,
) -> Path:
    """Trains a translator, as ``m2o-fast train`` does. Ctrl-C saves and stops.

    Args:
        system: Base model, as ``m2o-fast systems`` lists them; ``None``: the first of them.
        variant: ``"plain"``, ``"hmu"`` or ``"hms"``; ``None``: ``"hms"``, or with a system ``"plain"``.
        data: ``"digits"``, ``"mnist"``, ``"ade20k:DIR"`` or ``"folder:DIR"``; a list of folders: data sets with
            labels of their own.
        uni: The uni-modal domains of a folder, or the only one: one image for each content.
        steps: Training iterations; ``None``: those of the recipe.
        preset: Recipe to start from; ``None``: that of the data.
        settings: Any further settings, such as ``{"optim.lr": 2e-4, "seed": 3, "validate_every": 500}``.
        run: Folder of the run; ``None``: a new one below ``runs/``.
        resume: ``"never"``; ``"auto"``: go on with ``run`` if it is there; or the path of a checkpoint.
        quiet: Show nothing but warnings.

    Returns:
        The folder of the run, for :func:`m2o_fast.load`, :func:`m2o_fast.evaluate_run` and :func:`m2o_fast.export`.

    Raises:
        UserError: A setting, the data, or a folder that does not fit.
    """
    names = [uni] if isinstance(uni, str) else list(uni)
    options = {"system": system, "variant": variant, "data.name": data, "data.uni": names or None, "steps": steps}
    folder = None if run is None else Path(run)
    config, recipe = settings_to_train(None, folder, resume, None, {**options, **(settings or {})}, preset)
    if recipe and not quiet:
        show(recipe)
    return train_run(config, folder, resume, quiet).run


@torch.inference_mode()
def translate(
    model: str | Path | Translator | None,
    images: AnyImage | Sequence[AnyImage],
    to: str,
    *,
    source: str | None = None,
    seed: int | None = None,
    reference: AnyImage | None = None,
    psi: float | None = None,
    fit: Fit | None = None,
    keep_size: bool = False,
) -> Image.Image | list[Image.Image]:
    """Images of a domain as images of another one, as ``m2o-fast translate`` makes them.

    Args:
        model: A translator, or what :func:`m2o_fast.load` takes.
        images: One image or several. Label maps have class numbers, or the colours of the palette.
        to: Name of the domain to translate into.
        source: Name of the images' domain; ``None``: the only other one.
        seed: Seed of the style, which all images get; ``None``: 0.
        reference: Image of the target domain whose style is taken instead.
        psi: Moves styles towards the mean style: 1 leaves them, 0 is the mean.
        fit: How images become squares for a system that is bound to one size; ``None``: as in training where ``model``
            tells, else ``"stretch"``.
        keep_size: Where a system is bound to one size, scale translations to that of their image.

    Returns:
        For one image one of Pillow, for several a list of them.

    Raises:
        UserError: The model, an image or the way between the domains does not fit.
        ValueError: An array or ``fit`` does not.
    """
    place = None if isinstance(model, Translator) else local(model) or newest_run()
    translator = model if isinstance(model, Translator) else load_translator(place)
    if fit is None:
        fit = "stretch" if place is None else fit_of(place)
    check_fit(fit)
    origin, target = chosen_direction(translator, to, source)
    request = Request(to, seed=seed, reference=None if reference is None else Path("the reference"), psi=psi)
    styles = styles_of(translator, target, request, 1, lambda _: _as_reference(reference, translator, target, fit))
    several = images if isinstance(images, Iterable) and not isinstance(images, AnyImage) else None
    files = [_file(image) for image in ([images] if several is None else several)]
    found = [prepared(file, translator, origin, fit) for file in files]
    made = _translated(translator, found, origin, target, styles)
    tiles = [
        to_pillow(restored(tile, picture.shown, translator, target, fit, keep_size=keep_size))
        for tile, picture in zip(made, found, strict=True)
    ]
    return tiles[0] if several is None else tiles


def _translated(
    translator: Translator, found: Sequence[Picture], source: Domain, target: Domain, style: Tensor
) -> list[Tensor]:
    """Pictures ``[c, H, W]`` of all images, those of one size together."""
    device = next(translator.parameters()).device
    made: dict[int, Tensor] = {}
    for shape in dict.fromkeys(picture.values.shape for picture in found):
        numbers = [number for number, picture in enumerate(found) if picture.values.shape == shape]
        at_once = images_at_once(shape[2] * shape[3], device)
        for some in (numbers[i : i + at_once] for i in range(0, len(numbers), at_once)):
            images = torch.cat([found[number].values for number in some]).to(device)
            tiles = pictures(translator.translate(images, source.name, target.name, style=style), target).cpu()
            made |= dict(zip(some, tiles, strict=True))
    return [made[number] for number in range(len(found))]


def _as_reference(image: AnyImage | None, translator: Translator, domain: Domain, fit: Fit) -> Tensor:
    assert image is not None  # or nobody would ask
    return read_domain_image(_file(image), domain, translator.image_size, fit)[0]


def _file(image: object) -> Path | InMemory:
    """The image as a file, in memory where it is none: so that all are read in the same way."""
    if isinstance(image, str | Path):
        return Path(image)
    if isinstance(image, np.ndarray):
        image = _pillow(image)
    if not isinstance(image, Image.Image):
        kind = type(image).__name__
        raise UserError(f"an image must be the path of a file, an image of Pillow, or an array of numpy, got {kind}")
    file = io.BytesIO()
    try:
        ImageOps.exif_transpose(image).save(file, "TIFF" if image.mode in ("CMYK", "YCbCr", "LAB", "F") else "PNG")
    except Exception as error:  # of a damaged file, which Pillow reads as late as this, or a mode that no file has
        raise UserError(f"the image: cannot be read ({error}); give its path, or convert it to RGB") from error
    return InMemory("the image", file.getvalue())


def _pillow(array: np.ndarray) -> Image.Image:
    shape = array.shape[:2] if array.ndim == 3 and array.shape[2] == 1 else array.shape
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] != 3) or 0 in shape:
        raise ValueError(f"an array must be [H, W], [H, W, 1] or [H, W, 3], got {list(array.shape)}")
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating) or not (array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"an array must be uint8, or floating-point in [0, 1], got {array.dtype}")
        array = np.rint(array * 255).astype(np.uint8)
    return Image.fromarray(array.reshape(shape))
