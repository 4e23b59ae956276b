"""Classifiers on content encoders: which labels they know, what they train, and the section that shows them."""

from __future__ import annotations

import sys

import pytest
import torch
from source_tree import ROOT

from m2o_fast.engine.build import build_translator
from m2o_fast.engine.config import load_config
from m2o_fast.m2o import Domain
from m2o_fast.translators.base import Translator

sys.path.insert(0, str(ROOT / "benchmarks"))
import features_page
import features_study


def fresh() -> Translator:
    words = ["data.name=digits", "variant=hmu", "model.base_width=4", "model.hidden_dim=8"]
    return build_translator(load_config(assignments=words), (Domain("color"), Domain("gray", 1, multimodal=False)))


def known(count: int) -> features_study.Digits:
    """Digits of which one lights the upper half of the picture, another the lower one."""
    labels = torch.arange(count) % 2
    images = torch.full((count, 1, 32, 32), -1.0)
    images[labels == 0, :, :16] = 1
    images[labels == 1, :, 16:] = 1
    return images, labels


def test_so_many_labels_of_each_digit_are_known() -> None:
    labels = torch.arange(10).repeat(120)
    for counts in features_study.CASES.values():
        rows = features_study.labelled(labels, counts, seed=1)
        assert len(rows.unique()) == sum(counts) and labels[rows].bincount().tolist() == list(counts)
    one, other = (features_study.labelled(labels, (1,) * 10, seed) for seed in (1, 2))
    more = features_study.labelled(labels, (10,) * 10, 1)
    assert not torch.equal(one, other) and set(one.tolist()) < set(more.tolist())


@pytest.mark.parametrize("everything", [False, True])
def test_a_classifier_learns_with_its_encoder_or_without(everything: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_study, "STEPS", 12)
    monkeypatch.setattr(features_study, "BATCH", 4)
    translator = fresh().requires_grad_(everything)
    before = {name: tensor.clone() for name, tensor in translator.state_dict().items()}
    assert features_study.accuracy(translator, known(4), known(6), 1, everything=everything) == 1
    moved = {name for name, tensor in translator.state_dict().items() if not torch.equal(tensor, before[name])}
    assert bool(moved) == everything and all(name.startswith("generator.") for name in moved)


def test_ways_begin_with_the_weights_that_they_say(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_study, "load_translator", lambda folder, device: (folder, device) and fresh())
    config = load_config(assignments=["data.name=digits", "variant=hmu", "model.base_width=8", "model.hidden_dim=8"])
    for way in features_page.WAYS:
        translator = features_study.start(way, config, tmp_path)
        assert translator.describe()["size"]["base_width"] == (4 if way.startswith("trained") else 8)
        assert all(weight.requires_grad == way.endswith("all") for weight in translator.parameters())
        assert not translator.training


def test_the_section_shows_gains_and_losses_by_seed() -> None:
    shares = {"trained, last layer": 0.75, "fresh, last layer": 0.5, "trained, all": 0.6, "fresh, all": 0.7}
    made = {"machine": "a", "torch": "b", "commit": "c", "processor_seconds": 900}
    runs = [
        {"way": way, "labels": "1 of each", "seed": seed, "accuracy": share + seed / 100, **made}
        for way, share in shares.items()
        for seed in (2, 1)
    ]
    settings = {"encoder": {"steps": 1000}, "classifier": {"steps": 300, "unbalanced": [2, 1]}}
    lines = features_page.section({"settings": settings, "runs": runs})
    assert lines[0].endswith("seeds 1, 2\n") and "(2.00 core-hours in all" in lines[1]
    assert lines[4] == "| trained encoder, linear classifier | 0.765 ± 0.007 |" and len(lines) == 9
    assert lines[-1].startswith(
        "\nWith a linear classifier, trained weights bring +0.250 ± 0.000 (1 of each) over fresh ones. With training "
        "all layers, trained weights bring -0.100 ± 0.000 (1 of each) over fresh ones."
    )
