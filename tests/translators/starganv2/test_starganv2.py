"""StarGAN v2, HMU and HMS against the independent plain implementations, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from plain_many_to_one import NaiveTrainer, PlainDomain, Sample, Setup, build_nets
from plain_networks import Nets
from plain_starganv2 import PlainTrainer
from starganv2_cases import (
    COLOR,
    EDGES,
    GRAY,
    HYPER,
    LABELS,
    SIZE,
    SKETCHES,
    WEIGHTS,
    as_batch,
    assert_same_losses,
    close,
    copy_weights,
    our_name,
    published_nets,
    published_weights,
    random_samples,
    stepper_for,
)
from torch import Tensor

from m2o_fast.m2o import VARIANTS, Domain, ManyToOne
from m2o_fast.translators.base import Iteration, Translator
from m2o_fast.translators.starganv2.published import from_official
from m2o_fast.translators.starganv2.settings import Model, Size, StarGANv2Settings
from m2o_fast.translators.starganv2.translator import PHASES, StarGANv2

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
        assert_same_losses(stepper([as_batch(samples, domains, pairs=False)], index).losses, theirs)
    expected = from_official(published_weights(nets))
    for name, parameter in translator.named_parameters():
        assert close(parameter, expected.get_parameter(name), 1e-10), name
    average = Nets(**plain.ema, discriminator=nets.discriminator)
    expected = from_official(published_weights(average))
    for group in averaged.averaged_groups():
        for name, parameter in getattr(averaged, group).named_parameters():
            assert close(parameter, getattr(expected, group).get_parameter(name), 1e-10), name


@pytest.mark.parametrize(("style_op", "output"), [("adain", "linear"), ("demod", "linear"), ("demod", "tanh")])
@pytest.mark.parametrize("variant", ["hmu", "hms"])
@pytest.mark.parametrize(
    "domains",
    [[COLOR, GRAY], [GRAY, COLOR, EDGES], [COLOR, LABELS], [SKETCHES, LABELS, GRAY]],
    ids=["color-gray", "two-unimodal", "color-onehot", "onehot-twice"],
)
def test_iteration_is_the_naive_many_to_one_one(
    domains: list[Domain], variant: str, style_op: str, output: str
) -> None:
    """Losses and weights of two iterations against one sample at a time with explicit modulated weights."""
    widths = {"base_width": 4, "max_width": 8, "style_dim": 8, "latent_dim": 6, "hidden_dim": 16}
    size = Size(image_size=32, **widths, style_op=style_op, output=output)
    plain_domains = tuple(
        PlainDomain(domain.channels, domain.multimodal, one_hot=domain.kind == "onehot") for domain in domains
    )
    kinds = {"style_op": style_op, "bounded": output == "tanh"}
    setup = Setup(plain_domains, 32, 8, 6, 16, base_width=4, max_width=8, **kinds)
    nets = build_nets(setup)
    translator = StarGANv2(domains, ManyToOne(supervised_weight=0.8 if variant == "hms" else 0), size, WEIGHTS)
    copy_weights(nets, translator)
    naive, (stepper, _) = NaiveTrainer(setup, nets, HYPER), stepper_for(translator)
    for index in range(2):
        samples = random_samples(domains, 6, paired=variant == "hms")
        theirs = naive.iteration(samples)
        assert_same_losses(stepper([as_batch(samples, domains, pairs=variant == "hms")], index).losses, theirs)
    for net, module in vars(nets).items():
        for name, parameter in module.named_parameters():
            assert close(translator.get_parameter(our_name(net, name)), parameter, 1e-10), name


@pytest.mark.parametrize(
    ("rules", "model", "decoder"),
    [
        (ManyToOne.symmetric(), Model(), ("adain", "linear")),
        (ManyToOne(), Model(), ("demod", "tanh")),
        (ManyToOne(), Model(output="linear"), ("demod", "linear")),
        # What runs hold that were begun when there was no other output: they name the decoder, not the output.
        (ManyToOne(), Model(style_op="adain"), ("adain", "linear")),
        (ManyToOne(), Model(style_op="demod"), ("demod", "linear")),
        (ManyToOne.symmetric(), Model(output="tanh"), ("adain", "tanh")),
    ],
)
def test_the_decoder_follows_the_variant_where_it_is_not_named(
    rules: ManyToOne, model: Model, decoder: tuple[str, str]
) -> None:
    description = StarGANv2Settings(model=model).description([COLOR, GRAY], rules, 32)
    assert (description["size"]["style_op"], description["size"]["output"]) == decoder


def test_images_of_multimodal_domains_are_in_range() -> None:
    """Only they are: a uni-modal image is compared with the true one, and logits have no range."""
    domains = [COLOR, GRAY, LABELS]
    translator = StarGANv2(domains, ManyToOne(), SIZE.model_copy(update={"output": "tanh"}))
    with torch.no_grad():
        for layer in translator.generator.stem_out.values():
            layer.conv.weight.mul_(100)
        outputs = translator.generator.decode(torch.randn(3, 8, 16, 16), torch.randn(3, 8), [1, 1, 1])
    assert [bool((output.abs() <= 1).all()) for output in outputs] == [True, False, False]


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
    stepper([as_batch(random_samples([COLOR, GRAY], 6), [COLOR, GRAY], pairs=False)], 0)
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
    stepper([as_batch(samples, domains, pairs=True)], 0)
    changed = {name.split(".")[0] for name, tensor in translator.state_dict().items() if not tensor.equal(before[name])}
    assert changed == {"generator", "discriminator"}
    assert not stepper.optimizers["mapping_network"].state


def test_losses_of_no_rows_lie_where_the_others_do() -> None:
    """Else a GPU's log could not stack them. Another default device stands in for the CPU beside a GPU."""
    domains = [COLOR, GRAY]
    samples = [sample for sample in random_samples(domains, 20) if sample.target == 1][:2]
    translator, batch = StarGANv2(domains, ManyToOne(), SIZE).double(), as_batch(samples, domains, pairs=False)
    for phase in ("generator_latent", "generator_reference"):
        with torch.device("meta"):
            total, parts = translator.loss(phase, batch, Iteration(0))
        assert {value.device.type for value in (total, *parts.values())} == {"cpu"}, phase
        assert parts["style"] == parts["diversity"] == 0


