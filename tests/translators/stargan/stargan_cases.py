"""What the tests of StarGAN share: small nets in both implementations, random images."""

from __future__ import annotations

import plain_stargan as plain
import pytest
import torch
from gan_steps import Steps
from torch import Tensor, nn

from m2o_fast.batch import Batch
from m2o_fast.m2o import Domain
from m2o_fast.translators.stargan import SYSTEM
from m2o_fast.translators.stargan.published import from_official, generator_prefixes
from m2o_fast.translators.stargan.settings import Size, StarGANSettings, Weights
from m2o_fast.translators.stargan.translator import StarGANv1

WIDTH, BLOCKS, SIDE, LAYERS, STYLE_DIM = 3, 2, 32, 3, 2
MODEL = {
    "width": WIDTH,
    "blocks": BLOCKS,
    "discriminator_width": WIDTH,
    "discriminator_layers": LAYERS,
    "style_dim": STYLE_DIM,
}

OPTIM = {"lr": 1e-3, "decay_from": 1, "decay_steps": 4}
ALIKE = [Domain(name) for name in "abc"]
MIXED = [Domain("gray", 1, multimodal=False), Domain("color"), Domain("wide", 4)]
WAYS = [(0, 1), (2, 0), (1, 1), (0, 2), (2, 1)]
MIXED_WAYS = [*WAYS, (1, 0), (0, 0)]


def published_nets(
    classes: int = 3, channels: int = 3, mask: int = 0, side: int = SIDE
) -> tuple[plain.Generator, plain.Discriminator]:
    """The nets of StarGAN, small, with weights and biases that matter."""
    nets = (
        plain.Generator(channels, classes + mask, WIDTH, BLOCKS),
        plain.Discriminator(channels, classes, side, WIDTH, LAYERS),
    )
    return tuple(net.apply(_matter) for net in nets)  # type: ignore[return-value]


def _matter(layer: nn.Module) -> None:
    for parameter in layer.parameters(recurse=False):
        nn.init.normal_(parameter, std=0.3)


def weights(nets: tuple[nn.Module, nn.Module]) -> dict[str, dict[str, Tensor]]:
    return {name: net.state_dict() for name, net in zip("GD", nets, strict=True)}


def size(side: int = SIDE) -> Size:
    return Size(**StarGANSettings.model_validate({"model": MODEL}).sizes(side))


def translator_of(
    nets: tuple[nn.Module, nn.Module],
    losses: dict[str, object] | None = None,
    every: int = 5,
    sets: list[list[str]] | None = None,
) -> StarGANv1:
    """Plain, with the weights of published nets."""
    read = from_official(weights(nets), sets)
    given = Weights.model_validate(losses or {})
    again = StarGANv1(read.domains, read.rules, read.size, given, generator_every=every, label_sets=read.label_sets)
    again.load_state_dict(read.state_dict())
    return again


def many_nets(domains: list[Domain], sets: list[int] | None = None) -> plain.ManyNets:
    nets = plain.ManyNets([d.channels for d in domains], [d.multimodal for d in domains], SIDE, WIDTH, LAYERS, sets)
    return nets.apply(_matter)


def many_translator(
    nets: plain.ManyNets, domains: list[Domain], losses: dict[str, object], every: int, supervised: float
) -> StarGANv1:
    """By the many-to-one rules, with the weights of plain nets."""
    rules = SYSTEM.variants["hms" if supervised else "hmu"]
    rules = type(rules)(**{**vars(rules), "supervised_weight": supervised})
    given = Weights.model_validate(losses)
    translator = StarGANv1(domains, rules, size(), given, generator_every=every, label_sets=nets.sets)
    translator.load_state_dict(of_many(nets, list(translator.state_dict())))
    return translator


def of_many(nets: plain.ManyNets, names: list[str]) -> dict[str, Tensor]:
    """The weights of plain nets by our names."""
    trunk = {ours: f"trunk.{theirs}" for ours, theirs in generator_prefixes(BLOCKS).items()}
    trunk |= {"stems.": "stems.", "heads.": "heads."}
    judge = {"stems.": "judges.", "score.": "judge.conv1.", "classes.": "judge.conv2."}
    judge |= {f"convs.{k}.": f"judge.main.{2 * k + 2}." for k in range(LAYERS - 1)}
    kinds = {"generator": trunk, "discriminator": judge, "style_encoders": {"": "encoders."}}
    for kind in (trunk, judge):
        kind.pop("stems.0.", None), kind.pop("heads.0.", None)
    found, given = {}, nets.state_dict()
    for name in names:
        net, _, key = name.partition(".")
        ours, theirs = next(pair for pair in kinds[net].items() if key.startswith(pair[0]))
        found[name] = given[theirs + key[len(ours) :]]
    return found


def random_batch(domains: list[Domain], ways: list[tuple[int, int]], *, paired: bool = False) -> Batch:
    """A sample for each (source, target), with a reference; ``paired``: every second one has a true translation."""
    rows = sorted(range(len(ways)), key=lambda row: ways[row][0])
    order = sorted(range(len(ways)), key=lambda row: ways[rows[row]][1])
    counts = [[sum(way[end] == k for way in ways) for k in range(len(domains))] for end in range(2)]

    def images(of: list[int]) -> tuple[Tensor, ...]:
        return tuple(torch.rand(n, d.channels, SIDE, SIDE) * 2 - 1 for n, d in zip(of, domains, strict=True))

    noise = {"between": torch.rand(len(ways), 1)}
    noise |= {name: torch.randn(len(ways), STYLE_DIM) for name in ("latent", "latent2")}
    return Batch(
        source=images(counts[0]),
        to_target=torch.tensor(order),
        target_counts=tuple(counts[1]),
        reference=images(counts[1]),
        reference2=(),
        paired=images(counts[1]) if paired else (),
        has_pair=torch.arange(len(ways)) % 2 == 0 if paired else None,
        noise=noise,
    )


def plain_batch(batch: Batch, first: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What an iteration of the published nets takes of a batch; ``first``: its data set's first domain."""
    own, wanted = classes(batch.source_counts) - first, classes(batch.target_counts) - first
    return torch.cat(batch.source)[batch.to_target], own[batch.to_target], wanted, batch.noise["between"]


def classes(counts: tuple[int, ...]) -> Tensor:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def samples(batch: Batch, domains: list[Domain]) -> list[plain.Sample]:
    """The same, image by image."""
    sources = [image[None] for part in batch.source for image in part]
    others = [image[None] for part in batch.reference for image in part]
    truths = [image[None] for part in batch.paired for image in part] or [None] * batch.size
    own, wanted = classes(batch.source_counts).tolist(), classes(batch.target_counts).tolist()
    found = []
    for row, place in enumerate(batch.to_target.tolist()):
        numbers = [batch.noise[name][row : row + 1] for name in ("between", "latent", "latent2")]
        known = batch.has_pair is not None and bool(batch.has_pair[row]) and not domains[wanted[row]].multimodal
        truth = truths[row] if known else None
        found.append(plain.Sample(sources[place], own[place], wanted[row], others[row], *numbers, truth))
    return found


def steps_for(translator: StarGANv1, **optim: object) -> Steps:
    return Steps(translator, StarGANSettings.model_validate({"optim": optim}).optim, by_phase=True)


def same(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-9, abs=1e-11), name


def same_tensors(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-8, atol=1e-10, msg=name)
