"""Feature extractors: what turns images into the vectors that FID, KID, precision and recall compare.

A number means something only beside the extractor and the way images reach it; :meth:`Extractor.describe` says both.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.errors import UserError
from m2o_fast.metrics.digits_cnn import INPUT_SIZE, DigitsSource, cached_digits_cnn
from m2o_fast.metrics.inception import open_inception
from m2o_fast.metrics.own_net import OwnSource, input_size, kept_own_net
from m2o_fast.metrics.weights import file_sha256, find_weights

Protocol = Literal["clean", "stargan2"]
PROTOCOLS: tuple[Protocol, ...] = ("clean", "stargan2")

#: What most numbers can be compared with.
ALONE = "only with the same extractor, SHA-256 and protocol"

#: How the names of Python functions begin
FUNCTION = "module:"

_PROBE_SIZE = 64
_PILLOW_BITS = 22  # of its fixed-point weights
#: SHA-256 of TorchScript files that take other values than [0, 1] -> what to use in their place
_OTHER_RANGE = {
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4": "inception:pt_inception-2015-12-05-6726825d.pth"
}
_CODE = "{path} is a TorchScript file, which can run code; it was opened because the extractor option names it"


class Extractor:
    """Images to features: brings images to the net's size by the rule of a protocol, then runs the net.

    ``clean`` (arXiv 2104.11222): bicubic with antialiasing, each channel in floating point, clamped to [0, 1] and not
    rounded, neither before nor after. ``stargan2`` (arXiv 1912.01865): images are rounded to 8 bits as in a file and
    enlarged or reduced as Pillow does it, to the last bit: bilinear, antialiased, rounded to 8 bits after each axis.

    Args:
        net: Maps float32 ``[N, 3, H, W]`` in [0, 1] to ``[N, D]``; its normalisation is its own affair.
        name: What a report calls it.
        sha256: Of what determines the features: weights or source, in hexadecimal.
        input_size: Side length that the net wants; ``None``: it takes any, and images are not resized.
        protocol: As above.
        device: Where the net runs.
        comparable: With what else numbers of this extractor can be compared, in words.
        warnings: Sentences that belong beside every number.

    Attributes:
        name: As given.
        sha256: As given.
        size: Length D of a feature vector.
        answer: SHA-256 of the features of a fixed image. A Python function may depend on more than its own source, its
            weights in a file of their own, say; then this changes.
        protocol: As given.
        resize: How images are brought to the net's size, in words.
        comparable: As given.
        warnings: As given.
    """

    def __init__(
        self,
        net: Callable[[Tensor], Tensor],
        *,
        name: str,
        sha256: str,
        input_size: int | None,
        protocol: Protocol = "clean",
        device: str | torch.device = "cpu",
        comparable: str = ALONE,
        warnings: tuple[str, ...] = (),
    ) -> None:
        if protocol not in PROTOCOLS:
            raise UserError(f"unknown protocol {protocol!r}; choose from {', '.join(PROTOCOLS)}")
        self.name, self.sha256, self.protocol = name, sha256, protocol
        self.comparable, self.warnings = comparable, warnings
        self._net, self._input_size, self._device = net, input_size, torch.device(device)
        kernel = "bicubic" if protocol == "clean" else "bilinear"
        self.resize = "none" if input_size is None else f"{kernel} to {input_size}x{input_size}"
        side = input_size or _PROBE_SIZE
        tried = self(torch.linspace(0, 1, 3 * side**2).reshape(1, 3, side, side))
        self.size = tried.shape[1]
        self.answer = hashlib.sha256(tried.cpu().contiguous().numpy().data).hexdigest()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features of images.

        Args:
            images: Floating point ``[N, C, H, W]`` in [0, 1] with 1 or 3 channels; one is repeated.

        Returns:
            float32 ``[N, D]`` on the net's device.

        Raises:
            ValueError: Other shapes, or a net that does not give one vector for each image.
        """
        if images.dim() != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point():
            raise ValueError(
                f"{self.name}: images must be floating point [N, 1 or 3, H, W], got {images.dtype} {list(images.shape)}"
            )
        ready = prepare(images.to(self._device, torch.float32), self._input_size, self.protocol)
        features = self._net(ready.expand(-1, 3, -1, -1))
        if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(images):
            got = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"{self.name}: expected a tensor [{len(images)}, D] of features, got {got}")
        return features.float()

    def describe(self) -> dict[str, Any]:
        """JSON values that say how the features came about."""
        return {
            "extractor": self.name,
            "extractor_sha256": self.sha256,
            "extractor_protocol": self.protocol,
            "resize": self.resize,
            "antialias": True,
            "rounding": "none" if self.protocol == "clean" else "8 bits",
            "features": self.size,
            "comparable": self.comparable,
        }


