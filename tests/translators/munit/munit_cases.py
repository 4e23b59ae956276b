"""What the tests of MUNIT share: small nets in both implementations, random images."""

from __future__ import annotations

import plain_munit as plain
import torch
from gan_steps import Steps
from torch import Tensor, nn

from m2o_fast.batch import Batch
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.translators.munit import SYSTEM
from m2o_fast.translators.munit.published import from_official
from m2o_fast.translators.munit.settings import MUNITSettings, Size, Weights
from m2o_fast.translators.munit.translator import MUNIT

WIDTH, BLOCKS, STYLE_DIM, MLP, SIDE = 4, 2, 3, 5, 16
LAYERS, SCALES = 2, 2
GENERATOR = {"width": WIDTH, "blocks": BLOCKS, "style": STYLE_DIM, "mlp": MLP}
MODEL = {
    "width": WIDTH,
    "blocks": BLOCKS,
    "style_dim": STYLE_DIM,
    "mlp_width": MLP,
    "discriminator_width": WIDTH,
    "discriminator_layers": LAYERS,
    "scales": SCALES,
}


def published_nets(a: int = 3, b: int = 3, styled: bool = True) -> plain.Nets:
    """The nets of MUNIT, small, with weights and biases that matter; ``styled``: whether domain b has a style."""
    nets = plain.Nets(
        plain.Generator(a, **GENERATOR),
        plain.Generator(b, **GENERATOR, styled=styled),
        *(plain.Discriminator(channels, WIDTH, LAYERS, SCALES) for channels in (a, b)),
    )
    for net in vars(nets).values():
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.3)
    return nets


def weights(nets: plain.Nets) -> dict[str, dict[str, Tensor]]:
    return {name: net.state_dict() for name, net in vars(nets).items()}


def size(side: int = SIDE) -> Size:
    return Size(**MUNITSettings.model_validate({"model": MODEL}).sizes(side))


def with_losses(translator: MUNIT, losses: dict[str, float]) -> MUNIT:
    """The same nets with other weights of the losses."""
    again = MUNIT(translator.domains, translator.rules, translator.size, Weights(**losses))
    again.load_state_dict(translator.state_dict())
    return again


def translator_of(
    nets: plain.Nets, losses: dict[str, float] | None = None, supervised: float = 0.0, first: int = 0
) -> MUNIT:
    """Ours with the weights of plain nets; by the many-to-one rules where domain b has no style.

    ``first``: which of our domains is a of the plain nets.
    """
    if hasattr(nets.gen_b, "mlp"):
        return with_losses(from_official(weights(nets)), losses or {})
    channels = [net.enc_content.model[0].conv.in_channels for net in (nets.gen_a, nets.gen_b)]
    published = weights(nets)
    whole = plain.Generator(channels[1], **GENERATOR).state_dict()
    published["gen_b"] = {**whole, **{key: value for key, value in published["gen_b"].items() if key in whole}}
    if first:
        published = {f"{name[:-1]}{'ba'['ab'.index(name[-1])]}": net for name, net in published.items()}
    plainly = from_official(published).state_dict()
    domains = [Domain("AB"[k], channels[k != first], multimodal=k == first) for k in range(2)]
    translator = MUNIT(domains, ManyToOne(supervised_weight=supervised), size(), Weights(**(losses or {})))
    affines = {f"generators.{1 - first}.affines": nets.gen_b.affines.detach()}
    translator.load_state_dict({key: {**plainly, **affines}[key] for key in translator.state_dict()})
    return translator


def random_batch(a: int, b: int, count: int, other: int | None = None, *, paired: bool = False) -> Batch:
    """``count`` images of A and ``other`` of B, in another order as sources than as targets; else as many, in order.

    Pairs are known of every second image that is translated into the domain of one channel, or B; others are far off.
    """
    counts = (count, count if other is None else other)
    images = [torch.rand(number, c, SIDE, SIDE) * 2 - 1 for number, c in zip(counts, (a, b), strict=True)]
    order, into, total = torch.arange if other is None else torch.randperm, counts[::-1], sum(counts)
    pairs = [torch.rand(number, c, SIDE, SIDE) * 2 - 1 for number, c in zip(into, (a, b), strict=True)]
    far_off = (9 * (a > 1), 9 * (a == 1))
    return Batch(
        source=tuple(images),
        to_target=torch.cat([count + order(counts[1]), order(count)]),
        target_counts=into,
        reference=(),
        reference2=(),
        paired=tuple(pair + far for pair, far in zip(pairs, far_off, strict=True)) if paired else (),
        has_pair=torch.arange(total) % 2 == 0 if paired else None,
        noise={name: torch.randn(total, STYLE_DIM) for name in ("latent", "latent2")},
    )


def plain_iteration(trainer: plain.Trainer, batch: Batch, first: int = 0) -> dict[str, float]:
    """The same images and styles through the plain implementation, whose domain a is ours of the index ``first``."""
    rows = batch.to_target.split(list(batch.target_counts))
    images = [batch.source[0][rows[1]], batch.source[1][rows[0] - len(batch.source[0])]]
    order = (first, 1 - first)

    def by_target(numbers: Tensor) -> list[Tensor]:
        parts = numbers.split(list(batch.target_counts))
        return [parts[k] for k in order]

    styles = plain.Styles(*by_target(batch.noise["latent"]), *by_target(batch.noise["latent2"]))
    a, b = (images[k] for k in order)
    if not batch.paired:
        return trainer.iteration(a, b, styles)
    assert batch.has_pair is not None
    return trainer.iteration(a, b, styles, batch.paired[order[1]], by_target(batch.has_pair)[1])


def steps_for(translator: MUNIT, **optim: object) -> Steps:
    return Steps(translator, MUNITSettings.model_validate({"optim": optim}).optim)


def variant(name: str) -> ManyToOne:
    return SYSTEM.variants[name]
