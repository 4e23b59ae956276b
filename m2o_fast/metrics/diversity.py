"""How different the outputs for one source are: LPIPS between pairs of them (arXiv 1801.03924).

Definition, protocol and caveats: ``docs/metrics.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from m2o_fast.errors import UserError
from m2o_fast.metrics.weights import fill, find_weights, read_weights

SMALLEST = 31  # pixels that leave something after the net's strides

_CHANNELS = (64, 192, 384, 256, 256)
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10
_IMAGES = 64  # that go through the net at once


class Lpips(nn.Module):
    """Learned perceptual similarity with AlexNet; weights come from :func:`open_lpips`.

    The distance of two images is a squared Euclidean distance: of the features after each of the five ReLUs, scaled to
    length 1 over the channels, weighted by the roots of the learned weights and of one over the number of pixels. So an
    image goes through the net once, however many others it is compared with.

    Attributes:
        sha256: Of the files of the net and of the learned weights, in hexadecimal; empty if they come from no file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sha256: tuple[str, ...] = ()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        )
        self.heads = nn.ParameterList(nn.Parameter(torch.ones(1, width, 1, 1)) for width in _CHANNELS)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Vectors whose squared Euclidean distances are the distances of the images.

        Args:
            images: Floating point ``[N, C, H, W]`` in [0, 1] with 1 or 3 channels; at least 31x31 pixels.

        Returns:
            float32 ``[N, E]`` on the net's device; E grows with the image.

        Raises:
            ValueError: Other shapes, or images that are too small.
        """
        if images.dim() != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point():
            raise ValueError(
                f"LPIPS: images must be floating point [N, 1 or 3, H, W], got {images.dtype} {list(images.shape)}"
            )
        if min(images.shape[2:]) < SMALLEST:
            raise ValueError(f"LPIPS needs images of at least {SMALLEST}x{SMALLEST} pixels, got {list(images.shape)}")
        x = images.to(self.heads[0].device, torch.float32).expand(-1, 3, -1, -1) * 2 - 1
        shift, scale = (x.new_tensor(values)[:, None, None] for values in (_SHIFT, _SCALE))
        x = (x - shift) / scale
        parts: list[Tensor] = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                direction = x * (x.square().sum(1, keepdim=True) + _EPSILON).rsqrt()
                weight = (self.heads[len(parts)] / (x.shape[2] * x.shape[3])).sqrt()
                parts.append((direction * weight).flatten(1))
        return torch.cat(parts, dim=1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances ``[N]`` of images ``[N, C, H, W]`` in [0, 1] to others; see :meth:`embed`."""
        return (self.embed(first) - self.embed(second)).square().sum(1)


def open_lpips(files: str, *, device: str | torch.device = "cpu", download: bool = False) -> Lpips:
    """LPIPS with the weights of two files.

    Args:
        files: ``ALEXNET[,HEADS]``: AlexNet trained on ImageNet (``alexnet-owt-7be5be79.pth``) and the learned weights
            of its features (``alex.pth``, version 0.1), looked for beside the first where no second file is named.
        device: Where it runs.
        download: Whether published files that are not there are fetched.

    Raises:
        UserError: A missing file (with the address of a published one), or weights of another net.
    """
    first, _, second = files.partition(",")
    alexnet, alexnet_sha256 = find_weights(first, download=download)
    heads, heads_sha256 = find_weights(second or str(alexnet.with_name("alex.pth")), download=download)
    net = Lpips()
    state = {name: tensor for name, tensor in read_weights(alexnet).items() if not name.startswith("classifier.")}
    fill(net.features, {name.removeprefix("features."): tensor for name, tensor in state.items()}, str(alexnet))
    _fill_heads(net, heads)
    net.sha256 = (alexnet_sha256, heads_sha256)
    return net.to(device)


def _fill_heads(net: Lpips, path: Path) -> None:
    """Raises ``UserError`` for other names or shapes, and for negative weights, which would give no distance."""
    names = {f"lin{stage}.model.1.weight": str(stage) for stage in range(len(_CHANNELS))}
    state = read_weights(path)
    fill(net.heads, {names.get(name, name): tensor for name, tensor in state.items()}, str(path))
    if any(bool((tensor < 0).any()) for tensor in state.values()):
        raise UserError(f"{path}: LPIPS weights must not be negative")


class PairwiseDistance:
    """Mean LPIPS over all pairs of the M outputs of each source, then over the sources; streaming.

    With vectors ``e``, the mean of ``|e_i - e_j|^2`` over the pairs is twice their unbiased variance, so no pair is
    ever computed. The result does not depend on how the sources are cut into batches.

    Args:
        lpips: The distance.

    Attributes:
        sources: Number of sources seen.
    """

    def __init__(self, lpips: Lpips) -> None:
        self.sources = 0
        self._lpips = lpips
        self._sum = torch.zeros((), dtype=torch.float64)

    def update(self, outputs: Tensor) -> Tensor:
        """Adds sources.

        Args:
            outputs: Floating point ``[n, M, C, H, W]`` in [0, 1]: the M >= 2 outputs of each of n sources.

        Returns:
            float64 ``[n]``: the mean over the pairs of each source.

        Raises:
            ValueError: Other shapes, or images that are too small.
        """
        if outputs.dim() != 5 or outputs.shape[1] < 2:
            raise ValueError(f"PairwiseDistance: outputs must be [n, M >= 2, C, H, W], got {list(outputs.shape)}")
        values = [torch.zeros(0, dtype=torch.float64)]
        for part in outputs.split(max(1, _IMAGES // outputs.shape[1])):
            vectors = self._lpips.embed(part.flatten(0, 1)).unflatten(0, part.shape[:2])
            values.append(2 * vectors.double().var(1).sum(1).cpu())
        distances = torch.cat(values)
        self.sources += len(distances)
        self._sum = self._sum + distances.sum()
        return distances

    def state(self) -> dict[str, Tensor]:
        """What another instance needs to go on: pass it to :meth:`merge_state`."""
        return {"sources": torch.tensor(self.sources), "sum": self._sum}

    def merge_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds everything that another instance has seen."""
        self.sources += int(state["sources"])
        self._sum = self._sum + state["sum"]

    def compute(self) -> float:
        """The mean over all sources seen so far, at least 0. Raises ``ValueError`` if there are none."""
        if self.sources == 0:
            raise ValueError("PairwiseDistance: there are no outputs; call update first")
        return float(self._sum) / self.sources
