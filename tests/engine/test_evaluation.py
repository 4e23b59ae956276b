"""Translators whose translations are known have the measures that anybody can compute."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from fakes import PASSED, SIDE, Painter, mean_color_extractor, squares
from forked import together

from m2o_fast.data import ColorizedDigits
from m2o_fast.engine.evaluation.measures import Outputs, StyleIndependence, Worst
from m2o_fast.engine.evaluation.options import Options
from m2o_fast.engine.evaluation.progress import Meter
from m2o_fast.engine.evaluation.report import finite, means
from m2o_fast.engine.evaluation.styles import LatentStyles, ReferenceStyles
from m2o_fast.engine.evaluation.translations import Evaluation, Found
from m2o_fast.engine.processes import joined_processes
from m2o_fast.errors import UserError
from m2o_fast.m2o import ManyToOne
from m2o_fast.metrics import FeatureBank, color_report, distribution_report
from m2o_fast.metrics.color import ColorStatistics

COUNT, MANY = 20, 3


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def data() -> ColorizedDigits:
    return squares(COUNT)


def evaluation(data: ColorizedDigits, painter: Painter | None = None, **options: object) -> Evaluation:
    painter = painter or Painter(data.domains)
    asked = Options(**{"outputs_per_source": MANY, **options})  # type: ignore[arg-type]
    return Evaluation(
        painter.know(data).eval(), data, lambda: squares(30, "train"), asked, extractor=mean_color_extractor()
    )


def measured(data: ColorizedDigits, painter: Painter | None = None, **options: object) -> Found:
    return evaluation(data, painter, **options).run()


# --- known numbers ---


def test_errors_of_a_known_translator(data: ColorizedDigits) -> None:
    """Image i is off by 2 i / 255 in every pixel."""
    found = measured(data)
    values, details = found.directions["color->gray"]["none"], found.details["color->gray"]
    errors = (torch.arange(COUNT, dtype=torch.float64) * 2 / 255) ** 2
    assert values["mse"] == pytest.approx(errors.mean().item(), rel=1e-6)
    assert values["psnr"] == pytest.approx(-10 * torch.log10(errors.mean()).item(), rel=1e-6)
    assert values["style_independent"] is True
    assert [entry["index"] for entry in details["worst"]] == list(range(19, 3, -1))
    assert details["worst"][0]["value"] == pytest.approx(errors[19].item(), rel=1e-6)
    assert {entry["measure"] for entry in details["worst"]} == {"mse"}


def test_references_are_all_test_images_in_each_output(data: ColorizedDigits) -> None:
    """The style is the colour, so every real colour is painted once in each of the outputs."""
    painter = Painter(data.domains)
    found = measured(data, painter, guidance="reference")
    values, details = found.directions["gray->color"]["reference"], found.details["gray->color"]
    once = ColorStatistics(4, 8)
    once.update(data.images("color", range(COUNT)), data.content(range(COUNT)))
    assert details["color_histogram"]["generated"] == (once.histogram * MANY).tolist()
    assert values["unique_colors"] == pytest.approx(once.unique_colors, abs=1)
    assert values["content_mse"] < 1e-12
    # each reference once, whatever the number of outputs, and each source for its way back
    assert painter.encoded == COUNT + COUNT


def test_colors_are_compared_with_as_many_real_ones_twice(data: ColorizedDigits) -> None:
    found = measured(data, guidance="latent")
    rows = range(COUNT)
    samples = [ColorStatistics(4, 8) for _ in range(3)]
    styles = LatentStyles(Painter(data.domains), 1, 0, MANY).rows(rows)
    for draw in range(MANY):
        painted = (data.content(rows) * styles[:, draw, :, None, None]).clamp(0, 1)
        samples[0].update(painted, data.content(rows))
        samples[1].update(data.images("color", rows, draw), data.content(rows))
        samples[2].update(data.images("color", rows, MANY + draw), data.content(rows))
    assert found.directions["gray->color"]["latent"] == pytest.approx(
        found.directions["gray->color"]["latent"] | color_report(*samples), rel=1e-6, abs=1e-9
    )
    assert found.details["gray->color"]["color_histogram"]["real"] == samples[1].histogram.tolist()


def test_features_are_those_of_8_bit_images_against_the_train_split(data: ColorizedDigits) -> None:
    values = measured(data, guidance="latent").directions["gray->color"]["latent"]
    extractor, train = mean_color_extractor(), squares(30, "train")
    banks = []
    styles = LatentStyles(Painter(data.domains), 1, 0, MANY).rows(range(COUNT))
    painted = (data.content(range(COUNT))[:, None] * styles[:, :, :, None, None]).flatten(0, 1)
    for images in (painted, train.images("color", range(30))):
        bank = FeatureBank(extractor.size, seed=2024)
        bank.update(extractor((images * 255).round() / 255), torch.arange(len(images)))
        banks.append(bank)
    report = distribution_report(*banks)
    assert values["fid_clean"] == pytest.approx(report["fid"], rel=1e-4)
    assert values["precision"] == report["precision"] and values["recall"] == report["recall"]
    assert values["kid_mean"] == pytest.approx(report["kid_mean"], rel=1e-4)


def test_the_frechet_distance_is_named_by_its_protocol(data: ColorizedDigits) -> None:
    assert "fid_stargan2" in measured(data, fid="stargan2").directions["color->gray"]["none"]


def test_symmetric_rules_give_gray_a_style_and_that_is_noticed(data: ColorizedDigits, tmp_path: Path) -> None:
    found = measured(data, Painter(data.domains, ManyToOne.symmetric()))
    assert set(found.directions["color->gray"]) == {"latent", "reference"}
    assert found.directions["color->gray"]["latent"]["style_independent"] is False
    assert found.directions["color->gray"]["reference"]["style_independent"] is False
    kept = tmp_path / "cache" / "m2o_fast" / "statistics"
    assert len(list(kept.iterdir())) == 2  # of each domain, though both have 3 channels now


# --- what must not matter ---


def same(first: Found, second: Found) -> None:
    assert list(first.directions) == list(second.directions) == ["color->gray", "gray->color"]
    for direction, guidances in first.directions.items():
        for guidance, values in guidances.items():
            assert second.directions[direction][guidance] == pytest.approx(values, rel=1e-6, abs=1e-12)
    assert second.details["gray->color"] == first.details["gray->color"]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batches_do_not_matter(data: ColorizedDigits, batch_size: int) -> None:
    same(measured(data), measured(data, batch_size=batch_size))


def evaluated_together(out: str) -> int:
    """What each of several processes does."""
    data = squares(COUNT)
    painter, options = Painter(data.domains).know(data), Options(outputs_per_source=MANY, batch_size=7)
    with joined_processes() as processes:
        found = Evaluation(
            painter,
            data,
            lambda: squares(30, "train"),
            options,
            extractor=mean_color_extractor(),
            processes=processes,
        ).run()
        if processes.leads:
            Path(out).write_text(json.dumps([found.directions, found.details, found.warnings]))
    return 0


@pytest.mark.parametrize("count", [2, 3])
def test_processes_do_not_matter(data: ColorizedDigits, tmp_path: Path, count: int) -> None:
    outcomes = together(count, tmp_path, evaluated_together, str(tmp_path / "found.json"))
    assert [outcome.code for outcome in outcomes] == [0] * count, outcomes[0].errors + outcomes[1].errors
    directions, details, warnings = json.loads((tmp_path / "found.json").read_text())
    alone = evaluation(data).run()
    same(alone, Found(directions, details))
    assert warnings == alone.warnings
    worst = details["color->gray"]["worst"]
    assert [entry["index"] for entry in worst] == [entry["index"] for entry in alone.details["color->gray"]["worst"]]


def test_latent_styles_do_not_depend_on_how_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2o_fast.engine.evaluation.styles._BLOCK", 4)
    painter = Painter(squares(2).domains)
    whole = LatentStyles(painter, 1, 0, MANY).rows(range(10))
    assert whole.shape == (10, MANY, 3) and len(whole.flatten(0, 1).unique(dim=0)) == 30
    pieces = LatentStyles(painter, 1, 0, MANY)
    assert torch.equal(torch.cat([pieces.rows(r) for r in (range(3), range(3, 9), range(9, 10))]), whole)
    assert not torch.equal(LatentStyles(painter, 0, 0, MANY).rows(range(10)), whole)


def test_references_come_again_when_there_are_more_sources(data: ColorizedDigits) -> None:
    styles = ReferenceStyles(Painter(data.domains).know(data), data, 0, MANY, batch=7, sources=2 * COUNT)
    rows = styles.rows(range(2 * COUNT))
    assert torch.equal(rows[:COUNT], rows[COUNT:])
    assert all(len(rows[:COUNT, draw].unique(dim=0)) == COUNT for draw in range(MANY))
    assert not torch.equal(rows[:, 0], rows[:, 1])


def test_of_a_part_of_the_sources_only_their_references_are_encoded(data: ColorizedDigits) -> None:
    painter = Painter(data.domains).know(data)
    part = ReferenceStyles(painter, data, 0, MANY, batch=7, sources=2)
    assert painter.encoded <= 2 * MANY
    whole = ReferenceStyles(painter, data, 0, MANY, batch=7, sources=COUNT)
    assert torch.equal(part.rows(range(2)), whole.rows(range(2)))
    assert torch.equal(part.colors(torch.arange(2)), whole.colors(torch.arange(2)))


# --- choices ---


def test_a_part_of_the_sources_is_a_fixed_choice(data: ColorizedDigits) -> None:
    part = evaluation(data, sources=5)
    assert len(part.sources(0)) == 5 and torch.equal(part.sources(0), part.sources(1))
    assert torch.equal(part.sources(0), evaluation(data, sources=5).sources(0))
    assert torch.equal(evaluation(data, sources=99).sources(0), torch.arange(COUNT))
    chosen = part.sources(0)
    errors = (chosen.double() * 2 / 255) ** 2
    assert part.run().directions["color->gray"]["none"]["mse"] == pytest.approx(errors.mean().item(), rel=1e-6)


def test_the_second_run_does_not_look_at_real_images_again(data: ColorizedDigits, tmp_path: Path) -> None:
    PASSED.clear()
    first = measured(data)
    made = 2 * MANY * COUNT + COUNT  # both guidances into colour, one image each into gray
    assert sum(PASSED[1:]) == made + 2 * 30  # the first call is the extractor's own try
    PASSED.clear()
    second = measured(data)
    assert sum(PASSED[1:]) == made
    same(first, second)
    kept = sorted((tmp_path / "cache" / "m2o_fast" / "statistics").iterdir())
    assert len(kept) == 2
    kept[0].write_bytes(b"damaged")
    PASSED.clear()
    same(first, measured(data))
    assert sum(PASSED[1:]) == made + 30


def test_statistics_of_other_data_are_not_mixed_up(data: ColorizedDigits) -> None:
    first = measured(data).directions["color->gray"]["none"]
    other = Evaluation(
        Painter(data.domains).know(data),
        data,
        lambda: squares(31, "train"),
        Options(outputs_per_source=MANY),
        extractor=mean_color_extractor(),
    )
    assert other.run().directions["color->gray"]["none"]["fid_clean"] != first["fid_clean"]


def test_images_that_are_not_finite_are_named(data: ColorizedDigits) -> None:
    class Broken(Painter):
        def translate(self, x, source, target, *, style=None, reference=None):
            result = super().translate(x, source, target, style=style)
            result[x[:, 0, 0, 0] > 0.2 - 1] *= torch.nan
            return result

    with pytest.raises(
        UserError,
        match=r"gray->color: translations of 7 images \(numbers 13, 14, 15, 16, 17, and 2 more\) are not finite",
    ):
        measured(data, Broken(data.domains))


@pytest.mark.parametrize("wrong", [{"sources": 0}, {"guidance": "style"}, {"fid": "tf"}, {"batch_size": -1}])
def test_wrong_options_are_worded(wrong: dict[str, object]) -> None:
    name = "--" + next(iter(wrong)).replace("_", "-")
    with pytest.raises(UserError, match=name):
        Options(**wrong)  # type: ignore[arg-type]


# --- parts ---


def test_worst_are_found_across_updates_and_equal_ones_by_number() -> None:
    worst, other = Worst(), Worst()
    worst.update(torch.tensor([5, 3, 9]), torch.tensor([0.5, 0.5, 2.0], dtype=torch.float64))
    other.update(torch.arange(100, 120), torch.full((20,), 0.25, dtype=torch.float64))
    worst.merge_state(other.state())
    assert [entry["index"] for entry in worst.named("mse")] == [9, 3, 5, *range(100, 113)]


def test_one_changed_bit_is_a_dependence_on_style() -> None:
    first = torch.rand(4, 1, 2, 2)

    def holds(second: torch.Tensor) -> object:
        measure = StyleIndependence()
        exact = torch.stack((first, second), dim=1)
        measure.update(Outputs(torch.arange(4), torch.arange(4), exact, exact[:, :1]))
        other = StyleIndependence()
        other.merge_state(measure.state())
        return other.values()["style_independent"]

    changed = first.clone()
    changed[3, 0, 1, 1] = torch.nextafter(changed[3, 0, 1, 1], torch.tensor(2.0))
    assert holds(first) is True and holds(changed) is False
    first = torch.zeros(4, 1, 2, 2)
    assert holds(-first) is False
    first = first / 0
    assert holds(first.clone()) is True


def test_means_are_unweighted_and_of_numbers_alone() -> None:
    directions = {
        "a->b": {"latent": {"fid": 1.0, "n": 2}, "reference": {"fid": 5.0}},
        "b->a": {"latent": {"fid": 4.0}},
        "a->c": {"none": {"same": True, "mse": 0.5}},
    }
    assert means(directions) == {
        "latent": {"fid": 2.5, "n": 2.0},
        "reference": {"fid": 5.0},
        "none": {"mse": 0.5},
    }


def test_what_json_cannot_hold_is_left_out_and_named() -> None:
    warnings: list[str] = []
    assert finite({"a": 1.0, "b": float("inf"), "c": True}, "x->y", warnings) == {"a": 1.0, "c": True}
    assert warnings == ["x->y: b is inf and left out"]


def test_progress_tells_how_long_the_rest_will_take(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 20))  # seconds: 20 pass between two looks at it
    monkeypatch.setattr("m2o_fast.engine.evaluation.progress.time.perf_counter", lambda: next(clock))
    for show in (True, False):
        meter = Meter(show=show)
        meter.expect(40)
        with meter.stage("a -> b", 20) as advance:
            advance(10)
            advance(10)
        with meter.stage("b -> a", 20) as advance:
            advance(20)
        out, err = capsys.readouterr()
        assert out == ""
        lines = err.splitlines()
        assert [line.partition(" images")[0] for line in lines] == [
            "a -> b: 10 of 20",
            "a -> b: 20",
            "b -> a: 20",
        ] * show
        assert all("left" in line for line in lines[:2]) and "left" not in "".join(lines[2:])


def test_default_batches_shrink_with_the_images() -> None:
    sizes = [Options().batch(size, torch.device("cpu")) for size in (SIDE, 32, 64, 256, 1024)]
    assert sizes == [800, 200, 50, 3, 1]
    assert dataclasses.replace(Options(), batch_size=5).batch(256, torch.device("cpu")) == 5
