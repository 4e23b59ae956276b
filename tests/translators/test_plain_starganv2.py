"""The plain implementations against facts that can be worked out by hand, and against each other."""

import math
from dataclasses import replace

import plain_many_to_one as m2o
import plain_starganv2 as plain
import pytest
import torch
from plain_many_to_one import NaiveTrainer, PlainDomain, Sample, Setup
from torch import nn

SIZE, STYLE, LATENT, HIDDEN = 32, 8, 4, 16
MULTI, UNI = PlainDomain(3, True), PlainDomain(1, False)


@pytest.fixture(autouse=True)
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def plain_nets(domains=2):
    return plain.Nets(
        plain.Generator(SIZE, STYLE, max_width=8, base_width=4),
        plain.MappingNetwork(LATENT, STYLE, domains, HIDDEN),
        plain.StyleEncoder(SIZE, STYLE, domains, max_width=8, base_width=4),
        plain.Discriminator(SIZE, domains, max_width=8, base_width=4),
    )


def setup_of(*domains, style_op="adain"):
    return Setup(domains, SIZE, STYLE, LATENT, HIDDEN, base_width=4, max_width=8, style_op=style_op)


def image(channels):
    return torch.rand(channels, SIZE, SIZE) * 2 - 1


def sample_of(setup, source, target, paired=False):
    channels = setup.domains[target].channels
    return Sample(
        image(setup.domains[source].channels),
        source,
        target,
        torch.randn(LATENT),
        torch.randn(LATENT),
        image(channels),
        image(channels),
        image(channels) if paired else None,
    )


def state(net):
    return {name: value.detach().clone() for name, value in net.named_parameters()}


