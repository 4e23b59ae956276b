"""What the tests of UNIT share: small nets in both implementations, random images."""

from __future__ import annotations

from collections.abc import Sequence

import plain_unit as plain
import plain_unit_trainer as training
import torch
from gan_steps import Steps
from torch import Tensor, nn

from m2o_fast.batch import Batch
from m2o_fast.m2o import Domain
from m2o_fast.translators.unit import SYSTEM
from m2o_fast.translators.unit.published import from_official
from m2o_fast.translators.unit.settings import Size, UNITSettings, Weights
from m2o_fast.translators.unit.translator import UNIT

WIDTH, BLOCKS, STYLE_DIM, SIDE = 4, 2, 3, 32
FORMS = ("rerelease", "paper")
PlainNets = plain.Nets | plain.PaperNets


def published_nets(
    form: str = "rerelease", a: int = 3, b: int = 3, share: int = 1, deep: int = 1, blocks: int = BLOCKS
) -> PlainNets:
    """The nets of plain UNIT, small, with weights and biases that matter; ``deep``: shared layers of discriminators."""
    if form == "paper":
        gen = plain.Paper(a, b, WIDTH, blocks - share, share)
        nets: PlainNets = plain.PaperNets(gen, plain.PaperJudge(a, b, WIDTH, 3 - deep, deep))
    else:
        domains = [plain.Domain(channels, WIDTH, blocks) for channels in (a, b)]
        nets = plain.Nets(*domains, *(plain.MultiScale(channels, WIDTH, 2, 2) for channels in (a, b)), share)
    for net in (*nets.modules(), *nets.judging()):
        randomize(net)
    return nets


def randomize(net: nn.Module) -> None:
    """Numbers of a size that no layer can be left out without being noticed."""
    for tensor in net.state_dict().values():
        tensor.normal_(std=0.3)


def weights(nets: PlainNets) -> dict[str, dict[str, Tensor]]:
    """State dicts by published name."""
    if isinstance(nets, plain.PaperNets):
        return {"gen": nets.gen.state_dict(), "dis": nets.dis.state_dict()}
    named = zip(("gen_a", "gen_b", "dis_a", "dis_b"), (*nets.domains, *nets.judges), strict=True)
    return {name: net.state_dict() for name, net in named}


def many_to_one_pair(
    form: str = "rerelease",
    channels: int = 1,
    supervised: float = 0.0,
    losses: dict[str, object] | None = None,
    *,
    styled: Sequence[int] = (0,),
    blocks: int = BLOCKS,
) -> tuple[PlainNets, UNIT]:
    """Nets of a variant, and the translator with the same weights; by default colours A have a style and B none."""
    nets = published_nets(form, 3, channels, blocks=blocks)
    nets.styles = {k: plain.Style((3, channels)[k], WIDTH, blocks - 1, STYLE_DIM) for k in styled}
    for style in nets.styles.values():
        randomize(style)
    plainly = from_official(weights(nets), image_size=SIDE)
    size = Size(**{**plainly.size.model_dump(), "style_dim": STYLE_DIM})
    rules = SYSTEM.variants["hms" if supervised else "hmu"]
    translator = UNIT(
        [Domain("A", 3, multimodal=0 in styled), Domain("B", channels, multimodal=1 in styled)],
        type(rules)(supervised_weight=supervised),
        size,
        Weights(**(losses or {})),
    )
    translator.load_state_dict(plainly.state_dict(), strict=False)
    copy_styles(nets, translator)
    return nets, translator


def copy_styles(nets: PlainNets, translator: UNIT) -> None:
    """Ours has one layer for all norms, of each first the shift, then the scale."""
    for k, theirs in nets.styles.items():
        encoder, steering = translator.style_encoders[str(k)], translator.generator.steering[str(k)].fc
        for mine, parameter in zip(encoder.parameters(), theirs.encoder.parameters(), strict=True):
            mine.data.copy_(parameter)
        for name in ("weight", "bias"):
            halves = [getattr(affine, name).detach().chunk(2) for affine in theirs.affines]
            getattr(steering, name).data.copy_(torch.cat([part for gamma, beta in halves for part in (beta, gamma)]))


def new_translator(model: dict[str, object], variant: str = "hms", channels: int = 3, side: int = SIDE) -> UNIT:
    settings = UNITSettings.model_validate({"model": {"width": WIDTH, "discriminator_width": WIDTH, **model}})
    domains = [Domain("A", 3), Domain("B", channels, multimodal=variant == "plain")]
    described = settings.description(domains, SYSTEM.variants[variant], side)
    described["weights"].setdefault("diversity_steps", 4)
    return UNIT.from_description(described)


def random_batch(
    a: int, b: int, count: int, other: int | None = None, *, styled: Sequence[int] = (), paired: bool = False
) -> Batch:
    """``count`` images of A and ``other`` of B, in another order as sources than as targets; else as many, in order.

    Pairs are known of every second image that is translated into a domain without style; into others they are far off.
    """
    counts = (count, count if other is None else other)
    images = [torch.rand(number, c, SIDE, SIDE) * 2 - 1 for number, c in zip(counts, (a, b), strict=True)]
    order = torch.arange if other is None else torch.randperm
    into, total = counts[::-1], sum(counts)
    noise = dict.fromkeys(("latent_discriminators", "latent", "latent_cycle"), (4 * WIDTH, SIDE // 4, SIDE // 4))
    noise |= dict.fromkeys(("style_discriminators", "style", "style2") if styled else (), (STYLE_DIM,))
    pairs = [torch.rand(number, c, SIDE, SIDE) * 2 - 1 for number, c in zip(into, (a, b), strict=True)]
    return Batch(
        source=tuple(images),
        to_target=torch.cat([count + order(counts[1]), order(count)]),
        target_counts=into,
        reference=(),
        reference2=(),
        paired=tuple(pair + 9 * (k in styled) for k, pair in enumerate(pairs)) if paired else (),
        has_pair=torch.arange(total) % 2 == 0 if paired else None,
        noise={name: torch.randn(total, *shape) for name, shape in noise.items()},
    )


def plain_iteration(trainer: training.Trainer, batch: Batch) -> dict[str, float]:
    """The same images through the plain implementation."""
    of_b, of_a = batch.to_target.split(list(batch.target_counts))
    a, b = batch.source[0][of_a], batch.source[1][of_b - len(batch.source[0])]

    def by_target(numbers: Tensor) -> tuple[Tensor, ...]:
        return numbers.split(list(batch.target_counts))

    noise = [by_target(batch.noise[name])[::-1] for name in ("latent_discriminators", "latent", "latent_cycle")]
    draws, styled = training.Draws(*noise), trainer.settings.styled
    if styled:
        drawn = [by_target(batch.noise[name]) for name in ("style_discriminators", "style", "style2")]
        draws.styles = {k: tuple(parts[k] for parts in drawn) for k in styled}
    if batch.has_pair is None:
        return trainer.iteration(a, b, draws)
    known = by_target(batch.has_pair)
    return trainer.iteration(a, b, draws, {k: (batch.paired[k], known[k]) for k in range(2) if k not in styled})


def steps_for(translator: UNIT, **optim: object) -> Steps:
    return Steps(translator, UNITSettings.model_validate({"optim": optim}).optim)
