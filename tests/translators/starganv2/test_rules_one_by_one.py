"""Each many-to-one rule by itself: settings, and every combination against the plain implementation in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from plain_many_to_one import NaiveTrainer, PlainDomain, Setup, build_nets
from starganv2_cases import (
    COLOR,
    EDGES,
    GRAY,
    HYPER,
    LABELS,
    WEIGHTS,
    as_batch,
    assert_same_losses,
    close,
    copy_weights,
    our_name,
    random_samples,
    stepper_for,
)

from m2o_fast.engine.build import build_translator, check_domains
from m2o_fast.engine.config import ConfigError, load_config
from m2o_fast.errors import UserError
from m2o_fast.m2o import VARIANTS, Domain, ManyToOne
from m2o_fast.translators.starganv2.settings import Size
from m2o_fast.translators.starganv2.translator import StarGANv2

WIDTHS = {"base_width": 4, "max_width": 8, "style_dim": 8, "latent_dim": 6, "hidden_dim": 16}
EVERY = list(itertools.product((None, "stem", "block", "adapter"), (False, True), (False, True), (0.0, 0.8)))
#: those that differ from each other in every rule and from the variants in most; the others take as long again
FEW = [
    (None, True, True, 0.8),
    (None, False, False, 0.8),
    ("stem", False, True, 0.0),
    ("block", True, True, 0.8),
    ("block", False, False, 0.0),
    ("adapter", True, False, 0.0),
    ("adapter", False, True, 0.8),
]
CELLS = [pytest.param(*cell, marks=[] if cell in FEW else pytest.mark.slow) for cell in EVERY]


def assert_same_training(
    domains: list[Domain], rules: ManyToOne, style_op: str, of_labels: str = "cross_entropy", **other: int
) -> None:
    """Losses and weights of an iteration against one sample at a time; every domain is a source and a target in it."""
    pairs = rules.supervised_weight > 0
    size = Size(image_size=32, **WIDTHS, style_op=style_op, output="linear" if style_op == "adain" else "tanh")
    weights = WEIGHTS.model_copy(update={"of_labels": of_labels})
    translator = StarGANv2(domains, rules, size.model_copy(update=other), weights)
    stem = 0 if rules.domain_layers is None else None
    setup = Setup(
        tuple(
            PlainDomain(domain.channels, domain.multimodal, stem, domain.kind == "onehot")
            for domain in translator.domains
        ),
        *(32, 8, 6, 16),
        base_width=4,
        max_width=8,
        style_op=style_op,
        bounded=style_op == "demod",
        layers=rules.domain_layers or "stem",
        zero_style=rules.zero_style,
        diversity_to_all=not rules.diversity_on_multimodal_only,
        of_labels=of_labels,
        **other,
    )
    nets = build_nets(setup)
    adapted = rules.domain_layers == "adapter"
    copy_weights(nets, translator, adapted=adapted)
    naive, (stepper, _) = NaiveTrainer(setup, nets, HYPER), stepper_for(translator)
    domains = list(translator.domains)
    drawn = sorted(random_samples(domains, 60, paired=pairs), key=lambda sample: sample.paired is not None)
    ways = {(sample.source, sample.target): sample for sample in drawn}  # with a pair, where one is known
    samples = [ways[way] for way in ((1, 0), (2, 1), (0, 2), (1, 1))]
    theirs = naive.iteration(samples)
    assert_same_losses(stepper([as_batch(samples, domains, pairs=pairs)], 0).losses, theirs)
    assert all(theirs["g_latent"][name] != 0 for name in ("sty", "ds", "sup") if name != "sup" or pairs)
    for net, module in vars(nets).items():
        for name, parameter in module.named_parameters():
            assert close(translator.get_parameter(our_name(net, name, adapted=adapted)), parameter, 1e-10), name


@pytest.mark.parametrize(("layers", "zero_style", "only", "supervised"), CELLS)
def test_iteration_is_the_naive_one(layers: str | None, zero_style: bool, only: bool, supervised: float) -> None:
    """Three domains, so that two without style have a code; shared layers cannot be had with other channel counts."""
    domains = [GRAY, COLOR, Domain("edges", 1, multimodal=False) if layers is None else EDGES]
    style_op = "demod" if supervised else "adain"
    assert_same_training(domains, ManyToOne(layers, zero_style, only, supervised), style_op)


def test_without_a_code_the_last_layers_alone_tell_unimodal_domains_apart() -> None:
    assert_same_training([GRAY, COLOR, EDGES], ManyToOne(supervised_weight=0.8), "demod", domain_code=False)
    edges = Domain("edges", 1, multimodal=False)
    for layers, code, refused in (("shared", False, True), ("shared", True, False), ("stem", False, False)):
        config = load_config(overrides={"model.domain_layers": layers, "model.domain_code": code})
        if refused:
            with pytest.raises(UserError, match="^model.domain_code: .* all images of gray, edges would be the same"):
                check_domains(config, [COLOR, GRAY, edges])
        check_domains(config, [COLOR, GRAY])
        if not refused:
            check_domains(config, [COLOR, GRAY, edges])


@pytest.mark.parametrize("downsamplings", [0, 3])
def test_a_finer_or_coarser_bottleneck(downsamplings: int) -> None:
    """And label maps of one channel per class by the absolute error."""
    domains = [LABELS, COLOR, GRAY]
    rules = ManyToOne("block", supervised_weight=0.8)
    assert_same_training(domains, rules, "demod", "absolute", downsamplings=downsamplings)
    size = Size(image_size=32, **WIDTHS, downsamplings=downsamplings)
    content = StarGANv2(domains, rules, size).generator.encode([torch.zeros(0, 5, 32, 32), torch.zeros(2, 3, 32, 32),
                                                                torch.zeros(0, 1, 32, 32)])  # fmt: skip
    assert content.shape[2:] == (32 >> downsamplings,) * 2 and not size.as_published


def test_images_are_not_halved_to_nothing() -> None:
    for count, size, refused in ((3, 32, False), (4, 32, True), (4, 64, False)):
        values = {"model.downsamplings": count, "data.image_size": size}
        if refused:
            with pytest.raises(ConfigError, match="^model.downsamplings = 4 .*: 4 are too many .* take at most 3"):
                load_config(overrides=values)
            with pytest.raises(ValueError, match="too many for images of 32 pixels"):
                Size(image_size=size, **WIDTHS, downsamplings=count)
        else:
            assert load_config(overrides=values).model.downsamplings == count
    usual = [Size(image_size=size, **WIDTHS) for size in (32, 64, 256)]
    assert [size.halvings for size in usual] == [1, 2, 4] and all(size.as_published for size in usual)


@pytest.mark.parametrize("variant", ["plain", "hmu", "hms"])
def test_what_a_variant_has_may_be_named(variant: str) -> None:
    """The same nets with the same first weights."""
    rules = VARIANTS[variant]
    said = {
        "model.domain_layers": rules.domain_layers or "shared",
        "model.zero_style": rules.zero_style,
        "loss.diversity_to": "multi_modal" if rules.diversity_on_multimodal_only else "all",
    }
    usual = {"variant": variant, "data.name": "digits", "model.base_width": 4, "model.hidden_dim": 8}
    one, other = (load_config(overrides=usual | more) for more in ({}, said))
    assert one.rules == other.rules
    translators = [build_translator(config, (COLOR, GRAY)) for config in (one, other)]
    assert translators[0].describe() == translators[1].describe()
    found, wanted = (translator.state_dict() for translator in translators)
    assert list(found) == list(wanted) and all(torch.equal(found[name], wanted[name]) for name in found)


@pytest.mark.parametrize("variant", ["plain", "hmu", "hms"])
@pytest.mark.parametrize(
    ("key", "value", "name", "meant"),
    [
        ("model.domain_layers", "shared", "domain_layers", None),
        ("model.domain_layers", "block", "domain_layers", "block"),
        ("model.zero_style", "false", "zero_style", False),
        ("model.zero_style", "true", "zero_style", True),
        ("loss.diversity_to", "all", "diversity_on_multimodal_only", False),
        ("loss.diversity_to", "multi_modal", "diversity_on_multimodal_only", True),
    ],
)
def test_a_rule_that_is_named_changes_no_other(variant: str, key: str, value: str, name: str, meant: object) -> None:
    usual = load_config(overrides={"variant": variant}).rules
    found = load_config(overrides={"variant": variant}, assignments=[f"{key}={value}"]).rules
    assert vars(found) == vars(usual) | {name: meant}


def test_the_decoder_is_the_published_one_where_no_rule_is_followed() -> None:
    """Whether pairs are known says nothing of the nets."""
    off = ["model.domain_layers=shared", "model.zero_style=false", "loss.diversity_to=all"]
    for said, decoder in ((off, "adain"), (off[:2], "demod"), (off[1:], "demod"), ([off[0], off[2]], "demod")):
        config = load_config(overrides={"variant": "hms"}, assignments=said)
        assert config.settings.description([COLOR, GRAY], config.rules, 32)["size"]["style_op"] == decoder


@pytest.mark.parametrize("said", ["model.domain_layers=none", "model.zero_style=1", "loss.diversity_to=uni_modal"])
def test_other_words_are_refused(said: str) -> None:
    with pytest.raises(ConfigError, match=said.partition("=")[0]):
        load_config(assignments=[said])


def test_a_unimodal_domain_with_a_style_has_heads() -> None:
    """Its layers lie where those of the others do, whatever else domains have for themselves."""
    for layers in (None, "stem", "block", "adapter"):
        translator = StarGANv2([COLOR, GRAY], ManyToOne(layers, zero_style=False), Size(image_size=32, **WIDTHS))
        assert list(translator.mapping_network.heads) == list(translator.style_encoder.heads) == ["0", "1"]
        assert translator.has_style("gray") and translator.latent_shape("gray") == (6,)
        styles = translator.sample_style(2, "gray", torch.Generator().manual_seed(0))
        x = torch.rand(2, translator.domains[0].channels, 32, 32)
        one, other = (translator.translate(x, "color", "gray", style=style) for style in (styles, styles + 1))
        assert not torch.equal(one, other)
