"""What the tests of CycleGAN share: small nets in both implementations, random images."""

from __future__ import annotations

import plain_cyclegan as plain
import torch
from gan_steps import Steps
from torch import Tensor, nn

from m2o_fast.batch import Batch
from m2o_fast.m2o import Domain
from m2o_fast.translators.cyclegan import SYSTEM
from m2o_fast.translators.cyclegan.published import from_official
from m2o_fast.translators.cyclegan.settings import CycleGANSettings, Size, Weights
from m2o_fast.translators.cyclegan.translator import CycleGAN

WIDTH, BLOCKS, STYLE_DIM, SIDE = 4, 2, 3, 32


def published_nets(a: int = 3, b: int = 3, norm: str = "instance", layers: int = 2, blocks: int = BLOCKS) -> plain.Nets:
    """The nets of plain CycleGAN, small, with weights and biases that matter."""
    nets = plain.Nets(
        plain.Generator(a, b, WIDTH, blocks, norm),
        plain.Generator(b, a, WIDTH, blocks, norm),
        plain.Discriminator(b, WIDTH, layers, norm),
        plain.Discriminator(a, WIDTH, layers, norm),
    )
    for net in published(nets).values():
        randomize(net, 0.1 if norm == "none" else 0.3)
    return nets


def randomize(net: nn.Module, std: float = 0.3) -> None:
    """Numbers of a size that no layer can be left out without being noticed."""
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(std=std)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)


def published(nets: plain.Nets) -> dict[str, nn.Module]:
    return {name: getattr(nets, name) for name in ("G_A", "G_B", "D_A", "D_B")}


def weights(nets: plain.Nets) -> dict[str, dict[str, Tensor]]:
    return {name: net.state_dict() for name, net in published(nets).items()}


def many_to_one_pair(
    channels: int, style: str, supervised: float, losses: dict[str, float] | None = None
) -> tuple[plain.Nets, CycleGAN]:
    """Nets of a variant, colours A with a style and B without, and the translator with the same weights."""
    nets = published_nets(3, channels)
    nets.G_B = plain.StyledGenerator(channels, 3, WIDTH, BLOCKS, STYLE_DIM)
    randomize(nets.G_B)
    if style == "encoder":
        nets.E_A = plain.StyleEncoder(3, WIDTH, STYLE_DIM)
        randomize(nets.E_A)
    domains = [Domain("A", 3), Domain("B", channels, multimodal=False)]
    model = {"width": WIDTH, "blocks": BLOCKS, "discriminator_width": WIDTH, "style": style, "style_dim": STYLE_DIM}
    settings = CycleGANSettings.model_validate({"model": model})
    rules = SYSTEM.variants["hms" if supervised else "hmu"]
    rules = type(rules)(supervised_weight=supervised)
    translator = CycleGAN(domains, rules, Size(**settings.sizes(SIDE)), Weights(**(losses or {})))
    plainly = from_official({name: net for name, net in weights(nets).items() if name != "G_B"})
    translator.generators["1"].load_state_dict(plainly.generators["1"].state_dict())
    translator.discriminators.load_state_dict(
        from_official(weights(published_nets_of(nets))).discriminators.state_dict()
    )
    _copy_styled(nets.G_B, translator.generators["0"])
    if nets.E_A is not None:
        encoder = translator.style_encoders["0"]
        for mine, theirs in zip(encoder.parameters(), nets.E_A.parameters(), strict=True):
            mine.data.copy_(theirs)
    return nets, translator


def published_nets_of(nets: plain.Nets) -> plain.Nets:
    """The same with a generator that the published layout has in place of the styled one."""
    base = plain.Generator(nets.G_B.model[1].in_channels, 3, WIDTH, BLOCKS)
    base.load_state_dict({k: v for k, v in nets.G_B.state_dict().items() if k.startswith("model.")})
    return plain.Nets(nets.G_A, base, nets.D_A, nets.D_B)


def _copy_styled(theirs: plain.StyledGenerator, ours: nn.Module) -> None:
    base = plain.Generator(theirs.model[1].in_channels, 3, WIDTH, BLOCKS)
    base.load_state_dict({k: v for k, v in theirs.state_dict().items() if k.startswith("model.")})
    convolutions = from_official({"G_B": base.state_dict()}).generators["0"].state_dict()
    ours.load_state_dict(convolutions, strict=False)
    for mine, affine in zip(styled_layers(ours), theirs.affines, strict=True):
        mine.load_state_dict(affine.state_dict())


def styled_layers(generator: nn.Module) -> list[nn.Module]:
    """The layers that turn a style into scale and shift, in the order in which they are used."""
    return [layer for name, layer in generator.named_modules() if name.endswith(".fc")]


def random_batch(a: int, b: int, count: int, *, styled: bool = False, paired: bool = False) -> Batch:
    """``count`` images of either domain."""
    images = [torch.rand(count, c, SIDE, SIDE) * 2 - 1 for c in (a, b)]
    noise = {"pool": torch.rand(2 * count, 2)}
    if styled:
        noise |= {"latent": torch.randn(2 * count, STYLE_DIM), "latent2": torch.randn(2 * count, STYLE_DIM)}
    pairs = (torch.empty(count, a, SIDE, SIDE).fill_(9), torch.rand(count, b, SIDE, SIDE) * 2 - 1) if paired else ()
    return Batch(
        source=tuple(images),
        to_target=torch.cat([torch.arange(count, 2 * count), torch.arange(count)]),
        target_counts=(count, count),
        reference=(),
        reference2=(),
        paired=pairs,
        has_pair=torch.arange(2 * count) % 2 == 0 if paired else None,
        noise=noise,
    )


def plain_iteration(trainer: plain.Trainer, batch: Batch) -> dict[str, float]:
    """The same images through the plain implementation."""
    a, b = batch.source
    count = len(a)
    numbers = batch.noise["pool"]
    draws = plain.Draws(pool_a=numbers[:count], pool_b=numbers[count:])
    if "latent" in batch.noise:
        draws.z, draws.z2 = batch.noise["latent"][:count], batch.noise["latent2"][:count]
    if not batch.paired:
        return trainer.iteration(a, b, draws)
    assert batch.has_pair is not None
    return trainer.iteration(a, b, draws, batch.paired[1], batch.has_pair[count:])


def steps_for(translator: CycleGAN, **optim: object) -> Steps:
    settings = CycleGANSettings.model_validate({"optim": optim})
    return Steps(translator, settings.optim)
