"""The plain training against facts that can be worked out by hand, and the two plain implementations compared."""

import math
from dataclasses import replace

import plain_many_to_one as m2o
import plain_networks as networks
import plain_starganv2 as plain
import pytest
import torch
from plain_cases import (
    LATENT,
    MULTI,
    SIZE,
    STYLE,
    UNI,
    image,
    make_flat,
    plain_nets,
    sample_of,
    setup_of,
    state,
)
from plain_many_to_one import NaiveTrainer, PlainDomain, Sample
from torch import nn

# --- losses ---


class LinearDiscriminator(nn.Module):
    """Logit of domain k is the inner product of the image with ``weight[k]``."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x, labels):
        return networks.pick(torch.einsum("nchw,kchw->nk", x, self.weight), labels)


def test_discriminator_losses_of_a_linear_discriminator():
    nets = plain_nets()
    nets.discriminator = LinearDiscriminator(torch.randn(2, 3, SIZE, SIZE))
    x, y_org, y_trg = torch.rand(3, 3, SIZE, SIZE), torch.tensor([0, 1, 1]), torch.tensor([1, 1, 0])
    style = torch.randn(3, STYLE)
    losses = plain.discriminator_losses(nets, plain.Hyper(lambda_reg=7.0), x, y_org, y_trg, lambda: style)
    squares = nets.discriminator.weight.pow(2).flatten(1).sum(1)
    expected = 0.5 * (squares[0] + 2 * squares[1]) / 3
    torch.testing.assert_close(losses["r1"], expected)
    torch.testing.assert_close(losses["total"], losses["real"] + losses["fake"] + 7 * expected)
    losses["r1"].backward()
    torch.testing.assert_close(nets.discriminator.weight.grad[0], nets.discriminator.weight[0].detach() / 3)


def test_zero_logits_cost_ln2():
    nets = plain_nets()
    make_flat(nets.discriminator.main[-1])
    x, labels = torch.rand(2, 3, SIZE, SIZE), torch.tensor([0, 1])

    def style():
        return torch.zeros(2, STYLE)

    losses = plain.discriminator_losses(nets, plain.Hyper(), x, labels, labels, style)
    assert losses["real"].item() == losses["fake"].item() == pytest.approx(math.log(2))
    assert losses["r1"] == 0
    losses = plain.generator_losses(nets, plain.Hyper(), 2.0, x, labels, labels, style, style)
    assert losses["adv"].item() == pytest.approx(math.log(2))
    assert losses["ds"] == 0


def test_generator_losses_of_a_constant_generator():
    nets = plain_nets()
    make_flat(nets.discriminator.main[-1])
    for head in nets.style_encoder.unshared:
        make_flat(head)
    nn.init.zeros_(nets.generator.to_rgb[2].weight)
    nn.init.constant_(nets.generator.to_rgb[2].bias, 0.25)
    x, labels = torch.full((2, 3, SIZE, SIZE), -0.5), torch.tensor([0, 1])
    style = torch.tensor([[1.0] * STYLE, [-3.0] * STYLE])
    hyper = plain.Hyper(lambda_sty=3.0, lambda_cyc=5.0)
    losses = plain.generator_losses(nets, hyper, 2.0, x, labels, labels, lambda: style, lambda: -style)
    assert losses["sty"].item() == pytest.approx(2.0)
    assert losses["ds"] == 0
    assert losses["cyc"].item() == pytest.approx(0.75)
    assert losses["total"].item() == pytest.approx(math.log(2) + 3 * 2 + 5 * 0.75)


def test_the_second_image_and_its_style_get_no_gradient():
    nets = plain_nets()
    x, labels = torch.rand(2, 3, SIZE, SIZE), torch.tensor([0, 1])
    style, style2 = torch.randn(2, STYLE, requires_grad=True), torch.randn(2, STYLE, requires_grad=True)
    losses = plain.generator_losses(nets, plain.Hyper(), 1.0, x, labels, labels, lambda: style, lambda: style2)
    losses["total"].backward()
    assert style.grad is not None
    assert style2.grad is None


@pytest.mark.parametrize(("index", "expected"), [(0, 2.0), (1, 1.5), (2, 1.0), (4, 0.0), (9, 0.0)])
def test_diversity_schedule(index, expected):
    assert plain.Hyper(lambda_ds=2.0, ds_iter=4).lambda_ds_at(index) == expected


# --- the iteration ---


def batch_of(labels, targets):
    n = len(labels)
    images = [torch.rand(n, 3, SIZE, SIZE) * 2 - 1 for _ in range(3)]
    latents = torch.randn(n, LATENT), torch.randn(n, LATENT)
    return images[0], torch.tensor(labels), torch.tensor(targets), *latents, images[1], images[2]


def test_order_of_steps_averages_and_absent_domains():
    nets = plain_nets(domains=3)
    trainer = plain.PlainTrainer(nets, plain.Hyper(lr=1e-3, mapping_lr=1e-3, ema_decay=0.9))
    before = {name: state(net) for name, net in trainer.by_name.items()}
    logs = trainer.iteration(*batch_of([0, 1, 0], [1, 1, 0]))
    assert list(logs) == ["d_latent", "d_reference", "g_latent", "g_reference"]
    steps = {name: {int(v["step"]) for v in o.state.values()} for name, o in trainer.optimizers.items()}
    assert steps == {"generator": {2}, "mapping": {1}, "style_encoder": {1}, "discriminator": {2}}
    # Domain 2 is absent: its heads move by weight decay alone, one full Adam step as the first one has size lr.
    old = before["mapping"]["unshared.2.6.weight"]
    new = state(nets.mapping)["unshared.2.6.weight"]
    decay = 1e-4 * old
    torch.testing.assert_close(new, old - 1e-3 * decay / (decay.abs() + 1e-8))
    name = "encode.0.conv1.weight"
    expected = 0.9 * before["generator"][name] + 0.1 * state(nets.generator)[name]
    torch.testing.assert_close(state(trainer.ema["generator"])[name], expected)
    assert set(trainer.ema) == {"generator", "mapping", "style_encoder"}
    assert trainer.index == 1


def to_many_to_one(nets, setup):
    """A plain model as a many-to-one one whose domains are all multi-modal and share their stem, number 0."""
    names = {
        "from_rgb": "stem_in.0",
        "to_rgb": "stem_out.0",
        "shared.0": "stem.0",
        "main.0": "stem.0",
        "main.7": "head",
    }
    names |= {f"{old}.{i}": f"trunk.{i - 1}" for old in ("shared", "main") for i in range(1, 7)}

    def rename(name):
        for old, new in names.items():
            if name.startswith(old + "."):
                return new + name[len(old) :]
        return name

    copies = m2o.build_nets(setup)
    for name, net in vars(copies).items():
        source = getattr(nets, name).state_dict()
        net.load_state_dict(source if name == "mapping" else {rename(k): v for k, v in source.items()})
    return copies, rename


def test_all_multimodal_with_one_stem_is_starganv2():
    nets = plain_nets(domains=3)
    setup = setup_of(*[PlainDomain(3, True, stem=0)] * 3)
    copies, rename = to_many_to_one(nets, setup)
    # Some biases (the stem's, those before an instance norm) have gradient 0; a larger eps keeps Adam from blowing up
    # the rounding errors that stand in for it.
    hyper = plain.Hyper(mapping_lr=1e-4, lambda_ds=2.0, ds_iter=3, eps=1e-6)
    trainer, naive = plain.PlainTrainer(nets, hyper), NaiveTrainer(setup, copies, hyper)
    for labels, targets in [([2, 0, 2, 0], [0, 0, 2, 2]), ([1, 0, 2, 0], [2, 1, 0, 0])]:
        batch = batch_of(labels, targets)
        x, y_org, y_trg, z, z2, ref, ref2 = batch
        rows = zip(x, y_org.tolist(), y_trg.tolist(), z, z2, ref, ref2, strict=True)
        expected, logs = trainer.iteration(*batch), naive.iteration([Sample(*row) for row in rows])
        for phase, losses in expected.items():
            for name, value in losses.items():
                assert logs[phase][name] == pytest.approx(value, abs=1e-12), (phase, name)
    for kind in ("by_name", "ema"):
        for name, net in getattr(trainer, kind).items():
            copied = state(getattr(naive, kind)[name])
            for key, value in state(net).items():
                key = key if name == "mapping" else rename(key)
                torch.testing.assert_close(copied[key], value, rtol=0, atol=1e-12, msg=lambda m, key=key: f"{key}: {m}")


# --- the many-to-one rules ---


def test_unimodal_images_depend_on_no_latent_code_and_no_reference():
    setup = setup_of(MULTI, UNI)
    trainer = NaiveTrainer(setup, m2o.build_nets(setup))
    sample = sample_of(setup, 0, 1)
    other = replace(sample, z=torch.randn(LATENT), ref=image(1))
    for style_of in (trainer.latent_style, trainer.reference_style):
        assert not style_of(sample).any()
        images = [trainer.nets.generator(s.x[None], 0, 1, style_of(s)) for s in (sample, other)]
        assert torch.equal(*images)
        assert images[0].shape == (1, 1, SIZE, SIZE)


def test_terms_by_modality():
    setup = setup_of(MULTI, UNI)
    trainer = NaiveTrainer(setup, m2o.build_nets(setup))
    terms = {
        (a, b, paired): set(trainer.generator_terms(sample_of(setup, a, b, paired), trainer.latent_style))
        for a in range(2)
        for b in range(2)
        for paired in (False, True)
    }
    everywhere = {"adv", "cyc"}
    for (_, target, paired), names in terms.items():
        assert names == everywhere | ({"sty", "ds"} if target == 0 else {"sup"} if paired else set())


def test_masked_losses_are_divided_by_the_whole_batch():
    setup = setup_of(MULTI, UNI)
    few = [sample_of(setup, 1, 0), sample_of(setup, 0, 0)]
    many = [*few, sample_of(setup, 0, 1), sample_of(setup, 1, 1), sample_of(setup, 0, 1, paired=True)]
    nets = m2o.build_nets(setup)
    start = {name: net.state_dict() for name, net in vars(nets).items()}
    logs = []
    for samples in (few, many):
        copies = m2o.build_nets(setup)
        for name, net in vars(copies).items():
            net.load_state_dict(start[name])
        trainer = NaiveTrainer(setup, copies, plain.Hyper(lr=0.0, mapping_lr=0.0))
        logs.append(trainer.iteration(samples))
    for phase in ("g_latent", "g_reference"):
        for name in ("sty", "ds"):
            assert logs[1][phase][name] == pytest.approx(logs[0][phase][name] * 2 / 5)
        assert logs[0][phase]["sup"] == 0
        fake = nets.generator(many[-1].x[None], 0, 1, torch.zeros(1, STYLE))[0]
        assert logs[1][phase]["sup"] == pytest.approx((fake - many[-1].paired).abs().mean().item() / 5)


def test_total_of_each_phase_is_the_weighted_sum():
    setup = setup_of(MULTI, UNI)
    hyper = plain.Hyper(lambda_reg=2.0, lambda_sty=3.0, lambda_ds=5.0, lambda_cyc=7.0, lambda_sup=11.0, ds_iter=10)
    trainer = NaiveTrainer(setup, m2o.build_nets(setup), hyper, index=5)
    logs = trainer.iteration([sample_of(setup, 1, 0), sample_of(setup, 0, 1, paired=True)])
    for phase in ("d_latent", "d_reference"):
        loss = logs[phase]
        assert loss["total"] == pytest.approx(loss["real"] + loss["fake"] + 2 * loss["r1"])
    for phase in ("g_latent", "g_reference"):
        loss = logs[phase]
        total = loss["adv"] + 3 * loss["sty"] - 2.5 * loss["ds"] + 7 * loss["cyc"] + 11 * loss["sup"]
        assert loss["total"] == pytest.approx(total)


@pytest.mark.parametrize(("source", "encoder_moves"), [(1, False), (0, True)])
def test_a_batch_of_unimodal_targets_steps_the_style_encoder_only_for_the_cycle(source, encoder_moves):
    setup = setup_of(MULTI, UNI)
    nets = m2o.build_nets(setup)
    trainer = NaiveTrainer(setup, nets)
    before = {name: state(net) for name, net in vars(nets).items()}
    trainer.iteration([sample_of(setup, source, 1), sample_of(setup, source, 1)])

    def moved(name):
        return any(not torch.equal(before[name][key], value) for key, value in state(getattr(nets, name)).items())

    assert not moved("mapping")
    assert moved("style_encoder") is encoder_moves
    assert moved("generator") and moved("discriminator")


def test_stems_of_absent_domains_move_by_weight_decay_alone():
    setup = setup_of(MULTI, UNI, PlainDomain(2, True))
    nets = m2o.build_nets(setup)
    old = state(nets.mapping)["unshared.2.6.weight"], state(nets.style_encoder)["stem.2.weight"]
    NaiveTrainer(setup, nets, plain.Hyper(lr=1e-3, mapping_lr=1e-3)).iteration([sample_of(setup, 1, 0)])
    new = state(nets.mapping)["unshared.2.6.weight"], state(nets.style_encoder)["stem.2.weight"]
    for before, after in zip(old, new, strict=True):
        decay = 1e-4 * before
        torch.testing.assert_close(after, before - 1e-3 * decay / (decay.abs() + 1e-8))


@pytest.mark.parametrize("style_op", ["adain", "demod"])
def test_the_decoder_knows_the_unimodal_target_only_where_there_are_several(style_op):
    one = m2o.Generator(setup_of(MULTI, UNI, style_op=style_op))
    several = m2o.Generator(setup_of(MULTI, UNI, PlainDomain(1, False, stem=1), style_op=style_op))
    layers = [net.decode[0].norm1.fc if style_op == "adain" else net.decode[0].affine1 for net in (one, several)]
    assert [layer.in_features for layer in layers] == [STYLE, STYLE + 2]
    style = torch.randn(1, STYLE)
    assert torch.equal(one.condition(style, 1), style)
    code = [several.condition(style, target)[0, STYLE:].tolist() for target in range(3)]
    assert code == [[0, 0], [1, 0], [0, 1]]
    x, zero = image(3)[None], torch.zeros(1, STYLE)
    assert not torch.allclose(several(x, 0, 1, zero), several(x, 0, 2, zero))


def test_unimodal_domains_have_no_style_parameters():
    nets = m2o.build_nets(setup_of(MULTI, UNI, PlainDomain(2, True)))
    assert set(nets.mapping.unshared) == set(nets.style_encoder.unshared) == set(nets.style_encoder.stem) == {"0", "2"}
    assert nets.discriminator.head.out_channels == 3
    assert [nets.generator.stem_in[str(k)].in_channels for k in range(3)] == [3, 1, 2]
    assert [nets.generator.stem_out[str(k)][2].out_channels for k in range(3)] == [3, 1, 2]


def test_modulated_convolution_equals_scaling_input_and_output_planes():
    conv, scales, x = nn.Conv2d(3, 5, 3, 1, 1), torch.randn(1, 3), torch.randn(1, 3, 6, 6)
    energy = conv.weight.pow(2).sum(dim=(2, 3))
    demod = (scales.pow(2) @ energy.T + 1e-8).rsqrt()
    planes = nn.functional.conv2d(x * scales[:, :, None, None], conv.weight, padding=1)
    expected = planes * demod[:, :, None, None] + conv.bias[:, None, None]
    torch.testing.assert_close(m2o.modulated_conv(x, conv, scales), expected)


def test_demodulation_starts_with_scales_around_one_and_drops_the_last_norm():
    setup = setup_of(MULTI, UNI, style_op="demod")
    generator = m2o.Generator(setup)
    assert torch.equal(generator.decode[2].affine1(torch.zeros(1, STYLE)), torch.ones(1, 8))
    assert [name for name, _ in generator.stem_out["1"].named_parameters()] == ["2.weight", "2.bias"]
    logs = NaiveTrainer(setup, m2o.build_nets(setup)).iteration([sample_of(setup, 0, 1), sample_of(setup, 1, 0)])
    assert all(math.isfinite(value) for losses in logs.values() for value in losses.values())
