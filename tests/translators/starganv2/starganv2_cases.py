"""What the tests of StarGAN v2 share: small sizes, random samples, weights copied between the implementations."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from plain_many_to_one import Sample
from plain_networks import Discriminator, Generator, MappingNetwork, Nets, StyleEncoder
from plain_starganv2 import Hyper
from torch import Tensor

from m2o_fast.batch import Batch
from m2o_fast.engine.step import Stepper
from m2o_fast.labels import draw_labels
from m2o_fast.m2o import Domain
from m2o_fast.translators.starganv2.settings import Optim, Size, Weights
from m2o_fast.translators.starganv2.translator import StarGANv2

SIZE = Size(image_size=32, base_width=4, max_width=8, style_dim=8, latent_dim=6, hidden_dim=16)
COLOR, GRAY = Domain("color", 3), Domain("gray", 1, multimodal=False)
EDGES = Domain("edges", 2, multimodal=False)
LABELS, SKETCHES = Domain("labels", 5, multimodal=False, kind="onehot"), Domain("sketches", 4, kind="onehot")
# Weights of the losses that differ from each other, so that no two can be mixed up. The large eps of Adam keeps a
# gradient that is 0 but for rounding (a bias before an instance norm) from becoming a step of full length.
HYPER = Hyper(
    lr=1e-3, mapping_lr=3e-4, eps=1e-6, lambda_reg=0.7, lambda_sty=0.9, lambda_ds=1.3, lambda_cyc=1.1, lambda_sup=0.8,
    ds_iter=5, ema_decay=0.9,
)  # fmt: skip
WEIGHTS = Weights(r1=0.7, style=0.9, cycle=1.1, diversity=1.3, diversity_steps=5)
LOSSES = {
    "discriminator_latent": ("d_latent", {"real": "real", "fake": "fake", "r1": "r1"}),
    "discriminator_reference": ("d_reference", {"real": "real", "fake": "fake", "r1": "r1"}),
    "generator_latent": (
        "g_latent",
        {"adversarial": "adv", "style": "sty", "diversity": "ds", "cycle": "cyc", "supervised": "sup"},
    ),
    "generator_reference": (
        "g_reference",
        {"adversarial": "adv", "style": "sty", "diversity": "ds", "cycle": "cyc", "supervised": "sup"},
    ),
}


#: where adapters are, the shared layers are the second, or have a name
ADAPTED = (
    (r"stem_in\.0\.", "stem_in.1."),
    (r"adapt_in\.", "stem_in.0."),
    (r"stem_out\.0\.0\.", "stem_out.shared.norm."),
    (r"stem_out\.0\.2\.", "stem_out.shared.conv."),
    (r"adapt_out\.", "stem_out.adapter."),
)


def random_samples(domains: list[Domain], count: int, paired: bool = False) -> list[Sample]:
    """Random samples in random order of domains; every second uni-modal target of a multi-modal source has a pair."""

    def image(k: int) -> Tensor:
        if domains[k].kind == "onehot":
            labels = torch.randint(domains[k].classes, (1, 32, 32))
            return draw_labels(labels, "onehot", domains[k].classes)[0].to(torch.get_default_dtype()) * 2 - 1
        return torch.rand(domains[k].channels, 32, 32) * 2 - 1

    samples = []
    for i in range(count):
        a, b = (int(k) for k in torch.randint(len(domains), (2,)))
        known = paired and domains[a].multimodal and not domains[b].multimodal and i % 2 == 0
        z = torch.randn(2, SIZE.latent_dim)
        samples.append(Sample(image(a), a, b, z[0], z[1], image(b), image(b), image(b) if known else None))
    return samples


def as_batch(samples: list[Sample], domains: list[Domain], pairs: bool) -> Batch:
    by_source = sorted(range(len(samples)), key=lambda i: samples[i].source)
    by_target = sorted(range(len(samples)), key=lambda i: samples[i].target)

    def stack(order: list[int], key: str, of: str) -> tuple[Tensor, ...]:
        return tuple(
            torch.stack(found)
            if (found := [_image(samples[i], key) for i in order if getattr(samples[i], of) == k])
            else torch.empty(0, domain.channels, 32, 32)
            for k, domain in enumerate(domains)
        )

    return Batch(
        source=stack(by_source, "x", "source"),
        to_target=torch.tensor([by_source.index(i) for i in by_target]),
        target_counts=tuple(sum(s.target == k for s in samples) for k in range(len(domains))),
        reference=stack(by_target, "ref", "target"),
        reference2=stack(by_target, "ref2", "target"),
        paired=stack(by_target, "paired", "target") if pairs else (),
        has_pair=torch.tensor([samples[i].paired is not None for i in by_target]) if pairs else None,
        noise={
            "latent": torch.stack([samples[i].z for i in by_target]),
            "latent2": torch.stack([samples[i].z2 for i in by_target]),
        },
    )


def _image(sample: Sample, key: str) -> Tensor:
    image = getattr(sample, key)
    return torch.zeros_like(sample.ref) if image is None else image


def stepper_for(translator: StarGANv2) -> tuple[Stepper, StarGANv2]:
    translator.requires_grad_(True)
    averaged = copy.deepcopy(translator).requires_grad_(False)
    config = Optim(lr=HYPER.lr, mapping_lr=HYPER.mapping_lr, betas=HYPER.betas, ema=HYPER.ema_decay)
    stepper = Stepper(translator, averaged, config)
    for optimizer in stepper.optimizers.values():
        optimizer.param_groups[0]["eps"] = HYPER.eps
    return stepper, averaged


def our_name(net: str, key: str, blocks: int = 3, *, adapted: bool = False) -> str:
    """Our name of a parameter of the plain many-to-one nets, which have adapters or not."""
    net = {"mapping": "mapping_network"}.get(net, net)
    for pattern, ours in (
        (r"encode\.", "encoder."),
        (r"decode\.", "decoder."),
        (r"stem\.", "stem_in."),
        *(ADAPTED if adapted else ()),
        (r"unshared\.", "heads."),
        (rf"trunk\.{blocks + 1}\.", "conv4x4."),
        (r"stem_out\.(\d+)\.0\.", r"stem_out.\1.norm."),
        (r"stem_out\.(\d+)\.2\.", r"stem_out.\1.conv."),
        (r"(.*)\.affine([12])\.", r"\1.conv\2.affine."),
    ):
        key = re.sub(f"^{pattern}", ours, key)
    return f"{net}.{key}"


def copy_weights(nets: Nets, translator: StarGANv2, *, adapted: bool = False) -> None:
    weights = {
        our_name(net, k, adapted=adapted): v
        for net, module in vars(nets).items()
        for k, v in module.state_dict().items()
    }
    translator.load_state_dict(weights)


def published_nets(domains: int = 2) -> Nets:
    return Nets(
        Generator(32, SIZE.style_dim, SIZE.max_width, base_width=SIZE.base_width),
        MappingNetwork(SIZE.latent_dim, SIZE.style_dim, domains, SIZE.hidden_dim),
        StyleEncoder(32, SIZE.style_dim, domains, SIZE.max_width, base_width=SIZE.base_width),
        Discriminator(32, domains, SIZE.max_width, base_width=SIZE.base_width),
    )


def published_weights(nets: Nets) -> dict[str, dict[str, Tensor]]:
    names = {"mapping": "mapping_network"}
    return {names.get(name, name): copy.deepcopy(net.state_dict()) for name, net in vars(nets).items()}


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> bool:
    return bool((a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max())))


def assert_same_losses(ours: dict[str, Tensor], theirs: dict[str, dict[str, float]]) -> None:
    for name, value in ours.items():
        phase, part = name.split("/")
        plain_phase, parts = LOSSES[phase]
        assert value.item() == pytest.approx(theirs[plain_phase][parts[part]], rel=1e-10, abs=1e-12), name
