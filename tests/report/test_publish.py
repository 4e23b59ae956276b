"""A run as a published model: its card, numbers, picture and example."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from published import DOMAINS, published_model
from small import small_config
from tiny import tiny_config, tiny_digits

import m2o_fast
from m2o_fast.cli import main
from m2o_fast.engine.build import build_translator
from m2o_fast.engine.checkpoint import save_translator
from m2o_fast.engine.convert import convert_checkpoint, write_published
from m2o_fast.engine.loop import train
from m2o_fast.engine.runs import fit_of
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.report.publish import publish
from m2o_fast.translators import NAMES, system


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_model(tmp_path_factory.mktemp("published"))


@pytest.mark.parametrize("name", NAMES)
def test_every_system_is_published_and_loaded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the example of its card runs."""
    variant = list(system(name).variants)[-1]
    translator = build_translator(small_config([f"system={name}", f"variant={variant}"]), DOMAINS).eval()
    save_translator(translator, tmp_path / "checkpoint")
    folder = publish(tmp_path / "checkpoint", tmp_path / "model", "cc-by-4.0")
    loaded = m2o_fast.load(folder, "cpu")
    assert not loaded.training and loaded.describe() == translator.describe()
    for key, tensor in translator.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    card = (folder / "README.md").read_text()
    assert 'license: "cc-by-4.0"\n' in card and "Not measured." in card and "converted" not in card
    assert f"tags: [image-to-image, many-to-one, {name}, {variant}]" in card
    run_example(folder, tmp_path, monkeypatch)


def run_example(model: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    """What the example of a card makes, the folder in the place of the hub's name."""
    code = (model / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(place)
    Image.new("L", (32, 32), 3).save("image.png")  # gray, or a class
    exec(compile(code.replace(f"hf:ORG/{model.name}", str(model)), "card", "exec"), {})
    return Image.open("out.png")


def test_the_example_of_label_maps_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have as many channels as classes; of several sources, one is named."""
    domains = (Domain("labels", channels=5, kind="onehot", multimodal=False), Domain("scene"), Domain("photo"))
    for number, some in enumerate([domains[:2], domains]):
        translator = build_translator(small_config(["system=starganv2", "variant=hms"]), some).eval()
        save_translator(translator, tmp_path / f"checkpoint-{number}")
        folder = publish(tmp_path / f"checkpoint-{number}", tmp_path / f"model-{number}", "mit")
        with monkeypatch.context() as patch:
            assert run_example(folder, tmp_path, patch).size == (32, 32)
        assert ('source="' in (folder / "README.md").read_text()) == (number == 1)


@pytest.mark.parametrize("name", NAMES)
def test_rules_tell_the_variant(name: str) -> None:
    for variant in system(name).variants:
        config = small_config([f"system={name}", f"variant={variant}"])
        assert system(name).variant_of(config.rules) == variant
    assert system(name).variant_of(ManyToOne(zero_style=False)) is None


def test_converted_weights_are_said_to_be(tmp_path: Path) -> None:
    domains = tuple(Domain(name) for name in "ab")
    translator = build_translator(small_config(["system=cyclegan", "variant=plain"]), domains).eval()
    save_translator(translator, tmp_path / "run")
    files = {path.stem.partition("net_")[2]: path for path in write_published(tmp_path / "run", tmp_path / "official")}
    convert_checkpoint("cyclegan", files, tmp_path / "back")
    card = (publish(tmp_path / "back", tmp_path / "model", "mit") / "README.md").read_text()
    assert "converted from published ones of layout cyclegan" in card and "steps" not in card
    assert "- The weights were converted from elsewhere" in card


def test_a_run_is_published_with_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)
    train(tiny_config("variant=hms", "data.fit=pad"), tmp_path / "run")
    report = {"format": 1, "step": 8, "protocol": {"sources": 6}}
    report["directions"] = {"color->gray": {"none": {"mse": 0.25}}, "gray->color": {"latent": {"color_recall": 0.5}}}
    (tmp_path / "run" / "evaluation").mkdir()
    (tmp_path / "run" / "evaluation" / "step-00000008.json").write_text(json.dumps(report))
    words = ["publish", str(tmp_path / "run"), "--out", str(tmp_path / "model"), "--license", "mit"]
    assert main(words) == 0
    assert capsys.readouterr().out.endswith("model: README.md, config.json, model.safetensors, samples.png\n")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| color \N{RIGHTWARDS ARROW} gray | 0.25 |" in card and "| gray \N{RIGHTWARDS ARROW} color | 0.5 |" in card
    assert "Protocol: sources 6." in card and "8 steps" in card and "![" in card
    assert fit_of(tmp_path / "model") == "pad"
    averaged = m2o_fast.load(tmp_path / "run", "cpu").state_dict()
    assert all(map(torch.equal, m2o_fast.load(tmp_path / "model", "cpu").state_dict().values(), averaged.values()))
    assert main(words) == 2
    assert "model exists already" in capsys.readouterr().err


def test_picture_and_numbers_are_of_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of the newest one; a checkpoint that was copied out of its run has neither."""
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)
    run = tmp_path / "run"
    train(tiny_config("variant=hmu"), run)
    (run / "evaluation").mkdir()
    for step in (4, 8):
        report = {"format": 1, "step": step, "directions": {"color->gray": {"none": {"mse": step / 100}}}}
        (run / "evaluation" / f"step-{step:08d}.json").write_text(json.dumps(report))
    shutil.copytree(run / "checkpoints" / "step-00000004", tmp_path / "alone")
    for step in (4, 6, 8):
        folder = publish(run, tmp_path / f"model-{step}", "mit", f"step-{step:08d}")
        card, picture = (folder / "README.md").read_text(), folder / "samples.png"
        assert "# HMU: " in card and f"{step} steps" in card
        assert ("Not measured." in card) == (step == 6) and (f"| 0.0{step} |" in card) == (step != 6)
        assert picture.is_file() == ("![" in card) == (step != 6)
        if step != 6:
            assert picture.read_bytes() == (run / "samples" / f"step-{step:08d}.png").read_bytes()
    card = (publish(tmp_path / "alone", tmp_path / "model", "mit") / "README.md").read_text()
    assert "# HMU: " in card and "4 steps" in card and "Not measured." in card and "![" not in card
    assert "converted" not in card


def test_licence_and_other_options_are_looked_at(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="licence 'a\\\\nb': give its name"):
        publish(model.parent / "checkpoint", tmp_path / "m", "a\nb")
    for truth in ("1e3", "\u00e9", "A"):
        with pytest.raises(UserError, match="give its name as the hub has it"):
            publish(model.parent / "checkpoint", tmp_path / "m", truth)
    assert 'license: "no"\n' in (publish(model.parent / "checkpoint", tmp_path / 'a"b', "no") / "README.md").read_text()
    assert "hf:ORG/NAME" in (tmp_path / 'a"b' / "README.md").read_text()
    with pytest.raises(UserError, match="only a model on the hub has revisions"):
        m2o_fast.load(model, "cpu", revision="main")
    with pytest.raises(UserError, match="a published model, without other checkpoints"):
        m2o_fast.load(model, "cpu", "best")


def test_a_sample_grid_that_is_no_image_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)
    train(tiny_config("variant=hms", "steps=4"), tmp_path / "run")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "run" / "samples" / "step-00000004.png").unlink()
    (tmp_path / "run" / "samples" / "step-00000004.png").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="step-00000004.png: not an image"):
        publish(tmp_path / "run", tmp_path / "model", "mit")
    assert not (tmp_path / "model").exists()
