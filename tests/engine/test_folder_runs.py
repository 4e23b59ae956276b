"""Own images from the command line to a resumed run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from folder_files import gray_of, write, write_folder
from PIL import Image
from tiny import contents, tiny_config

from m2o_fast.cli import main
from m2o_fast.engine.config import ConfigError, load_config
from m2o_fast.engine.evaluate import evaluate_run
from m2o_fast.engine.evaluation.options import Options
from m2o_fast.engine.loop import train
from m2o_fast.engine.pace import dry_run
from m2o_fast.engine.schema import Config
from m2o_fast.errors import UserError
from m2o_fast.report import write_report


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def config_of(root: Path, *assignments: str, uni: str = "data.uni=[sketch]") -> Config:
    every = ("checkpoint_every=2", "sample_every=2", "data.image_size=32")
    return tiny_config(f"data.name=folder:{root}", uni, *every, *assignments)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """More photos than sketches, of which the sample grid shows fewer than a row."""
    return write_folder(tmp_path / "d", photos=range(11), sketches=range(5))


@pytest.mark.parametrize("variant", ["hms", pytest.param("starganv2", marks=pytest.mark.slow)])
def test_a_run_goes_on_with_the_same_bytes(root: Path, tmp_path: Path, variant: str) -> None:
    settings = (f"variant={variant}", "data.crop_probability=0.5", "data.flip_probability=0.5")
    train(config_of(root, *settings, "steps=4"), tmp_path / "whole", quiet=True)
    train(config_of(root, *settings, "steps=2"), tmp_path / "parts", quiet=True)
    moved = root.rename(tmp_path / "moved")
    train(config_of(moved, *settings, "steps=4", "data.cache=false"), tmp_path / "parts", "auto", quiet=True)
    whole, parts = contents(tmp_path / "whole"), contents(tmp_path / "parts")
    assert [name for name in whole if whole[name] != parts.get(name)] == ["config.yaml"]
    assert np.asarray(Image.open(tmp_path / "whole" / "samples" / "step-00000004.png")).std() > 1


def test_the_supervised_loss_sees_the_pairs(root: Path, tmp_path: Path) -> None:
    train(config_of(root, "steps=4"), tmp_path / "run", quiet=True)
    losses = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(loss["generator_latent/supervised"] for loss in losses) > 0


def test_the_plan_counts_each_domain(root: Path) -> None:
    result = dry_run(config_of(root))
    assert result is not None and result["plan"]["images"] == {"photo": 11, "sketch": 5}
    assert result["lines"][0] == (
        f"hms on folder:{root}: 11 photo and 5 sketch images, 8 steps; batch 4 = 1 process x 4"
    )


def test_without_pairs_hms_says_what_to_do(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", photos=range(4), sketches=range(10, 14))
    ways = r"--uni \(data.uni\) .* name, .* subfolder .* pairs.csv.* with variant 'hmu'"
    with pytest.raises(UserError, match=rf"'hms' learns from known pairs, but the data has none: {ways}"):
        train(config_of(root), tmp_path / "a", quiet=True)
    train(config_of(root, "variant=hmu", "steps=1"), tmp_path / "b", quiet=True)


@pytest.mark.parametrize("variant", ["hms", "hmu"])
def test_without_uni_modal_domains_the_variants_say_what_to_do(root: Path, tmp_path: Path, variant: str) -> None:
    with pytest.raises(UserError, match=rf"{variant!r} is for .* photo, sketch are all multi-modal; .* --uni DOMAIN"):
        train(config_of(root, f"variant={variant}", uni="data.uni=[]"), tmp_path / "a", quiet=True)
    with pytest.raises(UserError, match=r"photo, sketch are all uni-modal; name fewer of them"):
        train(config_of(root, f"variant={variant}", uni="data.uni=[photo,sketch]"), tmp_path / "b", quiet=True)
    train(config_of(root, "variant=starganv2", "steps=1", uni="data.uni=[]"), tmp_path / "c", quiet=True)


def test_other_images_are_warned_of_when_a_run_goes_on(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config_of(root, "steps=1"), tmp_path / "run", quiet=True)
    train(config_of(root, "steps=2"), tmp_path / "run", "auto", quiet=True)
    assert capsys.readouterr().err == ""
    write(root / "train" / "sketch" / "1.bmp", gray_of(99))
    train(config_of(root, "steps=3"), tmp_path / "run", "auto", quiet=True)
    assert "warning: the training images are not those that this run was begun with" in capsys.readouterr().err


def test_the_command_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["model.base_width=4", "model.max_width=8", "model.hidden_dim=8", "data.image_size=32", "device=cpu"]
    words = ["train", "--data", f"folder:{root}", "--uni", "sketch", "--steps", "1", "--batch-size", "4"]
    words += [word for size in sizes for word in ("--set", size)]
    assert main([*words, "--run", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"decoding 11 images of {root / 'train' / 'photo'}" in lines and lines[-1].startswith("Done: 1 steps")
    assert any(line.startswith(f"hms on folder:{root}: 11 photo and 5 sketch images, 1 steps") for line in lines)
    assert main([*words, "--run", str(tmp_path / "again"), "--no-cache"]) == 0
    assert "into memory" in capsys.readouterr().out
    assert main([*words[:3], "--run", str(tmp_path / "c"), "--uni", "sketsh"]) == 2
    assert capsys.readouterr().err.startswith("m2o-fast: error: --uni (data.uni) names no domain: 'sketsh'; nearest")


def test_a_run_does_not_go_on_with_other_domains(root: Path, tmp_path: Path) -> None:
    """Nets know domains by number: another name may mean another number, and weights would change places."""
    for split in ("train", "val"):
        shutil.copytree(root / split / "photo", root / split / "art")
    train(config_of(root, "steps=1"), tmp_path / "run", quiet=True)
    for split in ("train", "val"):
        (root / split / "art").rename(root / split / "scan")
    with pytest.raises(UserError, match=r"holds nets for art \(.*, but the data has photo \(.*, scan \(.*, sketch"):
        train(config_of(root, "steps=2"), tmp_path / "run", "auto", quiet=True)


def test_a_dry_run_of_a_folder_with_lines_in_its_name(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = root.rename(tmp_path / "odd\nsteps: 7")
    sizes = ["model.base_width=4", "model.max_width=8", "model.hidden_dim=8", "data.image_size=32", "device=cpu"]
    words = ["train", "--data", f"folder:{odd}", "--uni", "sketch", "--batch-size", "4", "--dry-run"]
    assert main([*words, *(word for size in sizes for word in ("--set", size))]) == 0
    (tmp_path / "my.yaml").write_text(capsys.readouterr().out)
    config = load_config(tmp_path / "my.yaml")
    assert config.data.dir == str(odd) and config.steps != 7


def test_one_folder_is_given_once(root: Path) -> None:
    with pytest.raises(ConfigError, match="given twice in the options"):
        load_config(overrides={"data.name": f"folder:{root}", "data.dir": "elsewhere"})
    assert load_config(None, {"data.name": f"folder:{root}"}, ["data.dir=elsewhere"]).data.dir == "elsewhere"


def test_a_folder_without_a_name_is_none() -> None:
    with pytest.raises(ConfigError, match="^data.name = 'folder:' in the options: names no folder; write folder:DIR$"):
        load_config(overrides={"data.name": "folder:"})


def test_a_folder_of_the_same_name_elsewhere_is_not_taken_for_the_run_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write_folder(ours / "data", photos=range(6), sketches=range(6))
    write_folder(theirs / "data", photos=range(20, 26), sketches=range(20, 26))
    monkeypatch.chdir(ours)
    train(config_of(Path("data"), "steps=2"), Path("run"), quiet=True)
    assert load_config("run/config.yaml").data.dir == str(ours / "data")
    monkeypatch.chdir(theirs)
    run = Path("../ours/run")
    options = Options(outputs_per_source=2)
    own = evaluate_run(run, options)
    kept = (run / "evaluation" / "step-00000002.json").read_bytes()
    assert json.loads(kept)["directions"] == own["directions"]

    text = (run / "config.yaml").read_text()  # as runs kept it before
    (run / "config.yaml").write_text(text.replace(str(ours / "data"), "data"))
    with pytest.raises(UserError, match="the test images of .folder. in data are not those that .*ours/run was begun"):
        evaluate_run(run, options)
    assert "are not those that ../ours/run was begun with" in write_report([run]).read_text()
    assert evaluate_run(run, options, data_dir=str(theirs / "data"))["directions"] != own["directions"]
    assert (run / "evaluation" / "step-00000002.json").read_bytes() == kept
    assert evaluate_run(run, options, data_dir=str(ours / "data"))["directions"] == own["directions"]
