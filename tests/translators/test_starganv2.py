"""StarGAN v2, HMU and HMS against the independent plain implementations, in float64."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from plain_many_to_one import NaiveTrainer, PlainDomain, Sample, Setup, build_nets
from plain_starganv2 import Discriminator, Generator, Hyper, MappingNetwork, Nets, PlainTrainer, StyleEncoder
from torch import Tensor

from m2o_fast.batch import Batch
from m2o_fast.engine.schema import OptimConfig
from m2o_fast.engine.step import Stepper
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.translators.official import from_official
from m2o_fast.translators.starganv2 import PHASES, StarGANv2, StarGANv2Loss
from m2o_fast.translators.starganv2_nets import StarGANv2Size

SIZE = StarGANv2Size(image_size=32, base_width=4, max_width=8, style_dim=8, latent_dim=6, hidden_dim=16)
COLOR, GRAY = Domain("color", 3), Domain("gray", 1, multimodal=False)
EDGES = Domain("edges", 2, multimodal=False)
# Weights of the losses that differ from each other, so that no two can be mixed up. The large eps of Adam keeps a
# gradient that is 0 but for rounding (a bias before an instance norm) from becoming a step of full length.
HYPER = Hyper(
    lr=1e-3, mapping_lr=3e-4, eps=1e-6, lambda_reg=0.7, lambda_sty=0.9, lambda_ds=1.3, lambda_cyc=1.1, lambda_sup=0.8,
    ds_iter=5, ema_decay=0.9,
)  # fmt: skip
WEIGHTS = StarGANv2Loss(r1=0.7, style=0.9, cycle=1.1, diversity=1.3, diversity_steps=5)
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


@pytest.fixture(autouse=True)
def _double() -> None:
    torch.manual_seed(5)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# --- helpers ---


def random_samples(domains: list[Domain], count: int, paired: bool = False) -> list[Sample]:
    """Random samples in random order of domains; every second uni-modal target of a multi-modal source has a pair."""

    def image(k: int) -> Tensor:
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
    config = OptimConfig(lr=HYPER.lr, mapping_lr=HYPER.mapping_lr, betas=HYPER.betas, ema=HYPER.ema_decay)
    stepper = Stepper(translator, averaged, config)
    for optimizer in stepper.optimizers.values():
        optimizer.param_groups[0]["eps"] = HYPER.eps
    return stepper, averaged


def our_name(net: str, key: str, blocks: int = 3) -> str:
    """Our name of a parameter of the plain many-to-one nets."""
    net = {"mapping": "mapping_network"}.get(net, net)
    for pattern, ours in (
        (r"encode\.", "encoder."),
        (r"decode\.", "decoder."),
        (r"stem\.", "stem_in."),
        (r"unshared\.", "heads."),
        (rf"trunk\.{blocks + 1}\.", "conv4x4."),
        (r"stem_out\.(\d+)\.0\.", r"stem_out.\1.norm."),
        (r"stem_out\.(\d+)\.2\.", r"stem_out.\1.conv."),
        (r"(.*)\.affine([12])\.", r"\1.conv\2.affine."),
    ):
        key = re.sub(f"^{pattern}", ours, key)
    return f"{net}.{key}"


def copy_weights(nets: Nets, translator: StarGANv2) -> None:
    weights = {our_name(net, k): v for net, module in vars(nets).items() for k, v in module.state_dict().items()}
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


# --- the published networks ---


def test_functions_are_the_published_networks() -> None:
    nets = published_nets(domains=3)
    translator = from_official(published_weights(nets), domains=["cat", "dog", "wild"])
    x, z = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randn(4, SIZE.latent_dim)
    for k, name in enumerate(("cat", "dog", "wild")):
        labels = torch.full((4,), k)
        style = translator.map_style(z, name)
        assert close(style, nets.mapping(z, labels))
        assert close(translator.encode_style(x, name), nets.style_encoder(x, labels))
        assert close(translator.discriminate(x, k), nets.discriminator(x, labels))
        assert close(translator.translate(x, 0, name, style=style), nets.generator(x, style))
        reference = torch.rand(4, 3, 32, 32)
        expected = nets.generator(x, nets.style_encoder(reference, labels))
        assert close(translator.translate(x, 0, name, reference=reference), expected)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_sizes_are_read_off_the_weights(prefix: str) -> None:
    nets = published_nets(domains=3)
    weights = {
        net: {prefix + key: tensor for key, tensor in state.items()} for net, state in published_weights(nets).items()
    }
    del weights["discriminator"]
    translator = from_official(weights)
    assert translator.size == SIZE
    assert [domain.name for domain in translator.domains] == ["domain0", "domain1", "domain2"]
    with pytest.raises(ValueError, match="without a discriminator"):
        translator.discriminate(torch.zeros(1, 3, 32, 32), 0)


def test_misfitting_published_weights_are_listed() -> None:
    weights = published_weights(published_nets())
    weights["generator"]["extra.weight"] = torch.zeros(1)
    del weights["style_encoder"]["unshared.0.bias"]
    del weights["discriminator"]["main.5.weight"]
    weights["generator"]["encode.0.conv1.weight"] = torch.zeros(5, 4, 3, 3)
    with pytest.raises(ValueError) as error:
        from_official(weights)
    for part in (
        "superfluous generator.extra.weight",
        "missing style_encoder.unshared.0.bias",
        "missing discriminator.main.5.weight",
        "generator.encode.0.conv1.weight is [5, 4, 3, 3] instead of [4, 4, 3, 3]",
    ):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="missing nets: mapping_network"):
        from_official({"generator": weights["generator"], "style_encoder": weights["style_encoder"]})
    with pytest.raises(ValueError, match="w_hpf > 0"):
        from_official({**weights, "generator": {**weights["generator"], "hpf.filter": torch.zeros(3, 3)}})
    with pytest.raises(ValueError, match="2 domains, but 3 names"):
        from_official(published_weights(published_nets()), domains=["a", "b", "c"])


@pytest.mark.parametrize(
    ("image_size", "max_width", "expected"),
    [
        (256, 512, (33_892_995, 2_438_272, 20_916_928, 20_852_290)),
        (128, 512, (33_632_003, 2_438_272, 20_799_744, 20_735_106)),
        (64, 256, (9_720_067, 2_438_272, 5_809_536, 5_777_154)),
        (32, 128, (7_381_379, 2_438_272, 3_898_752, 3_882_498)),
    ],
)
def test_parameter_counts_of_the_published_nets(image_size: int, max_width: int, expected: tuple[int, ...]) -> None:
    size = StarGANv2Size(image_size, base_width=2**14 // image_size, max_width=max_width)
    with torch.device("meta"):
        translator = StarGANv2([Domain("a"), Domain("b")], ManyToOne.symmetric(), size)
    counts = [sum(p.numel() for p in net.parameters()) for net in translator.children()]
    assert tuple(counts) == expected


# --- training, step by step ---


def test_iteration_is_the_published_one() -> None:
    """Losses, weights and averages of three iterations; labels in any order, one domain absent from one batch."""
    nets = published_nets(domains=3)
    translator = from_official(published_weights(nets))
    translator.weights = WEIGHTS
    plain, (stepper, averaged) = PlainTrainer(nets, HYPER), stepper_for(translator)
    domains = [Domain(name) for name in "abc"]
    for index in range(3):
        samples = random_samples(domains, 5)
        if index == 1:
            samples = [s for s in samples if 2 not in (s.source, s.target)] or random_samples(domains[:2], 3)
        theirs = plain.iteration(
            torch.stack([s.x for s in samples]),
            torch.tensor([s.source for s in samples]),
            torch.tensor([s.target for s in samples]),
            torch.stack([s.z for s in samples]),
            torch.stack([s.z2 for s in samples]),
            torch.stack([s.ref for s in samples]),
            torch.stack([s.ref2 for s in samples]),
        )
        assert_same_losses(stepper(as_batch(samples, domains, pairs=False), index), theirs)
    expected = from_official(published_weights(nets))
    for name, parameter in translator.named_parameters():
        assert close(parameter, expected.get_parameter(name), 1e-10), name
    average = Nets(**plain.ema, discriminator=nets.discriminator)
    expected = from_official(published_weights(average))
    for group in averaged.averaged_groups():
        for name, parameter in getattr(averaged, group).named_parameters():
            assert close(parameter, getattr(expected, group).get_parameter(name), 1e-10), name


@pytest.mark.parametrize("style_op", ["adain", "demod"])
@pytest.mark.parametrize("variant", ["hmu", "hms"])
@pytest.mark.parametrize("domains", [[COLOR, GRAY], [GRAY, COLOR, EDGES]], ids=["color-gray", "two-unimodal"])
def test_iteration_is_the_naive_many_to_one_one(domains: list[Domain], variant: str, style_op: str) -> None:
    """Losses and weights of two iterations against one sample at a time with explicit modulated weights."""
    size = StarGANv2Size(32, 4, 8, 8, 6, 16, style_op)
    plain_domains = tuple(PlainDomain(domain.channels, domain.multimodal) for domain in domains)
    setup = Setup(plain_domains, 32, 8, 6, 16, base_width=4, max_width=8, style_op=style_op)
    nets = build_nets(setup)
    translator = StarGANv2(domains, ManyToOne(supervised_weight=0.8 if variant == "hms" else 0), size, WEIGHTS)
    copy_weights(nets, translator)
    naive, (stepper, _) = NaiveTrainer(setup, nets, HYPER), stepper_for(translator)
    for index in range(2):
        samples = random_samples(domains, 6, paired=variant == "hms")
        theirs = naive.iteration(samples)
        assert_same_losses(stepper(as_batch(samples, domains, pairs=variant == "hms"), index), theirs)
    for net, module in vars(nets).items():
        for name, parameter in module.named_parameters():
            assert close(translator.get_parameter(our_name(net, name)), parameter, 1e-10), name


def test_phases_train_their_groups_only() -> None:
    """The published order; the last phase leaves mapping network and style encoder alone."""
    assert [(phase.name, phase.groups) for phase in PHASES] == [
        ("discriminator_latent", ("discriminator",)),
        ("discriminator_reference", ("discriminator",)),
        ("generator_latent", ("generator", "mapping_network", "style_encoder")),
        ("generator_reference", ("generator",)),
    ]
    translator = StarGANv2([COLOR, GRAY], ManyToOne(), SIZE)
    stepper, _ = stepper_for(translator)
    stepped: list[str] = []
    for name, optimizer in stepper.optimizers.items():
        optimizer.register_step_post_hook(lambda *_, name=name: stepped.append(name))
    stepper(as_batch(random_samples([COLOR, GRAY], 6), [COLOR, GRAY], pairs=False), 0)
    assert stepped == ["discriminator", "discriminator", "generator", "mapping_network", "style_encoder", "generator"]


# --- many-to-one rules ---


def test_unimodal_output_ignores_every_style() -> None:
    translator = StarGANv2([COLOR, GRAY], ManyToOne(), SIZE).eval()
    x = torch.rand(3, 3, 32, 32)
    outputs = [
        translator.translate(x, "color", "gray"),
        translator.translate(x, "color", "gray", style=torch.randn(3, 8)),
        translator.translate(x, "color", "gray", reference=torch.rand(3, 1, 32, 32)),
    ]
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert torch.equal(translator.sample_style(4, "gray"), torch.zeros(4, 8))
    assert torch.equal(translator.encode_style(torch.rand(2, 1, 32, 32), "gray"), torch.zeros(2, 8))


def test_unimodal_domains_own_no_style_parameters() -> None:
    translator = StarGANv2([COLOR, GRAY], ManyToOne(), SIZE)
    assert list(translator.mapping_network.heads) == ["0"]
    assert list(translator.style_encoder.heads) == list(translator.style_encoder.stem_in) == ["0"]
    assert translator.generator.stem_in["1"].weight.shape[1] == 1
    assert translator.generator.stem_out["1"].conv.weight.shape[0] == 1


def test_zero_style_makes_adain_a_plain_affine_norm() -> None:
    block = StarGANv2([COLOR, GRAY], ManyToOne(), SIZE).generator.decoder[0].norm1
    torch.nn.init.normal_(block.fc.bias)
    x = torch.randn(2, 8, 16, 16)
    gamma, beta = block.fc.bias.chunk(2)
    expected = torch.nn.functional.instance_norm(x, weight=1 + gamma, bias=beta)
    assert close(block(x, torch.zeros(2, 8)), torch.nn.functional.leaky_relu(expected, 0.2))


def test_batch_of_unimodal_targets_moves_no_style_net() -> None:
    """No gradient reaches mapping network and style encoder, so they are not stepped at all."""
    domains = [COLOR, GRAY]
    translator = StarGANv2(domains, ManyToOne(supervised_weight=1.0), SIZE)
    stepper, _ = stepper_for(translator)
    before = copy.deepcopy(translator.state_dict())
    samples = [s for s in random_samples(domains, 40) if (s.source, s.target) == (1, 1)]
    assert samples
    stepper(as_batch(samples, domains, pairs=True), 0)
    changed = {name.split(".")[0] for name, tensor in translator.state_dict().items() if not tensor.equal(before[name])}
    assert changed == {"generator", "discriminator"}
    assert not stepper.optimizers["mapping_network"].state


def test_style_encoder_learns_from_the_cycle_of_a_multimodal_source() -> None:
    """With uni-modal targets only, the cycle back to colour still reaches the style encoder, and never the mapping."""
    domains = [COLOR, GRAY]
    translator = StarGANv2(domains, ManyToOne(), SIZE)
    stepper, _ = stepper_for(translator)
    samples = [s for s in random_samples(domains, 40) if (s.source, s.target) == (0, 1)]
    stepper(as_batch(samples, domains, pairs=False), 0)
    assert stepper.optimizers["style_encoder"].state and not stepper.optimizers["mapping_network"].state


def test_masked_losses_divide_by_the_full_batch() -> None:
    """Adding samples of uni-modal targets scales style and diversity losses by the share of the others."""
    domains = [COLOR, GRAY]
    translator = StarGANv2(domains, ManyToOne(), SIZE)
    samples = random_samples(domains, 60)
    multi, uni = ([s for s in samples if s.target == k][:n] for k, n in ((0, 3), (1, 5)))

    def losses(chosen: list[Sample]) -> dict[str, Tensor]:
        stepper, _ = stepper_for(copy.deepcopy(translator))
        return stepper(as_batch(chosen, domains, pairs=False), 0)

    # The first generator phase: the discriminator, which has moved by then, touches neither of the two losses.
    alone, mixed = losses(multi), losses(multi + uni)
    for part in ("style", "diversity"):
        name = f"generator_latent/{part}"
        assert mixed[name].item() == pytest.approx(alone[name].item() * 3 / 8, rel=1e-12)


def test_symmetric_rules_take_the_widest_channel_count() -> None:
    translator = StarGANv2([COLOR, GRAY], ManyToOne.symmetric(), SIZE)
    assert [domain.channels for domain in translator.domains] == [3, 3]
    with pytest.raises(ValueError, match="equal channel counts"):
        StarGANv2([COLOR, EDGES], ManyToOne.symmetric(), SIZE)


def test_description_builds_the_same_nets() -> None:
    translator = StarGANv2([COLOR, GRAY], ManyToOne(supervised_weight=1.0), SIZE, WEIGHTS, discriminator=False)
    again = StarGANv2.from_description(translator.describe())
    assert again.describe() == translator.describe()
    shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (again, translator)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.translate(torch.zeros(1, 1, 32, 32), "color", "gray"), r"3, 32, 32\], got \[1, 1, 32, 32\]"),
        (lambda t: t.translate(torch.zeros(1, 3, 32, 32), "colour", "gray"), "unknown domain 'colour'"),
        (lambda t: t.translate(torch.zeros(1, 1, 32, 32), "gray", "color"), "either style= or reference="),
        (
            lambda t: t.translate(torch.zeros(2, 1, 32, 32), "gray", "color", style=torch.zeros(3, 8)),
            r"style must be \[2 or 1, 8\], got \[3, 8\]",
        ),
        (lambda t: t.map_style(torch.zeros(2, 5), "color"), r"z must be \[N, 6\], got \[2, 5\]"),
        (lambda t: t.encode_style(torch.zeros(0, 3, 32, 32), "color"), r"got \[0, 3, 32, 32\]"),
        (lambda t: t.discriminate(torch.zeros(1, 3, 16, 16), "color"), r"got \[1, 3, 16, 16\]"),
        (lambda t: t.domain(7), "domain index 7 is out of range"),
    ],
)
def test_wrong_input_is_worded(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(StarGANv2([COLOR, GRAY], ManyToOne(), SIZE))


@pytest.mark.parametrize("size", [{"image_size": 48}, {"image_size": 16}, {"style_op": "film"}, {"max_width": 0}])
def test_impossible_sizes_are_refused(size: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(size))):
        StarGANv2Size(**size)
