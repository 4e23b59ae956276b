"""Networks of the shapes that people have, written here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CycleGANBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        layers = [nn.ReflectionPad2d(1), nn.Conv2d(dim, dim, 3), nn.InstanceNorm2d(dim), nn.ReLU(True)]
        self.conv_block = nn.Sequential(*layers, nn.ReflectionPad2d(1), nn.Conv2d(dim, dim, 3), nn.InstanceNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class CycleGANGenerator(nn.Module):
    """The residual generator of CycleGAN (arXiv 1703.10593, appendix): c7s1-k, d2k, R2k, uk, c7s1-3."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        norm, double = nn.InstanceNorm2d, 2 * width
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), norm(width), nn.ReLU(True)]
        layers += [nn.Conv2d(width, double, 3, 2, 1), norm(double), nn.ReLU(True)]
        layers += [CycleGANBlock(double), CycleGANBlock(double)]
        layers += [nn.ConvTranspose2d(double, width, 3, 2, 1, 1), norm(width), nn.ReLU(True)]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class AdaptiveInstanceNorm2d(nn.Module):
    """Of MUNIT (arXiv 1804.04732): weight and bias come from outside."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features, self.eps = num_features, 1e-5
        self.weight, self.bias = None, None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None, "assign weight and bias first"
        joined = x.contiguous().view(1, x.shape[0] * x.shape[1], *x.shape[2:])
        mean, var = self.running_mean.repeat(x.shape[0]), self.running_var.repeat(x.shape[0])
        return F.batch_norm(joined, mean, var, self.weight, self.bias, True, 0.1, self.eps).view_as(x)


class MUNITConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, norm: str, activation: str) -> None:
        super().__init__()
        kinds = {"in": nn.InstanceNorm2d, "adain": AdaptiveInstanceNorm2d}
        self.norm = kinds[norm](outputs) if norm != "none" else None
        self.activation = nn.ReLU(inplace=True) if activation == "relu" else None
        self.conv = nn.Conv2d(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.pad(x, (1, 1, 1, 1), mode="reflect"))
        if self.norm:
            x = self.norm(x)
        if self.activation:
            x = self.activation(x)
        return x


class MUNITGenerator(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(MUNITConv(3, width, "in", "relu"), MUNITConv(width, width, "in", "none"))
        self.decoder = nn.Sequential(MUNITConv(width, width, "adain", "relu"), MUNITConv(width, width, "adain", "none"))
        self.last = MUNITConv(width, 3, "none", "none")
        self.mlp = nn.Linear(5, 4 * width)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        parameters = self.mlp(style)
        for module in self.decoder.modules():
            if module.__class__.__name__ == "AdaptiveInstanceNorm2d":  # as programs find them
                count = module.num_features
                module.bias = parameters[:, :count].contiguous().view(-1)
                module.weight = parameters[:, count : 2 * count].contiguous().view(-1)
                parameters = parameters[:, 2 * count :]
        return self.last(self.decoder(self.encoder(x)))


class AdaIN(nn.Module):
    """Of StarGAN v2 (arXiv 1912.01865)."""

    def __init__(self, style_dim: int, num_features: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(num_features, affine=False)
        self.fc = nn.Linear(style_dim, num_features * 2)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        gamma, beta = torch.chunk(self.fc(s)[:, :, None, None], chunks=2, dim=1)
        return (1 + gamma) * self.norm(x) + beta


SHARED = nn.LeakyReLU(0.2)  # one object in all blocks, as a default argument makes it


class EncoderBlock(nn.Module):
    def __init__(self, dim: int, normalize: bool = True) -> None:
        super().__init__()
        self.actv, self.normalize = SHARED, normalize
        self.conv1, self.conv2 = nn.Conv2d(dim, dim, 3, 1, 1), nn.Conv2d(dim, dim, 3, 1, 1)
        if normalize:
            self.norm1, self.norm2 = nn.InstanceNorm2d(dim, affine=True), nn.InstanceNorm2d(dim, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x) if self.normalize else x
        h = self.conv1(self.actv(h))
        h = self.norm2(h) if self.normalize else h
        return (x + self.conv2(self.actv(h))) / 2**0.5


class DecoderBlock(nn.Module):
    def __init__(self, dim: int, style_dim: int) -> None:
        super().__init__()
        self.actv = SHARED
        self.conv1, self.conv2 = nn.Conv2d(dim, dim, 3, 1, 1), nn.Conv2d(dim, dim, 3, 1, 1)
        self.norm1, self.norm2 = AdaIN(style_dim, dim), AdaIN(style_dim, dim)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        h = self.conv1(self.actv(self.norm1(x, s)))
        return (x + self.conv2(self.actv(self.norm2(h, s)))) / 2**0.5


class StarGANv2Generator(nn.Module):
    def __init__(self, dim: int = 4, style_dim: int = 5) -> None:
        super().__init__()
        self.from_rgb = nn.Conv2d(3, dim, 3, 1, 1)
        self.encode = nn.ModuleList([EncoderBlock(dim), EncoderBlock(dim, normalize=False)])
        self.decode = nn.ModuleList([DecoderBlock(dim, style_dim), DecoderBlock(dim, style_dim)])
        self.to_rgb = nn.Sequential(nn.InstanceNorm2d(dim, affine=True), nn.LeakyReLU(0.2), nn.Conv2d(dim, 3, 1))

    def forward(self, x: Tensor, s: Tensor, masks: Tensor | None = None) -> Tensor:
        x = self.from_rgb(x)
        for block in self.encode:
            x = block(x)
        for block in self.decode:
            x = block(x, s)
        return self.to_rgb(x)


def randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    return model.double()
