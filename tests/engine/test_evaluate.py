"""Evaluation of a run: every direction, the file it leaves, nothing that depends on how it was computed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import together
from tiny import IMAGES, tiny_config

from m2o_fast.data import ColorizedDigits
from m2o_fast.engine.build import open_split
from m2o_fast.engine.evaluate import evaluate_run
from m2o_fast.engine.evaluation.options import Options
from m2o_fast.engine.evaluation.styles import LatentStyles
from m2o_fast.engine.evaluation.translations import Evaluation
from m2o_fast.engine.loop import train
from m2o_fast.engine.runs import load_translator
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.metrics.diversity import Lpips
from m2o_fast.translators.starganv2.translator import StarGANv2

COLORS = {"color_recall", "color_recall_ceiling", "coverage", "unique_colors", "content_mse"}
PICTURES = {
    "pixel_variety",
    "structure_variety",
    "pixel_color_recall",
    "pixel_color_recall_ceiling",
    "cycle_mse",
    "content_kept",
}
FEATURES = {"fid_clean", "kid_mean", "kid_std", "precision", "recall"}
TWO = Options(outputs_per_source=2, extractor="module:fakes.mean_colors")

pytestmark = pytest.mark.usefixtures("tiny_data")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        from tiny import tiny_digits

        patch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)
        train(tiny_config("steps=2"), folder, quiet=True)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def unclocked(report: dict[str, Any]) -> dict[str, Any]:
    """A report without what the clock says."""
    return {name: value for name, value in report.items() if name != "cost"}


# --- the report ---


def test_features_of_the_runs_own_images(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("m2o_fast.metrics.own_net._STEPS", 2)
    options = Options(outputs_per_source=2, extractor="own", guidance="latent")
    result = evaluate_run(run, options, quiet=False)
    assert capsys.readouterr().err.count("training the extractor own on images of color and gray") == 1
    assert evaluate_run(run, options, quiet=False)["directions"] == result["directions"]
    assert "training" not in capsys.readouterr().err
    assert result["protocol"]["extractor"].startswith("own (") and result["protocol"]["features"] == 64
    assert result["directions"]["gray->color"]["latent"]["fid_clean"] > 0


def test_report_has_every_direction_and_the_protocol(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StarGANv2, "evaluations", lambda self, target: 1 + target)
    result = evaluate_run(run, TWO)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["format"] == 1 and result["step"] == 2 and result["run"] == str(run)
    assert list(result["directions"]) == ["color->gray", "gray->color"]
    assert set(result["directions"]["color->gray"]) == {"none"}
    assert set(result["directions"]["gray->color"]) == {"latent", "reference"}
    assert set(result["directions"]["gray->color"]["latent"]) == COLORS | PICTURES | FEATURES
    assert set(result["directions"]["gray->color"]["reference"]) == COLORS | PICTURES | FEATURES | {
        "references_followed"
    }
    assert set(result["directions"]["color->gray"]["none"]) == {"mse", "psnr", "ssim", "style_independent"} | FEATURES
    assert result["means"]["none"]["mse"] == result["directions"]["color->gray"]["none"]["mse"]
    assert "style_independent" not in result["means"]["none"]
    assert len(result["details"]["gray->color"]["color_histogram"]["real"]) == 64
    assert sum(result["details"]["gray->color"]["color_histogram"]["real"]) == 2 * IMAGES
    assert len(result["details"]["color->gray"]["worst"]) == IMAGES
    protocol = result["protocol"]
    assert protocol["sources"] == IMAGES and protocol["outputs_per_source"] == 2 and protocol["weights"] == "EMA"
    assert protocol["extractor"] == "module:fakes.mean_colors" and len(protocol["extractor_sha256"]) == 64
    assert protocol["resize"] == "none" and protocol["real_images"] == IMAGES
    assert result["cost"].keys() == {"function_evaluations", "images_per_second"}
    assert result["cost"]["function_evaluations"] == "color 1, gray 2" and result["cost"]["images_per_second"] > 0
    assert all(isinstance(value, str | int | float | bool) for value in protocol.values())
    assert any("fewer than" in warning or "images for" in warning for warning in result["warnings"])


def test_report_is_kept_in_the_run_and_replaced_only_at_its_step(run: Path) -> None:
    kept = run / "evaluation" / "step-00000002.json"
    first = evaluate_run(run, TWO)
    assert json.loads(kept.read_text()) == first
    other = run / "evaluation" / "step-00000001.json"
    other.write_text("of another step")
    second = evaluate_run(run, Options(outputs_per_source=1, extractor="none"))
    assert json.loads(kept.read_text()) == second != first
    assert other.read_text() == "of another step" and len(list(kept.parent.iterdir())) == 2


def test_a_part_of_the_sources_does_not_replace_all_of_them(run: Path) -> None:
    kept = run / "evaluation" / "step-00000002.json"
    part, whole = (Options(outputs_per_source=1, extractor="none", sources=count) for count in (2, None))
    assert json.loads(json.dumps(evaluate_run(run, part))) == json.loads(kept.read_text())
    everything = evaluate_run(run, whole)
    assert json.loads(kept.read_text()) == everything
    evaluate_run(run, part)
    assert json.loads(kept.read_text()) == everything


def test_a_run_that_cannot_be_written_is_measured_all_the_same(run: Path) -> None:
    (run / "evaluation").write_text("in the way")
    with pytest.warns(RuntimeWarning, match="was not kept"):
        assert evaluate_run(run, Options(extractor="none", outputs_per_source=1))["step"] == 2


def test_mse_is_that_of_the_averaged_nets(run: Path) -> None:
    data, translator = open_split(tiny_config(), "test"), load_translator(run)
    rows = range(IMAGES)
    outputs = (translator.translate(data.images("color", rows) * 2 - 1, "color", "gray") + 1) / 2
    expected = (outputs.clamp(0, 1).double() - data.content(rows).double()).square().mean().item()
    values = evaluate_run(run, Options(extractor="none"))["directions"]["color->gray"]["none"]
    assert values["mse"] == pytest.approx(expected, rel=1e-6)


def test_every_pair_is_known_to_an_evaluation(tmp_path: Path) -> None:
    train(tiny_config("steps=1", "data.pair_fraction=0.5"), tmp_path / "half", quiet=True)
    result = evaluate_run(tmp_path / "half", Options(extractor="none", outputs_per_source=1))
    assert len(result["details"]["color->gray"]["worst"]) == IMAGES


@pytest.mark.parametrize("batch_size", [1, 4])
def test_batch_size_does_not_matter(run: Path, batch_size: int) -> None:
    whole = evaluate_run(run, Options(extractor="none", outputs_per_source=3))["directions"]
    parts = evaluate_run(run, Options(extractor="none", outputs_per_source=3, batch_size=batch_size))["directions"]
    for direction, guidances in whole.items():
        for guidance, values in guidances.items():
            assert parts[direction][guidance] == pytest.approx(values, rel=1e-5)


@pytest.mark.parametrize(("variant", "independent"), [("starganv2", False), ("hmu", True)])
def test_style_independence_is_measured(variant: str, independent: bool, tmp_path: Path) -> None:
    """The symmetric base model lets the style change gray images; the many-to-one rules do not, not by one bit."""
    train(tiny_config("steps=1", f"variant={variant}"), tmp_path / "run", quiet=True)
    values = evaluate_run(tmp_path / "run", Options(extractor="none", outputs_per_source=1))["directions"][
        "color->gray"
    ]
    assert set(values) == ({"none"} if independent else {"latent", "reference"})
    assert all(measures["style_independent"] is independent for measures in values.values())


def test_an_older_checkpoint_can_be_measured(run: Path) -> None:
    train(tiny_config("steps=4"), run, "auto", quiet=True)
    one = Options(extractor="none", outputs_per_source=1)
    assert evaluate_run(run, one)["step"] == 4
    assert evaluate_run(run, one, checkpoint="step-00000002")["step"] == 2
    assert evaluate_run(run / "checkpoints" / "step-00000002", one)["step"] == 2
    assert len(list((run / "evaluation").iterdir())) == 2
    with pytest.raises(UserError, match="no checkpoint 'step-9'; it has: step-00000002, step-00000004"):
        evaluate_run(run, one, checkpoint="step-9")


def test_styles_are_the_same_in_every_evaluation(run: Path) -> None:
    torch.manual_seed(1)
    first = evaluate_run(run, TWO)
    torch.manual_seed(2)
    assert unclocked(evaluate_run(run, TWO)) == unclocked(first)


def test_a_style_that_leaks_is_noticed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    translate_many = StarGANv2.translate_many

    def leaky(self, x, source, target, styles):
        return translate_many(self, x, source, target, styles) + 1e-3 * styles.mean((0, 2))[:, None, None, None]

    monkeypatch.setattr(StarGANv2, "translate_many", leaky)
    values = evaluate_run(run, Options(extractor="none", outputs_per_source=1))["directions"]["color->gray"]["none"]
    assert values["style_independent"] is False


def test_diversity_is_the_mean_distance_of_pairs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    lpips, data, translator = Lpips(), open_split(tiny_config(), "test"), load_translator(run)
    options = Options(outputs_per_source=3, guidance="latent", batch_size=4)
    found = Evaluation(translator, data, lambda: data, options, lpips=lpips).run()
    styles = LatentStyles(translator, 1, 0, 3).rows(range(IMAGES))
    made = translator.translate_many(data.images("gray", range(IMAGES)) * 2 - 1, 1, 0, styles)
    images = ((made + 1) / 2).clamp(0, 1)
    pairs = [lpips(images[:, i], images[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found.directions["gray->color"]["latent"]["lpips_diversity"] == pytest.approx(
        torch.stack(pairs).mean().item(), rel=1e-4
    )
    assert "lpips_diversity" not in found.directions["color->gray"]["none"]
    with monkeypatch.context() as patch:
        patch.setattr("m2o_fast.engine.evaluate.open_lpips", lambda *_, **__: lpips)
        report = evaluate_run(run, Options(extractor="none", lpips="any", outputs_per_source=1))
    assert any(note.startswith("no lpips_diversity") for note in report["warnings"])
    with pytest.raises(UserError, match="nowhere.pth: no such file"):
        evaluate_run(run, Options(extractor="none", lpips="nowhere.pth"))


# --- several processes ---


def evaluated_together(run: str, out: str) -> int:
    """What each process does."""
    report = evaluate_run(run, TWO, device="cpu", quiet=False)
    if report:
        Path(out).write_text(json.dumps(report))
    return 0


def test_processes_share_the_work_and_one_reports(run: Path, tmp_path: Path) -> None:
    together_kept = tmp_path / "together.json"
    outcomes = together(2, tmp_path, evaluated_together, str(run), str(together_kept))
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[0].errors + outcomes[1].errors
    assert "written to" in outcomes[0].errors and outcomes[1].errors == outcomes[1].said == ""
    shared = json.loads(together_kept.read_text())
    assert shared == json.loads((run / "evaluation" / "step-00000002.json").read_text())
    alone = evaluate_run(run, TWO)
    assert shared["protocol"] == alone["protocol"] and shared["warnings"] == alone["warnings"]
    for direction, guidances in alone["directions"].items():
        for guidance, values in guidances.items():
            # Networks round otherwise in other batches, and features are of 8-bit images; exactly: test_evaluation.py.
            assert shared["directions"][direction][guidance] == pytest.approx(values, rel=1e-3), (direction, guidance)
    worst = [entry["index"] for entry in shared["details"]["color->gray"]["worst"]]
    assert worst == [entry["index"] for entry in alone["details"]["color->gray"]["worst"]]


def test_processes_end_together_when_something_is_wrong(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    outcomes = together(2, tmp_path, evaluated_together, str(run), "nowhere")
    assert "has no checkpoint yet" in outcomes[0].errors
    assert outcomes[1].code == 2 and outcomes[1].errors == ""


# --- refusals ---


def test_data_of_other_domains_are_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Others(ColorizedDigits):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[arg-type]
            self.domains = (Domain("cats", 3), Domain("dogs", 3))

    content = torch.zeros(4, 1, 32, 32, dtype=torch.uint8)
    monkeypatch.setattr(
        "m2o_fast.engine.build.open_dataset",
        lambda name, *, split, **_: Others(content, torch.zeros(4, dtype=torch.int64), split=split),
    )
    with pytest.raises(UserError) as refusal:
        evaluate_run(run, TWO)
    for words in ("color (3 channels, multi-modal)", "gray (1 channel, uni-modal)", "cats (3 channels, multi-modal)"):
        assert words in str(refusal.value)
    assert not (run / "evaluation").exists()


def test_weights_without_a_run_need_data_and_leave_no_file(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "weights" / "step-00000002"
    shutil.copytree(run / "checkpoints" / "step-00000002", alone)
    one = Options(extractor="none", outputs_per_source=1)
    with pytest.raises(UserError, match=r"belongs to no run.*--data"):
        evaluate_run(alone, one)
    report = evaluate_run(alone, one, data="digits")
    expected = evaluate_run(run, one)
    assert report["directions"] == expected["directions"] and report["run"] == str(alone)
    assert not list(tmp_path.glob("weights/**/*.json.part")) and not (tmp_path / "evaluation").exists()


def test_a_link_to_a_checkpoint_is_measured_on_the_data_of_its_run(run: Path, tmp_path: Path) -> None:
    (tmp_path / "best").symlink_to(sorted((run / "checkpoints").iterdir())[-1])
    one = Options(extractor="none", outputs_per_source=1)
    assert evaluate_run(tmp_path / "best", one)["directions"] == evaluate_run(run, one)["directions"]


def test_other_data_than_the_runs_leave_no_file(run: Path) -> None:
    evaluate_run(run, Options(extractor="none", outputs_per_source=1), data="digits")
    assert not (run / "evaluation").exists()
