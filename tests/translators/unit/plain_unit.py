"""UNIT and its many-to-one variants in plain torch: what the fast one is tested against.

It imports nothing of ``m2o_fast``. State dicts have the published names. Any floating dtype works. How the nets are
trained: ``plain_unit_trainer.py``.

Source: Liu, Breuel, Kautz, NIPS 2017 (arXiv 1703.00848); the re-release has the blocks of arXiv 1804.04732.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Steer = Callable[[Tensor], Tensor]


class PlainLayerNorm(nn.Module):
    """Over channels and pixels of an image: by the unbiased standard deviation, to which 1e-5 is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, std = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
        return (x - mean) / (std + 1e-5) * self.gamma[:, None, None] + self.beta[:, None, None]


class Layer(nn.Module):
    """Reflected border, convolution, norm, activation."""

    def __init__(self, a: int, b: int, kernel: int, stride: int, pad: int, norm: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.pad, self.norm, self.act = nn.ReflectionPad2d(pad), norm, act
        self.conv = nn.Conv2d(a, b, kernel, stride)

    def forward(self, x: Tensor, steer: Steer | None = None) -> Tensor:
        x = self.conv(self.pad(x))
        return self.act(self.norm(x) if steer is None else steer(x))


class Residual(nn.Module):
    """Two layers, the second one without activation, and what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        acts = (nn.ReLU(), nn.Identity())
        self.model = nn.Sequential(
            *(Layer(channels, channels, 3, 1, 1, nn.InstanceNorm2d(channels), act) for act in acts)
        )

    def forward(self, x: Tensor, steers: tuple[Steer, Steer] | None = None) -> Tensor:
        y = x
        for layer, steer in zip(self.model, steers or (None, None), strict=True):
            y = layer(y, steer)
        return x + y


class Stack(nn.Module):
    """Residual blocks."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*(Residual(channels) for _ in range(blocks)))


class Encoder(nn.Module):
    """Of a domain in the re-release."""

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        layers = [Layer(channels, width, 7, 1, 3, nn.InstanceNorm2d(width), nn.ReLU())]
        for c in (width, 2 * width):
            layers.append(Layer(c, 2 * c, 4, 2, 1, nn.InstanceNorm2d(2 * c), nn.ReLU()))
        self.model = nn.Sequential(*layers, Stack(4 * width, blocks))


class Decoder(nn.Module):
    """Of a domain in the re-release."""

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [Stack(4 * width, blocks)]
        for c in (4 * width, 2 * width):
            layers += [nn.Upsample(scale_factor=2), Layer(c, c // 2, 5, 1, 2, PlainLayerNorm(c // 2), nn.ReLU())]
        self.model = nn.Sequential(*layers, Layer(width, channels, 7, 1, 3, nn.Identity(), nn.Tanh()))


class Domain(nn.Module):
    """The published net of a domain in the re-release."""

    def __init__(self, channels: int, width: int = 64, blocks: int = 4) -> None:
        super().__init__()
        self.enc = Encoder(channels, width, blocks)
        self.dec = Decoder(channels, width, blocks)


class MultiScale(nn.Module):
    """The discriminator of a domain in the re-release."""

    def __init__(self, channels: int, width: int = 64, layers: int = 4, scales: int = 3) -> None:
        super().__init__()
        self.cnns = nn.ModuleList()
        for _ in range(scales):
            widths = [channels] + [width * 2**k for k in range(layers)]
            convs = [Layer(a, b, 4, 2, 1, nn.Identity(), nn.LeakyReLU(0.2)) for a, b in pairwise(widths)]
            self.cnns.append(nn.Sequential(*convs, nn.Conv2d(widths[-1], 1, 1)))

    def forward(self, x: Tensor) -> list[Tensor]:
        scores = []
        for net in self.cnns:
            scores.append(net(x))
            x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        return scores


class Activated(nn.Module):
    """A convolution and LeakyReLU, as the paper's form has them."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(conv, nn.LeakyReLU(0.01))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class PaperResidual(nn.Module):
    """Over borders of zeros."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(c, c, 3, 1, 1), nn.InstanceNorm2d(c), nn.ReLU(), nn.Conv2d(c, c, 3, 1, 1), nn.InstanceNorm2d(c)
        )

    def forward(self, x: Tensor, steers: tuple[Steer, Steer] | None = None) -> Tensor:
        conv1, norm1, relu, conv2, norm2 = self.model
        first, second = steers or (norm1, norm2)
        return x + second(conv2(relu(first(conv1(x)))))


class Paper(nn.Module):
    """The published net of both domains in the paper's form."""

    def __init__(self, a: int, b: int, width: int = 64, blocks: int = 3, shared: int = 1) -> None:
        super().__init__()
        c, domains = 4 * width, (("A", a), ("B", b))
        for name, channels in domains:
            front = [Activated(nn.Conv2d(channels, width, 7, 1, 3))]
            front += [Activated(nn.Conv2d(w, 2 * w, 3, 2, 1)) for w in (width, 2 * width)]
            setattr(self, f"encode_{name}", nn.Sequential(*front, *(PaperResidual(c) for _ in range(blocks))))
        self.enc_shared = nn.Sequential(*(PaperResidual(c) for _ in range(shared)))
        self.dec_shared = nn.Sequential(*(PaperResidual(c) for _ in range(shared)))
        for name, channels in domains:
            ups = [Activated(nn.ConvTranspose2d(w, w // 2, 3, 2, 1, 1)) for w in (c, c // 2)]
            back = [*(PaperResidual(c) for _ in range(blocks)), *ups, nn.ConvTranspose2d(width, channels, 1), nn.Tanh()]
            setattr(self, f"decode_{name}", nn.Sequential(*back))


class PaperJudge(nn.Module):
    """The published discriminator of both domains in the paper's form; ``shared`` layers are those of both."""

    def __init__(self, a: int, b: int, width: int = 64, front: int = 2, shared: int = 4) -> None:
        super().__init__()
        widths, first = [width * 2**k for k in range(front + shared)], 7 if shared else 3
        for name, channels in (("A", a), ("B", b)):
            stack = [Activated(nn.Conv2d(channels, width, first, 2, first // 2))]
            stack += [Activated(nn.Conv2d(c, d, 3, 2, 1)) for c, d in pairwise(widths[:front])]
            setattr(self, f"model_{name}", nn.Sequential(*stack, *([] if shared else [nn.Conv2d(widths[-1], 1, 1)])))
        if shared:
            deep = [Activated(nn.Conv2d(c, d, 3, 2, 1)) for c, d in pairwise(widths[front - 1 :])]
            self.model_S = nn.Sequential(*deep, nn.Conv2d(widths[-1], 1, 1))

    def forward(self, x: Tensor, k: int) -> list[Tensor]:
        y = (self.model_A, self.model_B)[k](x)
        return [self.model_S(y) if hasattr(self, "model_S") else y]


class StyleEncoder(nn.Module):
    """Strided convolutions, a mean over pixels, a linear layer."""

    def __init__(self, channels: int, width: int, style_dim: int) -> None:
        super().__init__()
        stack: list[nn.Module] = []
        for a, b in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
            stack += [nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.convs = nn.Sequential(*stack)
        self.head = nn.Linear(4 * width, style_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.convs(x).mean((2, 3)))


class Style(nn.Module):
    """What gives a domain a style: an encoder, and scales (1 + gamma) and shifts of its own residual blocks' norms."""

    def __init__(self, channels: int, width: int, blocks: int, style_dim: int) -> None:
        super().__init__()
        self.encoder = StyleEncoder(channels, width, style_dim)
        self.affines = nn.ModuleList([nn.Linear(style_dim, 8 * width) for _ in range(2 * blocks)])

    def steers(self, style: Tensor) -> Iterator[tuple[Steer, Steer]]:
        """Both norms of one block after the other."""

        def of(affine: nn.Module) -> Steer:
            gamma, beta = affine(style)[:, :, None, None].chunk(2, dim=1)
            return lambda y: (1 + gamma) * F.instance_norm(y) + beta

        for first, second in zip(self.affines[::2], self.affines[1::2], strict=True):
            yield of(first), of(second)


class Nets:
    """Of the re-release: a net and a discriminator of either domain, ``share`` residual blocks tied."""

    def __init__(self, a: Domain, b: Domain, judge_a: nn.Module, judge_b: nn.Module, share: int = 0) -> None:
        self.domains, self.judges, self.share = (a, b), (judge_a, judge_b), share
        self.styles: dict[int, Style] = {}  # by domain that has one
        blocks = len(a.enc.model[-1].model)
        for k in range(share):
            b.enc.model[-1].model[blocks - 1 - k] = a.enc.model[-1].model[blocks - 1 - k]
            b.dec.model[0].model[k] = a.dec.model[0].model[k]

    def modules(self) -> list[nn.Module]:
        return [*self.domains, *self.styles.values()]

    def judging(self) -> list[nn.Module]:
        return list(self.judges)

    def encode(self, x: Tensor, k: int) -> Tensor:
        *front, stack = self.domains[k].enc.model
        for layer in (*front, *stack.model):
            x = layer(x)
        return x

    def decode(self, z: Tensor, k: int, style: Tensor | None = None) -> Tensor:
        stack, *rest = self.domains[k].dec.model
        steers = None if style is None else self.styles[k].steers(style)
        for number, block in enumerate(stack.model):
            z = block(z) if steers is None or number < self.share else block(z, next(steers))
        for layer in rest:
            z = layer(z)
        return z

    def judge(self, x: Tensor, k: int) -> list[Tensor]:
        return self.judges[k](x)


class PaperNets:
    """Of the paper's form."""

    def __init__(self, gen: Paper, dis: PaperJudge) -> None:
        self.gen, self.dis = gen, dis
        self.styles: dict[int, Style] = {}

    def modules(self) -> list[nn.Module]:
        return [self.gen, *self.styles.values()]

    def judging(self) -> list[nn.Module]:
        return [self.dis]

    def encode(self, x: Tensor, k: int) -> Tensor:
        return self.gen.enc_shared((self.gen.encode_A, self.gen.encode_B)[k](x))

    def decode(self, z: Tensor, k: int, style: Tensor | None = None) -> Tensor:
        z = self.gen.dec_shared(z)
        steers = None if style is None else self.styles[k].steers(style)
        for layer in (self.gen.decode_A, self.gen.decode_B)[k]:
            z = layer(z, next(steers)) if steers and isinstance(layer, PaperResidual) else layer(z)
        return z

    def judge(self, x: Tensor, k: int) -> list[Tensor]:
        return self.dis(x, k)
