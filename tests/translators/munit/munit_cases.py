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


def translator_of(nets: plain.Nets, losses: dict[str, float] | None = None, supervised: float = 0.0) -> MUNIT:
    """Ours with the weights of plain nets; by the many-to-one rules where domain b has no style."""
    if hasattr(nets.gen_b, "mlp"):
        return with_losses(from_official(weights(nets)), losses or {})
    channels = nets.gen_b.enc_content.model[0].conv.in_channels
    published = weights(nets)
    whole = plain.Generator(channels, **GENERATOR).state_dict()
    published["gen_b"] = {**whole, **{key: value for key, value in published["gen_b"].items() if key in whole}}
    plainly = from_official(published).state_dict()
    domains = [Domain("A", nets.gen_a.enc_content.model[0].conv.in_channels), Domain("B", channels, multimodal=False)]
    translator = MUNIT(domains, ManyToOne(supervised_weight=supervised), size(), Weights(**(losses or {})))
    affines = {"generators.1.affines": nets.gen_b.affines.detach()}
    translator.load_state_dict({key: {**plainly, **affines}[key] for key in translator.state_dict()})
    return translator


def random_batch(a: int, b: int, count: int, *, paired: bool = False, side: int = SIDE) -> Batch:
    """``count`` images of either domain."""
    images = [torch.rand(count, c, side, side) * 2 - 1 for c in (a, b)]
    pairs = (torch.empty(count, a, side, side).fill_(9), torch.rand(count, b, side, side) * 2 - 1) if paired else ()
    return Batch(
        source=tuple(images),
        to_target=torch.cat([torch.arange(count, 2 * count), torch.arange(count)]),
        target_counts=(count, count),
        reference=(),
        reference2=(),
        paired=pairs,
        has_pair=torch.arange(2 * count) % 2 == 0 if paired else None,
        noise={name: torch.randn(2 * count, STYLE_DIM) for name in ("latent", "latent2")},
    )


def plain_iteration(trainer: plain.Trainer, batch: Batch) -> dict[str, float]:
    """The same images and styles through the plain implementation."""
    a, b = batch.source
    judged, made = (batch.noise[name].split([len(a), len(b)]) for name in ("latent", "latent2"))
    styles = plain.Styles(*judged, *made)
    if not batch.paired:
        return trainer.iteration(a, b, styles)
    assert batch.has_pair is not None
    return trainer.iteration(a, b, styles, batch.paired[1], batch.has_pair[len(a) :])


def steps_for(translator: MUNIT, **optim: object) -> Steps:
    return Steps(translator, MUNITSettings.model_validate({"optim": optim}).optim)


def variant(name: str) -> ManyToOne:
    return SYSTEM.variants[name]