def prepare(images: Tensor, size: int | None, protocol: Protocol) -> Tensor:
    """Images as the net gets them; the rules stand at :class:`Extractor`.

    Args:
        images: float32 ``[N, C, H, W]`` in [0, 1].
        size: Side length of the result; ``None``: unchanged.
        protocol: Which rule.

    Returns:
        float32 ``[N, C, size, size]`` in [0, 1].
    """
    if protocol == "clean":
        if size is None or images.shape[2:] == (size, size):
            return images
        return F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    pixels = (images * 255 + 0.5).floor().clamp(0, 255).double()  # as images are written to files
    if size is not None:
        if pixels.shape[3] != size:
            pixels = _rounded(pixels @ _pillow_weights(pixels.shape[3], size).to(pixels.device).T)
        if pixels.shape[2] != size:
            pixels = _rounded(_pillow_weights(pixels.shape[2], size).to(pixels.device) @ pixels)
    return (pixels / 255).float()


@functools.cache
def _pillow_weights(length: int, size: int) -> Tensor:
    """Pillow's weights of ``length`` pixels in each of ``size``: whole numbers, so that sums are exact in float64.

    Returns:
        float64 ``[size, length]``; rows add up to about ``2^22``.
    """
    scale = length / size
    reach = max(scale, 1.0)  # of the triangle, on either side of its center
    center = (torch.arange(size, dtype=torch.float64)[:, None] + 0.5) * scale
    position = torch.arange(length, dtype=torch.float64)
    weights = (1 - ((position - center + 0.5) / reach).abs()).clamp(min=0)
    weights *= (position >= (center - reach + 0.5).trunc()) & (position < (center + reach + 0.5).trunc())
    return (weights / weights.sum(1, keepdim=True) * 2**_PILLOW_BITS + 0.5).floor()


def _rounded(sums: Tensor) -> Tensor:
    return ((sums + 2 ** (_PILLOW_BITS - 1)) / 2**_PILLOW_BITS).floor().clamp(0, 255)


def open_extractor(
    spec: str,
    *,
    protocol: Protocol = "clean",
    device: str | torch.device = "cpu",
    download: bool = False,
    digits: DigitsSource | None = None,
    own: OwnSource | None = None,
) -> Extractor:
    """An extractor by its name.

    Args:
        spec: ``digits-cnn``: a small net for digits and their colours, trained when it is first asked for. ``own``: the
            same for whatever pictures.
            ``inception:FILE``: Inception-v3 with one of its two known sets of weights. ``torchscript:FILE``: a
            TorchScript net that maps ``[N, 3, H, W]`` in [0, 1] to ``[N, D]``, of any size or of its attribute
            ``input_size``. ``module:pkg.fn``: a Python function of the same kind.
        protocol: How images are brought to the net's size, see :class:`Extractor`.
        device: Where it runs.
        download: Whether published weights that are not there are fetched.
        digits: For ``digits-cnn``: what it is trained on.
        own: For ``own``: what it is trained on.

    Raises:
        UserError: An unknown name, a missing or wrong file, a function that cannot be imported.
    """
    kind, _, rest = spec.partition(":")
    if kind == "digits-cnn" and not rest:
        return _digits(protocol, device, digits)
    if kind == "own" and not rest:
        return _own(protocol, device, own)
    openers = {"inception": _inception, "torchscript": _torchscript, "module": _function}
    if kind not in openers or not rest:
        raise UserError(
            f"unknown extractor {spec!r}; choose from own, digits-cnn, inception:FILE, torchscript:FILE, module:pkg.fn"
        )
    return openers[kind](rest, protocol, torch.device(device), download)


