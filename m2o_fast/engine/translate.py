"""Translating image files with a trained translator."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.data.cache import named
from m2o_fast.data.fit import Fit
from m2o_fast.data.images import InMemory, image_grid, opened, read_image, save_image
from m2o_fast.data.label_maps import read_label_map
from m2o_fast.data.layout import Images, list_images
from m2o_fast.errors import UserError
from m2o_fast.files import real_path
from m2o_fast.labels import draw_labels, pictures
from m2o_fast.m2o import Domain
from m2o_fast.randomness import torch_generator
from m2o_fast.translators.base import Translator

_FITTED = {"stretch": "stretched to squares", "crop": "cut to the squares in their middle", "pad": "padded to squares"}


@dataclass(frozen=True)
class Request:
    """What to make of an image.

    Attributes:
        target: Name of the domain to translate into.
        source: Name of the images' domain; ``None``: the only other one.
        seed: Seed of the style, 0 if left out; every image gets the same one.
        reference: Image of the target domain whose style is taken instead.
        styles: Number of styles to show side by side, right of the source image; ``None``: only the translation.
        fit: How images become squares for a system that is bound to one size, and references for any; as in training.
    """

    target: str
    source: str | None = None
    seed: int | None = None
    reference: Path | None = None
    styles: int | None = None
    fit: Fit = "stretch"


@torch.inference_mode()
def translate_path(translator: Translator, images: Path, out: Path, request: Request) -> tuple[int, list[str]]:
    """Translates one image file, or every image file of a folder and of those below it, and writes PNG files.

    A fully convolutional system translates images as they are, of any height and width; for others they become squares
    of the size that they were trained with, as the request says. A warning tells how many were none.

    Label maps are read from class numbers (gray or indexed files) or palette colours, and written in palette colours.

    Args:
        translator: In evaluation mode.
        images: The file or folder.
        out: The file to write, or the folder for the files (always a folder if ``images`` is one), which gets the
            subfolders of ``images``. What lies there already is not taken for an input.
        request: What to make of them.

    Returns:
        How many files were written, and a line for each image of a folder that could not be read.

    Raises:
        UserError: The request does not fit the translator, a single image or the reference cannot be read, the output
            cannot be written or would overwrite an input.
    """
    source, target = _domains(translator, request)
    outputs = _outputs(list_images(images), out, into_folder=images.is_dir() or out.is_dir())
    _keep_inputs([*outputs, *([Path(request.reference)] if request.reference else [])], outputs.values())
    style = _style(translator, target, request)
    failures, odd = [], 0
    size = translator.image_size if translator.multiple is None else None
    for file, output in outputs.items():
        try:
            image = read_domain_image(file, source, size, request.fit)
            odd += size is not None and not _is_square(file)
        except UserError as error:
            if not images.is_dir():
                raise
            failures.append(str(error))
            continue
        save_image(_picture(translator, image, source, target, style, request), output)
    if odd:
        what = f"{_FITTED[request.fit]} of {size} x {size}, as in training (data.fit {request.fit})"
        warnings.warn(f"{odd} of {len(outputs)} images not square: {what}", RuntimeWarning, stacklevel=2)
    return len(outputs) - len(failures), failures


def _domains(translator: Translator, request: Request) -> tuple[Domain, Domain]:
    target = translator.domain(request.target)
    learned = [(translator.domain(a), translator.domain(b)) for a, b in translator.directions()]
    sources = [a for a, b in learned if b == target]
    asked = None if request.source is None else translator.domain(request.source)
    others = [domain for domain in sources if domain != target]
    if not others or asked not in (None, *sources):
        ways = named([f"{a.name} -> {b.name}" for a, b in learned if a != b], ", ")
        way = f"a way into {target.name}" if asked is None else f"{asked.name} -> {target.name}"
        raise UserError(f"{way} was not learned; what was: {ways}")
    if asked is not None:
        return asked, target
    if len(others) != 1:
        names = ", ".join(domain.name for domain in others)
        raise UserError(f"say with --from which domain the images are of; besides {target.name!r} there are {names}")
    return others[0], target


def _outputs(images: Images, out: Path, into_folder: bool) -> dict[Path, Path]:
    """The file to write for each file to read."""
    if not into_folder:
        return {images.paths[0]: out}
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; for a folder of images, --out must be a folder")
    below = real_path(out).is_relative_to(real_path(images.folder)) and real_path(out) != real_path(images.folder)
    files = [file for file in images.paths if not (below and real_path(file).is_relative_to(real_path(out)))]
    if not files:
        raise UserError(f"all images of {images.folder} lie in {out}, where the results would go; choose another --out")
    places = [out / file.relative_to(images.folder) for file in files]
    # a.png and a.jpg must not end in the same file
    distinct = len({place.with_suffix("") for place in places}) == len(places)
    named = [place.with_suffix(".png") if distinct else place.with_name(f"{place.name}.png") for place in places]
    return dict(zip(files, named, strict=True))


def _keep_inputs(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    kept = {real_path(file) for file in inputs}
    for output in outputs:
        if real_path(output) in kept:
            raise UserError(f"{output} would overwrite an image that is read; choose another --out")


def _style(translator: Translator, target: Domain, request: Request) -> Tensor:
    """The styles to use, one per row."""
    has_style = translator.has_style(target.name)
    if not has_style and (request.reference is not None or request.styles is not None):
        raise UserError(
            f"images of domain {target.name!r} have no style: there is one translation, whatever the style; "
            "leave --reference and --styles out"
        )
    if request.reference is None:
        # A generator for each: the first styles are the same, however many are asked for.
        generators = [torch_generator(request.seed or 0, "translate", index) for index in range(request.styles or 1)]
        return torch.cat([translator.sample_style(1, target.name, generator) for generator in generators])
    if request.seed is not None or request.styles is not None:
        raise UserError("--reference gives the style; leave --seed and --styles out")
    if not translator.reads_style(target.name):
        raise UserError(
            f"no style can be read off images of domain {target.name!r}: this translator was trained without a style "
            "encoder; leave --reference out"
        )
    reference = read_domain_image(request.reference, target, translator.image_size, request.fit)
    return translator.encode_style(reference.to(_device(translator)), target.name)


def _is_square(file: Path) -> bool:
    with opened(file) as image:
        return image.width == image.height


def read_domain_image(file: Path | InMemory, domain: Domain, size: int | None, fit: Fit) -> Tensor:
    """An image file as one of a domain, float ``[1, C, S, S]``, or ``[1, C, H, W]`` of its own size, in [-1, 1]."""
    if domain.kind == "continuous":
        return read_image(file, domain.channels, size, fit)
    return draw_labels(read_label_map(file, domain.classes, size, fit), domain.kind, domain.classes) * 2 - 1


def _picture(
    translator: Translator, image: Tensor, source: Domain, target: Domain, style: Tensor, request: Request
) -> Tensor:
    """The translation, or the source image and its translations in a row."""
    device = _device(translator)
    height, width = image.shape[2:]
    whole = padded(image, translator.multiple or 1).to(device)
    # One at a time: in a batch, sums are ordered otherwise, and a picture would depend on those beside it.
    translated = [
        pictures(translator.translate(whole, source.name, target.name, style=row[None]), target)[0, :, :height, :width]
        for row in style
    ]
    return translated[0] if request.styles is None else image_grid([pictures(image, source)[0], *translated])


def padded(image: Tensor, multiple: int) -> Tensor:
    """``image`` with height and width that are multiples: mirrored below and on the right, or its edge repeated."""
    down, right = (-side % multiple for side in image.shape[2:])
    mirrored = down < image.shape[2] and right < image.shape[3]
    return F.pad(image, (0, right, 0, down), mode="reflect" if mirrored else "replicate")


def _device(translator: Translator) -> torch.device:
    return next(translator.parameters()).device
