"""What the tests of UNIT share: small nets in both implementations, random images."""

from __future__ import annotations

import plain_unit as plain
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
PlainNets = plain.Nets | plain.PaperNets


def published_nets(form: str = "rerelease", a: int = 3, b: int = 3, share: int = 1, deep: int = 1) -> PlainNets:
    """The nets of plain UNIT, small, with weights and biases that matter; ``deep``: shared layers of discriminators."""
    if form == "paper":
        gen = plain.Paper(a, b, WIDTH, BLOCKS - share, share)
        nets: PlainNets = plain.PaperNets(gen, plain.PaperJudge(a, b, WIDTH, 3 - deep, deep))
    else:
        domains = [plain.Domain(channels, WIDTH, BLOCKS) for channels in (a, b)]
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
    form: str = "rerelease", channels: int = 1, supervised: float = 0.0, losses: dict[str, object] | None = None
) -> tuple[PlainNets, UNIT]:
    """Nets of a variant, colours A with a style and B without, and the translator with the same weights."""
    nets = published_nets(form, 3, channels)
    nets.style = plain.Style(3, WIDTH, BLOCKS - 1, STYLE_DIM)
    randomize(nets.style)
    plainly = from_official(weights(nets), image_size=SIDE)
    size = Size(**{**plainly.size.model_dump(), "style_dim": STYLE_DIM})
    rules = SYSTEM.variants["hms" if supervised else "hmu"]
    translator = UNIT(
        [Domain("A", 3), Domain("B", channels, multimodal=False)],
        type(rules)(supervised_weight=supervised),
        size,
        Weights(**(losses or {})),
    )
    translator.load_state_dict(plainly.state_dict(), strict=False)
    copy_style(nets.style, translator)
    return nets, translator


def copy_style(theirs: plain.Style, translator: UNIT) -> None:
    """Ours has one layer for all norms, of each first the shift, then the scale."""
    for mine, parameter in zip(translator.style_encoders["0"].parameters(), theirs.encoder.parameters(), strict=True):
        mine.data.copy_(parameter)
    steering = translator.generator.steering["0"].fc
    for name in ("weight", "bias"):
        theirs_of = [getattr(affine, name).detach().chunk(2) for affine in theirs.affines]
        getattr(steering, name).data.copy_(torch.cat([part for gamma, beta in theirs_of for part in (beta, gamma)]))


def new_translator(model: dict[str, object], variant: str = "hms", channels: int = 3, side: int = SIDE) -> UNIT:
    settings = UNITSettings.model_validate({"model": {"width": WIDTH, "discriminator_width": WIDTH, **model}})
    domains = [Domain("A", 3), Domain("B", channels, multimodal=variant == "plain")]
    described = settings.description(domains, SYSTEM.variants[variant], side)
    described["weights"].setdefault("diversity_steps", 4)
    return UNIT.from_description(described)


def random_batch(a: int, b: int, count: int, *, styled: bool = False, paired: bool = False) -> Batch:
    """``count`` images of either domain."""
    images = [torch.rand(count, c, SIDE, SIDE) * 2 - 1 for c in (a, b)]
    shape = (2 * count, 4 * WIDTH, SIDE // 4, SIDE // 4)
    noise = {name: torch.randn(shape) for name in ("latent_discriminators", "latent", "latent_cycle")}
    if styled:
        noise |= {name: torch.randn(2 * count, STYLE_DIM) for name in ("style_discriminators", "style", "style2")}
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
    """The same images through the plain implementation; the first half of a batch is translated into A."""
    a, b = batch.source
    count = len(a)

    def noise(name: str) -> tuple[Tensor, Tensor]:
        return batch.noise[name][count:], batch.noise[name][:count]

    draws = plain.Draws(noise("latent_discriminators"), noise("latent"), noise("latent_cycle"))
    if "style" in batch.noise:
        draws.styles = tuple(batch.noise[name][:count] for name in ("style_discriminators", "style", "style2"))
    if not batch.paired:
        return trainer.iteration(a, b, draws)
    assert batch.has_pair is not None
    return trainer.iteration(a, b, draws, batch.paired[1], batch.has_pair[count:])


def steps_for(translator: UNIT, **optim: object) -> Steps:
    return Steps(translator, UNITSettings.model_validate({"optim": optim}).optim)
