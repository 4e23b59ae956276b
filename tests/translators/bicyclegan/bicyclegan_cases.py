"""What the tests of BicycleGAN share: small nets in both implementations, random images."""

from __future__ import annotations

import plain_bicyclegan as plain
import torch
from gan_steps import EPS
from torch import Tensor, nn

from m2o_fast.batch import Batch
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.translators import state_dicts as layouts
from m2o_fast.translators.bicyclegan import SYSTEM
from m2o_fast.translators.bicyclegan.published import published_net
from m2o_fast.translators.bicyclegan.settings import JUDGES, BicycleGANSettings, Size, Weights
from m2o_fast.translators.bicyclegan.translator import BicycleGAN

WIDTH, STYLE_DIM, LEVELS, BLOCKS, SIDE = 2, 3, 6, 2, 64
COLOR, GRAY = Domain("color", 3), Domain("gray", 1, multimodal=False)
OPTIM = {"lr": 1e-3, "decay_from": 1, "decay_steps": 3}
PLAIN = {"lr": 1e-3, "eps": EPS, "constant": 1, "decay": 3}
MODEL = {
    "width": WIDTH,
    "style_dim": STYLE_DIM,
    "encoder_width": WIDTH,
    "encoder_blocks": BLOCKS - 1,
    "discriminator_width": 3,
    "discriminator_layers": 2,
}


def randomize(net: nn.Module, std: float = 0.3) -> nn.Module:
    """Numbers of a size that no layer can be left out without being noticed."""
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=std)
    return net


def direction(a: int, b: int, kind: str = "bicycle", styled: bool = True, levels: int = LEVELS) -> plain.Direction:
    """Nets of a direction with random weights, those that its kind has."""
    judges = set(JUDGES[kind].values()) if styled else {"D"}
    encoder = plain.Encoder(b, WIDTH, BLOCKS, STYLE_DIM) if styled and kind != "pix2pix_noise" else None
    way = plain.Direction(
        plain.Generator(a, b, WIDTH, levels, STYLE_DIM * styled),
        *(plain.Discriminator(b, 3, 2) if judge in judges else None for judge in ("D", "D2")),
        encoder,
        styled,
    )
    for net in nets_of(way).values():
        randomize(net)
    return way


def nets_of(way: plain.Direction) -> dict[str, nn.Module]:
    return {name: net for name in ("G", "E", "D", "D2") if (net := getattr(way, name)) is not None}


def weights(there: plain.Direction, back: plain.Direction | None = None) -> dict[str, dict[str, Tensor]]:
    """By published names."""
    found = {name: net.state_dict() for name, net in nets_of(there).items()}
    return found | ({} if back is None else {f"{name}_BA": net.state_dict() for name, net in nets_of(back).items()})


def size(side: int = SIDE, **model: object) -> Size:
    return Size(**BicycleGANSettings.model_validate({"model": {**MODEL, **model}}).sizes(side))


def translator_of(
    there: plain.Direction, back: plain.Direction, rules: ManyToOne, losses: Weights | None = None, **model: object
) -> BicycleGAN:
    """Ours with the weights of plain nets, between colour and gray images."""
    translator = BicycleGAN([COLOR, GRAY], rules, size(**model), losses)
    for name, net in weights(there, back).items():
        for part in published_net(translator, name):
            layer, published = part[0], part[1][""]
            layer.load_state_dict({key: net[published + key] for key in layer.state_dict()})
    return translator


def same_weights(translator: BicycleGAN, expected: dict[str, dict[str, Tensor]]) -> None:
    for name, net in expected.items():
        found = {key: t for part in published_net(translator, name) for key, t in layouts.saved(*part).items()}
        assert found.keys() == net.keys()
        for key, tensor in net.items():
            torch.testing.assert_close(found[key], tensor, rtol=1e-9, atol=1e-10, msg=f"{name} {key}")


def random_batch(translator: BicycleGAN, count: int) -> Batch:
    """``count`` images for each direction, all pairs known."""
    side, targets = translator.image_size, [b for _, b in translator.directions()]
    counts = [count if k in targets else 0 for k in range(2)]
    noise = translator.noise(sum(counts), torch.Generator().manual_seed(3))

    def images(counts: list[int]) -> tuple[Tensor, ...]:
        return tuple(
            torch.rand(n, d.channels, side, side) * 2 - 1 for n, d in zip(counts, translator.domains, strict=True)
        )

    order = [torch.arange(count, 2 * count), torch.arange(count)] if len(targets) == 2 else [torch.arange(count)]
    return Batch(
        source=images(counts[::-1]),
        to_target=torch.cat(order),
        target_counts=tuple(counts),
        reference=images(counts) if translator.references() else (),
        reference2=(),
        paired=images(counts),
        has_pair=torch.ones(sum(counts), dtype=torch.bool),
        noise={name: numbers.to(torch.get_default_dtype()) for name, numbers in noise.items()},
    )


def share_of(translator: BicycleGAN, batch: Batch, k: int) -> plain.Share:
    """What the plain implementation has of the same batch in the direction into a domain."""
    noise = {name: numbers.split(list(batch.target_counts))[k] for name, numbers in batch.noise.items()}
    none = torch.zeros(batch.target_counts[k], STYLE_DIM)

    def kept(name: str) -> list[Tensor] | None:
        return [noise[key] >= 0.5 for key in sorted(noise) if key.startswith("dropout") and key.endswith(name)] or None

    styled = k in translator.styled

    assert batch.has_pair is not None
    return plain.Share(
        x=batch.source[1 - k],
        truth=batch.paired[k],
        others=batch.reference[k] if batch.reference else batch.paired[k][:0],
        eps=noise.get("encoded", none),
        z=noise.get("drawn", none),
        kept=kept("_encoded") if styled else kept("_none"),
        kept2=kept("_drawn"),
        known=batch.has_pair.split(list(batch.target_counts))[k],
    )


def variant(name: str) -> ManyToOne:
    return SYSTEM.variants[name]