def make_flat(layer):
    """Make the output of a layer 0 for every input."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


# --- networks ---


@pytest.mark.parametrize(
    ("size", "max_width", "generator", "style_encoder", "discriminator"),
    [
        (256, 512, 33_892_995, 20_916_928, 20_852_290),
        (128, 512, 33_632_003, 20_799_744, 20_735_106),
        (64, 512, 32_634_883, 20_327_808, 20_263_170),
        (64, 256, 9_720_067, 5_809_536, 5_777_154),
        (32, 512, 28_740_099, 18_433_664, 18_369_026),
        (32, 256, 12_316_419, 7_127_168, 7_094_786),
        (32, 128, 7_381_379, 3_898_752, 3_882_498),
    ],
)
def test_parameter_counts_are_the_published_ones(size, max_width, generator, style_encoder, discriminator):
    with torch.device("meta"):
        assert count(plain.Generator(size, max_width=max_width)) == generator
        assert count(plain.StyleEncoder(size, max_width=max_width)) == style_encoder
        assert count(plain.Discriminator(size, max_width=max_width)) == discriminator


def test_parameter_counts_of_the_celeba_model_and_of_three_domains():
    with torch.device("meta"):
        assert count(plain.Generator(256, w_hpf=1)) == 43_467_395
        assert count(plain.MappingNetwork()) == 2_438_272
        assert count(plain.MappingNetwork(domains=3)) == 3_259_072
        assert count(plain.StyleEncoder(256, domains=3)) == 20_949_760
        assert count(plain.Discriminator(256, domains=3)) == 20_852_803


def test_parameter_names_are_those_of_the_published_checkpoints():
    nets = plain_nets()
    generator = state(nets.generator)
    assert generator["from_rgb.weight"].shape == (4, 3, 3, 3)
    assert generator["encode.0.conv1.weight"].shape == (4, 4, 3, 3)
    assert generator["encode.0.conv2.weight"].shape == (8, 4, 3, 3)
    assert generator["encode.0.conv1x1.weight"].shape == (8, 4, 1, 1)
    assert generator["encode.2.norm2.bias"].shape == (8,)
    assert generator["decode.2.conv1.weight"].shape == (4, 8, 3, 3)
    assert generator["decode.2.conv1x1.weight"].shape == (4, 8, 1, 1)
    assert generator["decode.2.norm1.fc.weight"].shape == (16, STYLE)
    assert generator["to_rgb.0.weight"].shape == (4,)
    assert generator["to_rgb.2.weight"].shape == (3, 4, 1, 1)
    assert not {"decode.0.conv1x1.weight", "encode.0.conv1x1.bias", "encode.3.conv1.weight"} & set(generator)
    assert [name for name in state(nets.mapping) if name.startswith("unshared.1") and name.endswith("weight")] == [
        f"unshared.1.{i}.weight" for i in (0, 2, 4, 6)
    ]
    assert state(nets.style_encoder)["shared.5.weight"].shape == (8, 8, 4, 4)
    assert state(nets.style_encoder)["unshared.1.weight"].shape == (STYLE, 8)
    assert state(nets.discriminator)["main.7.weight"].shape == (2, 8, 1, 1)


@pytest.mark.parametrize("w_hpf", [0, 1])
@pytest.mark.parametrize("size", [32, 64])
def test_output_shapes(size, w_hpf):
    x, labels = torch.zeros(2, 3, size, size), torch.tensor([1, 0])
    generator = plain.Generator(size, STYLE, max_width=8, w_hpf=w_hpf, base_width=4)
    assert generator(x, torch.zeros(2, STYLE)).shape == x.shape
    encoder = plain.StyleEncoder(size, STYLE, 2, max_width=8, base_width=4)
    assert encoder(x, labels).shape == (2, STYLE)
    assert plain.Discriminator(size, 2, max_width=8, base_width=4)(x, labels).shape == (2,)


@pytest.mark.parametrize("size", [16, 28, 48])
def test_undefined_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f"power of two and at least 32, got {size}"):
        plain.Generator(size)


def test_initial_weights_are_he_normal_and_biases_zero():
    mapping = state(plain.MappingNetwork(domains=1))
    assert mapping["shared.2.weight"].std() == pytest.approx(math.sqrt(2 / 512), rel=0.02)
    assert not mapping["shared.2.bias"].any()
    conv = state(plain.Generator(256, max_width=64))["encode.3.conv1.weight"]
    assert conv.std() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.03)


def test_adain_by_hand():
    adain = plain.AdaIN(1, 1)
    nn.init.constant_(adain.fc.weight, 1.0)
    with torch.no_grad():
        adain.fc.bias.copy_(torch.tensor([0.0, 3.0]))
    x = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]])[None, None]
    out = adain(x, torch.tensor([[0.5]]))
    torch.testing.assert_close(out, 1.5 * x / math.sqrt(1 + 1e-5) + 3.5)


def test_down_block_without_residual_is_the_pooled_shortcut():
    block = plain.ResBlk(2, 2, down=True)
    make_flat(block.conv2)
    x = torch.arange(16.0).view(1, 1, 4, 4).repeat(1, 2, 1, 1)
    assert block(x)[0, 0, 0, 0].item() == pytest.approx((0 + 1 + 4 + 5) / 4 / math.sqrt(2))


def normed(v):
    return (v - v.mean()) / (v.var(correction=0) + 1e-5).sqrt()


def leaky(v):
    return torch.where(v > 0, v, 0.2 * v)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_block_with_pointwise_convolutions_by_hand(kind):
    encoder = kind == "encoder"
    block = plain.ResBlk(1, 1, norm=True, down=True) if encoder else plain.AdainResBlk(1, 1, STYLE, up=True)
    for conv in (block.conv1, block.conv2):
        nn.init.dirac_(conv.weight)
        conv.weight.data.mul_(-3)
        nn.init.zeros_(conv.bias)
    if not encoder:
        make_flat(block.norm1.fc)
        make_flat(block.norm2.fc)
    # Pairs of equal columns, so that pooling changes no value.
    values = torch.tensor([-2.0, -1.0, 0.5, 1.0])
    x = values.repeat_interleave(2).expand(1, 1, 8, 8)
    out = block(x) if encoder else block(x, torch.zeros(1, STYLE))
    columns = (-3 * leaky(normed(-3 * leaky(normed(values)))) + values) / math.sqrt(2)
    size = 4 if encoder else 16
    torch.testing.assert_close(out, columns.repeat_interleave(size // 4).expand(1, 1, size, size))


def test_without_shortcut_the_residual_is_not_scaled():
    x, style = torch.randn(1, 4, 4, 4), torch.randn(1, STYLE)
    block = plain.AdainResBlk(4, 2, STYLE, up=True, with_shortcut=False)
    out = block(x, style)
    block.with_shortcut = True
    torch.testing.assert_close(block(x, style), (out + block.shortcut(x)) / math.sqrt(2))


def test_labels_choose_the_head():
    nets = plain_nets()
    x = torch.rand(3, 3, SIZE, SIZE)
    mixed = nets.discriminator(x, torch.tensor([1, 0, 1]))
    torch.testing.assert_close(mixed, nets.discriminator.main(x).flatten(1)[[0, 1, 2], [1, 0, 1]])
    heads = [nets.style_encoder(x, torch.full((3,), k)) for k in range(2)]
    torch.testing.assert_close(nets.style_encoder(x, torch.tensor([1, 0, 1]))[1], heads[0][1])
    assert not torch.allclose(heads[0], heads[1])


# --- losses ---


class LinearDiscriminator(nn.Module):
    """Logit of domain k is the inner product of the image with ``weight[k]``."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x, labels):
        return plain.pick(torch.einsum("nchw,kchw->nk", x, self.weight), labels)


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