def _digits(protocol: Protocol, device: str | torch.device, digits: DigitsSource | None) -> Extractor:
    if digits is None:
        raise UserError("the extractor digits-cnn is for digits (data digits or mnist); choose inception:FILE")
    trained = cached_digits_cnn(digits.key, digits.load)
    return Extractor(
        trained.net.to(device).features,
        name=f"digits-cnn ({digits.key})",
        sha256=trained.sha256,
        input_size=INPUT_SIZE,
        protocol=protocol,
        device=device,
    )


def _own(protocol: Protocol, device: str | torch.device, own: OwnSource | None) -> Extractor:
    if own is None:
        raise UserError("the extractor own is trained on real images, and there are none; choose inception:FILE")
    net, digest = kept_own_net(own)
    return Extractor(
        net.to(device).features,
        name=f"own ({own.key})",
        sha256=digest,
        input_size=input_size(own.size),
        protocol=protocol,
        device=device,
    )


def _inception(file: str, protocol: Protocol, device: torch.device, download: bool) -> Extractor:
    path, digest = find_weights(file, download=download)
    net, weights = open_inception(path)
    comparable = {
        ("torchvision", "stargan2"): "FID as StarGAN v2 computes it (arXiv 1912.01865)",
        ("fid", "clean"): "clean-fid (arXiv 2104.11222)",
    }
    return Extractor(
        net.to(device),
        name=f"Inception-v3 ({weights} weights)",
        sha256=digest,
        input_size=299,
        protocol=protocol,
        device=device,
        comparable=comparable.get((weights, protocol), ALONE),
    )


def _torchscript(file: str, protocol: Protocol, device: torch.device, download: bool) -> Extractor:
    path = Path(file).expanduser()
    digest = file_sha256(path)
    if digest in _OTHER_RANGE:
        raise UserError(
            f"{path} takes values of 0 to 255 and resizes images by a rule of its own, so its features of images in "
            f"[0, 1] would be wrong; the same net is {_OTHER_RANGE[digest]}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript files are what the option is for
            net = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path} is no TorchScript file: {' '.join(str(error).split())[:160]}") from error
    return _called(net, f"torchscript:{path.name}", digest, protocol, device, (_CODE.format(path=path),))


def _function(name: str, protocol: Protocol, device: torch.device, download: bool) -> Extractor:
    module_name, _, function_name = name.rpartition(".")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
        source = inspect.getsourcefile(inspect.unwrap(function))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"module:{name}: cannot find it ({error}); it must be a Python function pkg.fn") from error
    if not callable(function) or source is None:
        raise UserError(f"module:{name} is no Python function with a source file")
    return _called(function, f"{FUNCTION}{name}", file_sha256(Path(source)), protocol, device)


def _called(
    net: Callable[[Tensor], Tensor],
    name: str,
    digest: str,
    protocol: Protocol,
    device: torch.device,
    warnings: tuple[str, ...] = (),
) -> Extractor:
    """An extractor around a foreign net, tried once."""
    size = getattr(net, "input_size", None)
    try:
        return Extractor(
            net, name=name, sha256=digest, input_size=size, protocol=protocol, device=device, warnings=warnings
        )
    except Exception as error:  # of all kinds: it is somebody else's code
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name} failed on a float32 image [1, 3, H, W] in [0, 1]: {type(error).__name__}: {reason}"
        ) from error
