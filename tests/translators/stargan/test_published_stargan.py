"""Published StarGAN weights: in, out, several data sets, and what is said of those that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import plain_stargan as plain
import pytest
import torch
from stargan_cases import BLOCKS, LAYERS, SIDE, WIDTH, many_nets, many_translator, published_nets, weights

from m2o_fast import from_official, to_official
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.translators import create

HAIR = ["black", "blond", "brown"]
SETS = [["black", "blond", "male"], ["angry", "happy"]]


def test_outputs_are_those_of_the_published_nets() -> None:
    """As they are used: in training mode, with statistics of each image."""
    nets = published_nets()
    translator = from_official("stargan", weights(nets), labels=HAIR)
    assert [domain.name for domain in translator.domains] == HAIR and translator.image_size == SIDE
    x, label = torch.rand(2, 3, SIDE, SIDE) * 2 - 1, torch.zeros(2, 3)
    label[:, 1] = 1
    scores, logits = nets[1](x)
    several = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.5, 0.0]])
    for found, wanted in (
        (translator.translate(x, "black", "blond"), nets[0](x, label)),
        (translator.translate_labels(x, several), nets[0](x, several)),
        (translator.translate_labels(x, several[:1]), nets[0](x, several[:1].expand(2, -1))),
        (translator.discriminate(x, "brown")[0], scores),
        (translator.classify(x), logits),
    ):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert not translator.training and not any(parameter.requires_grad for parameter in translator.parameters())


def test_nets_of_several_data_sets() -> None:
    """A label is that of one data set, zeros for the others, and the mask that says which; classes have no mask."""
    nets = published_nets(classes=5, mask=2)
    translator = from_official("stargan", weights(nets), labels=SETS)
    assert translator.label_sets == [3, 2] and translator.label_length == 7
    x = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    for name, vector in (("male", [0, 0, 1, 0, 0, 1, 0]), ("happy", [0, 0, 0, 0, 1, 0, 1])):
        label = torch.tensor([vector], dtype=x.dtype)
        wanted = nets[0](x, label.expand(2, -1))
        for found in (translator.translate(x, "angry", name), translator.translate_labels(x, label)):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(translator.classify(x), nets[1](x)[1], rtol=0, atol=1e-12)
    again = from_official("stargan", to_official(translator), labels=SETS)
    assert again.describe() == translator.describe()


@pytest.mark.parametrize("given", ["GD", "G"])
def test_weights_come_out_as_they_went_in(given: str) -> None:
    """In the published order; the running statistics, which nothing uses, anew."""
    published = {name: net for name, net in weights(published_nets()).items() if name in given}
    found = to_official(from_official("stargan", published, domains=HAIR))
    assert found.keys() == published.keys()
    for name, net in published.items():
        assert list(found[name]) == list(net)
        for key, tensor in net.items():
            assert found[name][key].is_contiguous() and torch.equal(found[name][key], tensor), key


def test_weights_lie_as_those_of_nets_that_were_trained() -> None:
    """channels_last, so that no step copies them."""
    read = from_official("stargan", weights(published_nets()))
    built = create(read.describe())
    lie = [{name: tensor.stride() for name, tensor in net.state_dict().items()} for net in (read, built)]
    assert lie[0] == lie[1] and read.discriminator.convs[0].weight.stride(1) == 1


def test_what_is_not_in_the_weights_may_be_told() -> None:
    published = weights(published_nets())
    assert [d.name for d in from_official("stargan", published).domains] == ["domain0", "domain1", "domain2"]
    alone = {"G": published["G"]}
    assert [from_official("stargan", alone, image_size=side).image_size for side in (None, 64)] == [256, 64]
    # Old torch counted no batches; files of several processes have a prefix.
    old = {f"module.{key}": value for key, value in alone["G"].items() if not key.endswith("num_batches_tracked")}
    x = torch.rand(1, 3, SIDE, SIDE)
    outputs = (from_official("stargan", {"G": net}).translate(x, 0, 1) for net in (alone["G"], old))
    assert torch.equal(*outputs)


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    given = {name: dict(net) for name, net in weights(published_nets()).items()}
    change(given)
    return given


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.pop("G"), "missing net: G"),
        (lambda g: g.update(E=g["G"]), r"unknown nets: E \(nets: G, D\)"),
        (lambda g: g["G"].pop("main.0.weight"), "G: missing main.0.weight, from which sizes are read"),
        (lambda g: g["G"].pop("main.9.main.0.weight"), "G: the weights do not fit: missing main.9.main.0.weight"),
        (
            lambda g: [g["G"].pop(f"main.{k}.main.0.weight") for k in (9, 10)],
            r"G: expected two halvings and residual blocks \(main.9.main.0.weight\)",
        ),
        (lambda g: g["G"].pop("main.10.main.3.weight"), "G: the weights do not fit: missing main.10.main.3.weight"),
        (lambda g: g["G"].update(more=torch.zeros(1)), "G: the weights do not fit: superfluous more"),
        (lambda g: g["G"].pop(f"main.{BLOCKS + 15}.weight"), f"G: missing main.{BLOCKS + 15}.weight"),
        (
            lambda g: g["G"].update({"main.7.running_var": torch.zeros(3)}),
            r"G: main.7.running_var \[3\] belongs to no layer",
        ),
        (
            lambda g: g["G"].update({"main.8.num_batches_tracked": torch.tensor(0)}),
            r"G: main.8.num_batches_tracked \[\] belongs to no layer",
        ),
        (lambda g: g["D"].pop("main.0.weight"), "D: missing main.0.weight, from which sizes are read"),
        (lambda g: g["D"].pop("conv2.weight"), "D: missing conv2.weight, from which sizes are read"),
        (lambda g: g["D"].pop("main.2.bias"), "D: the weights do not fit: missing main.2.bias"),
        (lambda g: g["D"].pop("conv1.weight"), "D: the weights do not fit: missing conv1.weight"),
        (lambda g: g.update(D=judge(channels=1)), "the number of channels is 3 in G, 1 in D"),
        (lambda g: g.update(D=judge(classes=4)), "labels: G takes 3 numbers and D 4, but 3 names were given"),
        (lambda g: g.update(D=judge(side=8)), "the image size must be a multiple of 4 and at least 32"),
    ],
)
def test_what_does_not_fit_is_named(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_official("stargan", changed(change))


def judge(channels: int = 3, classes: int = 3, side: int = SIDE) -> dict[str, torch.Tensor]:
    return plain.Discriminator(channels, classes, side, WIDTH, LAYERS).state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["a", "b"]}, "G takes 3 numbers and D 3, but 2 names were given, which are 2 numbers"),
        ({"labels": [["a"], ["b", "c"]]}, "but 3 names in 2 data sets were given, which are 5 numbers"),
        ({"labels": ["a", "b", "a"]}, "domain names must differ"),
        ({"labels": ["a", "b", ""]}, "domain name ''"),
        ({"labels": "abc"}, "labels: expected a list of names"),
        ({"labels": ["a", ["b", "c"]]}, "labels: expected a list of names"),
        ({"labels": [1, 2, 3]}, "labels: expected a list of names"),
        ({"labels": []}, "labels: expected a list of names"),
        ({"labels": HAIR, "domains": HAIR}, "labels and domains are the same; give one of them"),
        ({"image_size": 64}, "D: classes are read off 4x4 places of 3 halvings, not of 64 pixels"),
        ({"image_size": 34}, "the image size must be a multiple of 4 and at least 32"),
    ],
)
def test_settings_that_do_not_fit_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_official("stargan", weights(published_nets()), **options)


def test_weights_are_compared_before_nets_are_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    given = changed(lambda g: g["D"].update({"main.2.weight": torch.zeros(30_000, WIDTH, 4, 4)}))
    monkeypatch.setattr(torch.nn.Module, "to_empty", lambda *_, **__: pytest.fail("allocated"))
    with pytest.raises(UserError, match=r"D: the weights do not fit: .*main.2.weight is \[30000, 3, 4, 4\] instead"):
        from_official("stargan", given)


def test_domains_with_layers_of_their_own_have_no_published_layout() -> None:
    domains = [Domain("a", multimodal=False), Domain("b")]
    with pytest.raises(UserError, match="the domains have layers of their own, for which there is no published layout"):
        to_official(many_translator(many_nets(domains), domains, {}, 5, 0.0))