def test_style_encoder_learns_from_the_cycle_of_a_multimodal_source() -> None:
    """With uni-modal targets only, the cycle back to colour still reaches the style encoder, and never the mapping."""
    domains = [COLOR, GRAY]
    translator = StarGANv2(domains, ManyToOne(), SIZE)
    stepper, _ = stepper_for(translator)
    samples = [s for s in random_samples(domains, 40) if (s.source, s.target) == (0, 1)]
    stepper([as_batch(samples, domains, pairs=False)], 0)
    assert stepper.optimizers["style_encoder"].state and not stepper.optimizers["mapping_network"].state


def test_masked_losses_divide_by_the_full_batch() -> None:
    """Adding samples of uni-modal targets scales style and diversity losses by the share of the others."""
    domains = [COLOR, GRAY]
    translator = StarGANv2(domains, ManyToOne(), SIZE)
    samples = random_samples(domains, 60)
    multi, uni = ([s for s in samples if s.target == k][:n] for k, n in ((0, 3), (1, 5)))

    def losses(chosen: list[Sample]) -> dict[str, Tensor]:
        stepper, _ = stepper_for(copy.deepcopy(translator))
        return stepper([as_batch(chosen, domains, pairs=False)], 0).losses

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
        Size(**size)


@pytest.mark.parametrize("variant", ["plain", "hmu"])
def test_many_translations_are_those_made_one_by_one(variant: str) -> None:
    """To the bit, for targets with and without style, for styles of each image and for those of all."""
    torch.manual_seed(0)
    translator = StarGANv2([COLOR, GRAY], VARIANTS[variant], SIZE).eval()
    for source, target in ((1, 0), (0, 1)):
        x = torch.rand(3, translator.domains[source].channels, 32, 32) * 2 - 1
        for styles in (torch.randn(3, 4, SIZE.style_dim), torch.randn(1, 2, SIZE.style_dim)):
            many = translator.translate_many(x, source, target, styles)
            one_by_one = [translator.translate(x, source, target, style=style) for style in styles.unbind(1)]
            assert torch.equal(many, torch.stack(one_by_one, dim=1))
            assert torch.equal(many, Translator.translate_many(translator, x, source, target, styles))
    for wrong in (torch.randn(3, SIZE.style_dim), torch.randn(3, 0, SIZE.style_dim), torch.randn(2, 1, SIZE.style_dim)):
        with pytest.raises(ValueError, match="style"):
            translator.translate_many(torch.zeros(3, translator.domains[1].channels, 32, 32), 1, 0, wrong)
