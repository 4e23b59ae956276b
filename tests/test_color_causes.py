"""The study of what decides over colours: its arms differ in one thing, its measures say of hand-made cases what they
should, and its page shows the record."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from source_tree import ROOT

from m2o_fast.engine.build import build_samplers, build_translator, open_split
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.ops import color_histogram
from m2o_fast.translators.starganv2.settings import Size
from m2o_fast.translators.starganv2.translator import StarGANv2


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_arms_differ_from_the_preset_in_one_thing() -> None:
    from color_arms import ARMS, LINEAR, PRESET, WHOLE

    preset = ARMS[PRESET].config(3)
    assert preset.steps == WHOLE and preset.seed == 3 and ARMS["adain"].config(3, 500).steps == 500
    for name, arm in ARMS.items():
        config, told = arm.config(3), dict(arm.settings)
        values = {key: told.pop(key) for key in LINEAR if key in told}  # AdaIN and its linear output are the published
        patches = [arm.norm is not None, arm.few_colors, arm.falling]
        assert len(told) + sum(patches) <= 1 + (name == "adain-no-norm"), name
        counts = {"steps": config.steps, "checkpoint_every": config.checkpoint_every}
        assert config == preset.with_values({**counts, **told, **values}), name


def test_arms_change_what_no_setting_says_and_only_meanwhile() -> None:
    from color_arms import ARMS, PRESET

    dataset = open_split(ARMS[PRESET].config(1), "train")
    small = {"model.hidden_dim": 8, "model.max_width": 8}

    def norms(name: str) -> int:
        with ARMS[name].in_place():
            translator = build_translator(ARMS[name].config(1).with_values(small), dataset.domains)
        return sum("norm" in key and "stem_out" in key for key in translator.state_dict()) // 2

    assert [norms(name) for name in ("adain", "adain-no-norm", "demod", "demod-norm")] == [2, 0, 0, 2]
    for name, expected in (("few-colors", (2, 6)), (PRESET, (4, 4))):
        config = ARMS[name].config(1).with_values(small)
        with ARMS[name].in_place():
            (sampler,) = build_samplers(config, dataset, build_translator(config, dataset.domains))
        batch = sampler(0)
        assert batch.target_counts == expected and [len(part) for part in batch.source] == [4, 4]
    for name, rates in (("falling", [1, 1, 0.55, 0.1]), (PRESET, None)):
        arm = ARMS[name]
        with arm.in_place():
            optim = arm.config(1).optim
            of, other = optim.optimizer("generator"), optim.optimizer("discriminator")
        assert other.schedule is None and of.lr == optim.lr
        found = None if of.schedule is None else [of.schedule(step) for step in (0, 1000, 1500, 2000)]
        assert found == (None if rates is None else pytest.approx(rates))


def test_spread_of_colors() -> None:
    from color_causes import in_cells, spread

    even = spread(in_cells(50))
    assert even["recall"] == 1 and even["middle"] == 1 and even["dark"] == 0
    assert even["axes"] == pytest.approx([1 / math.sqrt(12)] * 3, rel=0.06)
    flat = torch.rand(1000, 3, generator=torch.Generator().manual_seed(0))
    flat[:, 2] = 1 - flat[:, 0]
    found = spread(flat)
    assert found["axes"][2] == pytest.approx(0, abs=1e-3) and found["together"][1] == pytest.approx(-1)
    assert found["axes"] == sorted(found["axes"], reverse=True) and abs(found["together"][0]) < 0.1
    grey = spread(torch.full((10, 3), 0.1) + torch.eye(3)[torch.arange(10) % 3] * 0.01)
    assert grey["recall"] == 0 and grey["dark"] == 63 and grey["middle"] == 0


def test_logits_against_the_law() -> None:
    from color_causes import against_law

    counts = torch.arange(64)
    best = -(counts[1:] + 0.5).log()
    exact = against_law(best, counts)
    assert exact["correlation"] == pytest.approx(1) and exact["logits"] == pytest.approx(exact["best"])
    assert against_law(-best / 2, counts) == pytest.approx(
        {"correlation": -1, "logits": exact["best"] / 2, "best": exact["best"]}
    )
    assert against_law(torch.ones(63), counts)["correlation"] == 0


def test_the_discriminator_is_asked_about_flat_digits_by_cell() -> None:
    """One that likes red finds too few red cells where the generator makes them seldom."""
    import color_causes as causes

    content = torch.zeros(5, 1, 4, 4)
    content[:, :, 1:3] = 0.5
    test = causes.Digits(content, content * 2 - 1, content)
    likes_red = SimpleNamespace(discriminate=lambda images, _: (images[:, 0] + 1).mean((1, 2)))
    counts = torch.exp(-torch.arange(64) // 16 * 1.0) * 1e6
    found = causes.seen(likes_red, test, counts)
    assert found["correlation"] > 0.95
    assert causes.seen(likes_red, test, counts.flip(0))["correlation"] < -0.95
    shares = color_histogram(causes.in_cells(3), 4)
    assert shares[0] == 0 and (shares[1:] == 3).all()


@pytest.fixture
def tiny() -> tuple[StarGANv2, Any]:
    from color_causes import Digits

    torch.manual_seed(0)
    domains = [Domain("color", 3), Domain("gray", 1, multimodal=False)]
    size = Size(image_size=32, base_width=2, max_width=4, style_dim=3, latent_dim=4, hidden_dim=8)
    content = torch.rand(64, 1, 32, 32)
    return StarGANv2(domains, ManyToOne(), size), Digits(content, content * 2 - 1, content.repeat(1, 3, 1, 1))


def test_gradients_of_both_losses(tiny: tuple[StarGANv2, Any]) -> None:
    from color_causes import mean_cosine, pulls

    translator, test = tiny
    steps = translator.weights.diversity_steps
    whole, half, none = (pulls(translator, test, step) for step in (0, steps // 2, steps))
    assert whole["adversarial"] == half["adversarial"] > 0 and none["diversity"] == 0
    assert half["diversity"] == pytest.approx(whole["diversity"] / 2) and whole["diversity"] > 0
    assert -1 <= whole["both"] <= 1
    same = torch.tensor([[1.0, 0], [2, 0]])
    assert mean_cosine(same) == pytest.approx(1) and mean_cosine(torch.eye(3)) == pytest.approx(0)
    assert mean_cosine(torch.tensor([[1.0, 0], [-3, 0], [0, 1]])) == pytest.approx(-1 / 3)


def test_colors_are_those_of_the_digits(tiny: tuple[StarGANv2, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import color_causes as causes

    translator, test = tiny
    test = causes.Digits(*(part[:4] for part in test))

    def translate_many(gray: torch.Tensor, source: str, target: str, styles: torch.Tensor) -> torch.Tensor:
        assert styles.shape == (4, 2, 3) and (source, target) == ("gray", "color")
        colors = torch.tensor([[0.2, 0.4, 0.6]]).expand(8, 3)
        return causes.painted(test.content.repeat_interleave(2, dim=0), colors).unflatten(0, (4, 2)) * 2 - 1

    monkeypatch.setattr(translator, "translate_many", translate_many)
    assert torch.allclose(causes.colors_of(translator, test, 2), torch.tensor([[0.2, 0.4, 0.6]]).expand(8, 3))


def test_weights_are_averaged_over_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    import color_causes as causes
    from color_arms import ARMS, PRESET

    monkeypatch.setattr(causes, "read_tensors", lambda folder, _: {"w": torch.tensor(float(folder.name[-4:]))})
    monkeypatch.setattr(causes, "loaded", lambda arm, folder, tensors: tensors)
    monkeypatch.setattr(causes, "colors_of", lambda nets, _: nets)
    monkeypatch.setattr(causes, "spread", lambda nets: {"mean": float(nets["w"])})
    found = list(causes.windows(ARMS[PRESET], Path("run"), None))
    means = {row["window"]: row["mean"] for row in found if "window" in row}
    assert means == {length: pytest.approx(2010 - length / 2) for length in causes.WINDOWS}
    assert [row["mean"] for row in found if "raw" in row] == [1900, 1920, 1940, 1960, 1980]


def test_styles_of_fresh_nets(monkeypatch: pytest.MonkeyPatch) -> None:
    import color_causes as causes

    normal = causes.of_styles(torch.randn(20_000, 8, generator=torch.Generator().manual_seed(0)))
    assert normal["kurtosis"] == pytest.approx(3, abs=0.1) and normal["evenness"] > 0.95
    assert 0.94 < normal["recall"] < 0.985
    wide = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0] * 7 + [0.1])
    assert causes.of_styles(wide)["evenness"] == pytest.approx(0.1, abs=0.01)
    monkeypatch.setattr(causes, "DRAWS", 5000)
    short = causes.of_styles(causes.styles_of(4, 32, 0))
    assert short["kurtosis"] > 3.3 and short["recall"] < normal["recall"]
    assert torch.equal(causes.styles_of(4, 32, 1), causes.styles_of(4, 32, 1))


def test_what_was_measured_is_not_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import color_causes as causes
    from color_arms import Arm

    run, trained, seen = tmp_path / "adain-3", [], []

    def train(_: Arm, folder: Path, seed: int, at_most: int) -> None:
        trained.append(at_most)
        for step in range(100, at_most + 1, 100):
            (folder / "checkpoints" / f"step-{step:08d}").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(Arm, "train", train)
    monkeypatch.setattr(causes, "digits", lambda: None)
    monkeypatch.setattr(causes, "measured", lambda arm, folder, step, test: seen.append(step) or {"step": step})
    causes.run_of("adain", 3, tmp_path, 300)
    causes.run_of("adain", 3, tmp_path, 300)
    found = causes.run_of("adain", 3, tmp_path, 2000)
    assert trained == [300, 2000] and seen == [100, 200, 300, 400, 500, 1000, 1500, 2000]
    assert [row["step"] for row in found["checkpoints"]] == seen
    assert json.loads((run / "colors.json").read_text()) == found and not found["windows"]


def record() -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / "color-causes.json").read_text())


def test_the_page_shows_the_record() -> None:
    import color_page

    assert color_page.PAGE.read_text() == color_page.page(record())
    changed = record()
    changed["runs"][0]["checkpoints"][-1]["averaged"]["recall"] += 0.1
    changed["latents"][0]["nets"][0]["recall"] += 0.1
    assert len({*color_page.page(changed).splitlines()} ^ {*color_page.PAGE.read_text().splitlines()}) > 4


def test_what_the_page_says_in_words_is_so() -> None:
    import statistics

    from color_page import EARLY, LATE, LENGTHS, Found

    found = Found(record())
    reached = [found.of_latents(*row)["recall"] for row in LENGTHS]
    assert reached == sorted(reached)
    tails, evenness = ([found.of_latents(*row)[name] for row in LENGTHS[:2]] for name in ("kurtosis", "evenness"))
    assert tails[0] > tails[1] and evenness[0] < evenness[1]
    narrow = [found.of_latents(64, width)["recall"] for width in (64, 128, 256, 512)]
    assert narrow == sorted(narrow)
    for seed in found.seeds_of(["adain", "adain-no-norm", "demod-norm", "demod"]):
        colors = {
            arm: found.at(arm, seed, EARLY)["averaged"] for arm in ("adain", "adain-no-norm", "demod-norm", "demod")
        }
        for normed, free in (("adain", "adain-no-norm"), ("demod-norm", "demod")):
            assert colors[free]["recall"] > 2 * colors[normed]["recall"]
            assert colors[free]["axes"][2] > 2 * colors[normed]["axes"][2]
    adain, preset = found.run("adain", 3)["checkpoints"], found.run("demod-tanh", 3)["checkpoints"]
    assert adain[-1]["averaged"]["axes"][2] < adain[0]["averaged"]["axes"][2]
    assert adain[-1]["averaged"]["axes"][1] < adain[-1]["averaged"]["axes"][0] / 3
    last = found.at("adain", 3, 500)["seen"]
    assert last["correlation"] > 0.4 and 0.8 < last["logits"] / last["best"] < 1.2
    late = [row for run in found.runs if "adain" not in run["arm"] for row in run["checkpoints"] if row["step"] > LATE]
    for row in late:
        assert row["seen"]["logits"] < row["seen"]["best"] / 4
    assert (
        min(row["seen"]["correlation"] for row in late) < -0.5 and max(row["seen"]["correlation"] for row in late) > 0.5
    )
    mean = {name: statistics.mean(row["pulls"][name] for row in late) for name in late[0]["pulls"]}
    assert mean["adversarial_alike"] > 2 * mean["diversity_alike"]
    assert sum(row["pulls"]["both"] < 0 for row in late) > len(late) / 2
    for run in found.runs:
        raw = [row for row in run["windows"] if "raw" in row]
        means = [row for row in run["windows"] if row.get("window", 0) >= 100]
        if raw:
            averaged = run["checkpoints"][-1]["averaged"]
            assert max(row["recall"] for row in raw) < averaged["recall"]
            assert statistics.mean(row["middle"] for row in raw) < statistics.mean(row["middle"] for row in means)
    swings = {}
    for arm in ("demod-tanh", "falling"):
        several = [row["recall"] for row in found.run(arm, 3)["windows"] if "raw" in row]
        swings[arm] = max(several) - min(several)
    assert swings["falling"] < swings["demod-tanh"] / 2
    assert found.at("falling", 3, 2000)["averaged"]["recall"] < found.at("demod-tanh", 3, 2000)["averaged"]["recall"]
    for length, latent in (("demod-tanh", 16), ("latent-64", 64)):
        bound = found.of_latents(latent, 512)["recall"]
        assert all(found.at(length, seed, 2000)["averaged"]["recall"] < bound for seed in (2, 3))
    few, whole = (found.at(arm, 3, EARLY) for arm in ("few-colors", "demod-tanh"))
    assert few["mse"] < whole["mse"] and few["averaged"]["recall"] < whole["averaged"]["recall"]
    assert preset[-1]["averaged"]["axes"][2] > 8 * adain[-1]["averaged"]["axes"][2]
