"""The styles that images are to be translated with: drawn, read off an image, or on the way from one to another."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from m2o_fast.data.fit import Fit
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.randomness import torch_generator
from m2o_fast.translators.base import Translator

#: draws that a mean style is the mean of: it is off by a hundredth of a style's standard deviation
_DRAWN = 10_000
_DIGITS = 1000  # Python reads no number of many more

#: Reads an image file as one of the target domain, float ``[1, C, S, S]`` in [-1, 1].
Read = Callable[[Path], Tensor]


@dataclass(frozen=True)
class Request:
    """What to make of images.

    Attributes:
        target: Name of the domain to translate into.
        source: Name of the images' domain; ``None``: the only other one.
        seed: Seed of the style, 0 if left out; every image gets the same one.
        reference: Image of the target domain whose style is taken instead.
        styles: Number of styles to show side by side, right of the source image; ``None``: only the translation.
        fit: How images become squares for a system that is bound to one size, and references for any; as in training.
        psi: Styles are moved towards the mean style: 1 leaves them, 0 is the mean; ``None``: they are left.
        interpolate: Two styles, each a seed or the path of an image of the target domain, to go from one to the other.
        frames: Steps of an interpolation, both ends included; ``None``: a number that suits the file.
        keep_size: Where a system is bound to one size, translations are scaled to that of their image.
        batch_size: Translations to make at a time; ``None``: as many as suit the device.
        resume: Of a folder, leave what the same weights and the same request have made already.
    """

    target: str
    source: str | None = None
    seed: int | None = None
    reference: Path | None = None
    styles: int | None = None
    fit: Fit = "stretch"
    psi: float | None = None
    interpolate: tuple[str, str] | None = None
    frames: int | None = None
    keep_size: bool = False
    batch_size: int | None = None
    resume: bool = False

    @property
    def is_grid(self) -> bool:
        """Whether the source image and several translations lie side by side."""
        return self.styles is not None or self.interpolate is not None

    def references(self) -> list[Path]:
        """The image files that give styles."""
        ends = [Path(end) for end in self.interpolate or () if not _is_seed(end)]
        return ends + ([] if self.reference is None else [Path(self.reference)])


def styles_of(translator: Translator, target: Domain, request: Request, frames: int, read: Read) -> Tensor:
    """The styles that a request asks for, one in each row: ``[K, *style_shape]``.

    Raises:
        UserError: What is asked for does not go together, or with the translator; an image cannot be read.
    """
    _check(translator, target, request)
    if request.interpolate is not None:
        a, b = (_end(translator, target, end, read) for end in request.interpolate)
        styles = between(a, b, frames, spherical=translator.normal_styles)
    elif request.reference is not None:
        styles = _read_off(translator, target, read(Path(request.reference)), "--reference")
    else:
        styles = drawn(translator, target, request.seed or 0, request.styles or 1)
    return styles if request.psi is None else truncated(translator, target, styles, request.psi)


def _check(translator: Translator, target: Domain, request: Request) -> None:
    asked = {
        **{"--reference": request.reference, "--styles": request.styles},
        **{"--interpolate": request.interpolate, "--psi": request.psi},
    }
    given = [option for option, value in asked.items() if value is not None]
    if given and not translator.has_style(target.name):
        raise UserError(
            f"images of domain {target.name!r} have no style: there is one translation, whatever the style; "
            f"leave {' and '.join(given)} out"
        )
    if request.reference is not None and (request.seed is not None or request.styles is not None):
        raise UserError("--reference gives the style; leave --seed and --styles out")
    others = (request.seed, request.styles, request.reference)
    if request.interpolate is not None and any(value is not None for value in others):
        raise UserError("--interpolate gives the styles; leave --seed, --styles and --reference out")
    if request.psi is not None and not math.isfinite(request.psi):
        raise UserError(f"--psi must be a finite number, got {request.psi}")
    if request.interpolate is None and request.frames is not None:
        raise UserError("--frames are those of --interpolate A B, which is missing")


def _is_seed(end: str) -> bool:
    return end.isascii() and end.isdecimal()


def _end(translator: Translator, target: Domain, end: str, read: Read) -> Tensor:
    if _is_seed(end):
        if len(end) > _DIGITS:
            raise UserError(f"a seed of --interpolate has at most {_DIGITS} digits, not {len(end):,}")
        return drawn(translator, target, int(end))
    return _read_off(translator, target, read(Path(end)), "images as ends of --interpolate")


def drawn(translator: Translator, target: Domain, seed: int, count: int = 1) -> Tensor:
    """Random styles, one in each row: the first ones are the same, however many are asked for."""
    generators = [torch_generator(seed, "translate", index) for index in range(count)]
    return torch.cat([translator.sample_style(1, target.name, generator) for generator in generators])


def _read_off(translator: Translator, target: Domain, image: Tensor, option: str) -> Tensor:
    """The style of an image of the target domain, ``[1, *style_shape]``.

    Raises:
        UserError: This translator reads no styles off images; ``option`` is what asked for it.
    """
    if not translator.reads_style(target.name):
        raise UserError(
            f"no style can be read off images of domain {target.name!r}: this translator was trained without a style "
            f"encoder; leave {option} out"
        )
    return translator.encode_style(image.to(next(translator.parameters()).device), target.name)


def truncated(translator: Translator, target: Domain, styles: Tensor, psi: float) -> Tensor:
    """Styles moved towards the mean style: ``mean + psi * (style - mean)``, 1 leaves them, 0 is the mean.

    The mean of normal styles is 0; that of styles which a net makes is estimated, from the same draws every time
    (StyleGAN, arXiv 1812.04948, B).
    """
    if translator.normal_styles:
        return styles * psi
    mean = translator.sample_style(_DRAWN, target.name, torch_generator(0, "mean style")).mean(dim=0, keepdim=True)
    return mean + psi * (styles - mean)


def between(a: Tensor, b: Tensor, frames: int, *, spherical: bool) -> Tensor:
    """``frames`` styles, at least 2, in equal steps from one to another, both ends included: see :func:`on_the_way`."""
    return on_the_way(a, b, torch.linspace(0, 1, frames, dtype=torch.float64), spherical=spherical)


def on_the_way(a: Tensor, b: Tensor, shares: Tensor, *, spherical: bool) -> Tensor:
    """Styles between two.

    Args:
        a: ``[1, *style_shape]``.
        b: The same.
        shares: float64 ``[n]`` in [0, 1]: how far each is on the way from ``a`` to ``b``.
        spherical: Along the arc, lengths changing evenly: normal numbers in d dimensions all have a length of about
            sqrt(d), and the straight line between two leaves it for lengths that no style has. Else along that line.

    Returns:
        ``[n, *style_shape]``.
    """
    x, y = a.double().flatten(), b.double().flatten()
    steps = shares.to(a.device)[:, None]
    straight = x + steps * (y - x)
    lengths = x.norm(), y.norm()
    angle = torch.acos((x @ y / (lengths[0] * lengths[1])).clamp(-1, 1))
    if not spherical or not angle.sin() > 1e-6:  # nor where an end is 0, or both point the same or the opposite way
        return straight.to(a.dtype).reshape(len(shares), *a.shape[1:])
    directions = ((1 - steps) * angle).sin() * (x / lengths[0]) + (steps * angle).sin() * (y / lengths[1])
    arc = directions / angle.sin() * (lengths[0] + steps * (lengths[1] - lengths[0]))
    return arc.to(a.dtype).reshape(len(shares), *a.shape[1:])
