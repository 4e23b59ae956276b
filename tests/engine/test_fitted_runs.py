"""``data.fit`` and ``data.crop_law`` through the engine: a run trains, draws, is measured and goes on with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from folder_files import color_of, gray_of, write
from PIL import Image
from tiny import tiny_config

from m2o_fast.cli import main
from m2o_fast.data import Augment, open_dataset
from m2o_fast.data.images import to_pillow
from m2o_fast.engine.build import open_split
from m2o_fast.engine.checkpoint import newest_checkpoint
from m2o_fast.engine.config import dump_config, load_config
from m2o_fast.engine.evaluate import evaluate_run
from m2o_fast.engine.evaluation.options import Options
from m2o_fast.engine.loop import train
from m2o_fast.engine.runs import fit_of
from m2o_fast.engine.samples import SampleGrid
from m2o_fast.engine.trainer import Trainer
from m2o_fast.errors import UserError

SIZE = 32


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for split in ("train", "val"):
        for number in range(4):
            write(tmp_path / "own" / split / "photo" / f"{number}.png", color_of(number, 30)[:20])
            write(tmp_path / "own" / split / "sketch" / f"{number}.png", gray_of(number, 30)[:20])
    return tmp_path / "own"


def settings(own: Path) -> tuple[str, ...]:
    return (f"data.name=folder:{own}", "data.uni=[sketch]", f"data.image_size={SIZE}", "checkpoint_every=1")


def test_a_run_has_one_fit(own: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_config(*settings(own), "data.fit=crop", "steps=1"), run, quiet=True)
    options = {"data_dir": own, "image_size": SIZE, "uni": ["sketch"]}
    cropped, stretched = (
        {split: open_dataset("folder", split=split, fit=fit, **options) for split in ("train", "test")}
        for fit in ("crop", "stretch")
    )
    _, manifest, _ = newest_checkpoint(run)
    assert manifest["data"] == cropped["train"].fingerprint != stretched["train"].fingerprint
    measured = evaluate_run(run, Options(extractor="none", outputs_per_source=1))
    assert measured["protocol"]["data_fingerprint"] == cropped["test"].fingerprint
    assert list((run / "evaluation").iterdir()), "its own data: it is kept"
    again = tiny_config(*settings(own), "data.fit=pad", "steps=2")
    with pytest.raises(UserError, match="data.fit: 'crop' -> 'pad'"):
        train(again, run, "auto", quiet=True)


def test_batches_and_sample_grids_hold_fitted_images(own: Path) -> None:
    config = tiny_config(*settings(own), "data.fit=crop", "data.crop_probability=0", "data.flip_probability=0")
    trainer = Trainer(config, Path("nowhere"))
    options = {"data_dir": own, "image_size": SIZE, "uni": ["sketch"], "fit": "crop"}
    grid = SampleGrid(open_split(config, "test"), trainer.averaged, 7).translate(trainer.averaged)
    for split, found in (("train", trainer.batch(0)[0].source[0]), ("test", grid[0, 1]["source"])):
        wanted = open_dataset("folder", split=split, **options).images("photo", range(4)) * 2 - 1
        assert len(found) and all(any(torch.allclose(image, other) for other in wanted) for image in found), split


@pytest.mark.parametrize(("system", "law"), [("starganv2", "resized"), ("pix2pix", "jitter"), ("cyclegan", "jitter")])
def test_recipes_for_own_images_crop_as_published(own: Path, system: str, law: str) -> None:
    config = load_config(overrides={"data.name": f"folder:{own}", "system": system})
    expected = (0.5 if law == "resized" else 1.0, 0.5, law)
    assert (config.data.crop_probability, config.data.flip_probability, config.data.crop_law) == expected


def test_batches_are_cropped_by_the_law_of_the_settings(own: Path) -> None:
    for law in ("resized", "jitter"):
        config = tiny_config(*settings(own), f"data.crop_law={law}", "data.crop_probability=0.5")
        batches = Trainer(config, Path("nowhere")).batches
        assert batches.samplers[0].augment == Augment(0.5, config.data.flip_probability, law)


def test_a_run_of_before_is_stretched(tmp_path: Path, own: Path) -> None:
    text = dump_config(tiny_config(*settings(own)))
    for line in ("  fit: stretch\n", "  crop_law: resized\n"):
        assert line in text
        text = text.replace(line, "")
    (tmp_path / "config.yaml").write_text(text)
    assert load_config(tmp_path / "config.yaml") == tiny_config(*settings(own))


@pytest.mark.parametrize(("fit", "said"), [("stretch", "stretched to"), ("crop", "cut to the"), ("pad", "padded to")])
def test_translations_are_of_squares_as_in_training(
    fit: str, said: str, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command: a photograph is translated as what training sees of it; a warning says what became of it."""
    train(tiny_config(*settings(own), f"data.fit={fit}", "steps=1"), tmp_path / "run", quiet=True)
    data = open_dataset("folder", split="train", data_dir=own, image_size=SIZE, uni=["sketch"], fit=fit)
    to_pillow(data.images("photo", [0]) * 2 - 1).save(tmp_path / "square.png")
    made = []
    for file in (own / "train" / "photo" / "0.png", tmp_path / "square.png"):
        out = tmp_path / f"{file.stem}-out.png"
        assert main(["translate", str(file), "--run", str(tmp_path / "run"), "--to", "sketch", "--out", str(out)]) == 0
        made.append(np.asarray(Image.open(out)))
        assert (f"1 of 1 images not square: {said}" in capsys.readouterr().err) == (file.stem == "0")
    assert np.array_equal(*made)


def test_the_fit_of_a_run_is_found_from_inside_it(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tiny_config(*settings(own), "data.fit=pad", "steps=1"), tmp_path / "run", quiet=True)
    checkpoint = newest_checkpoint(tmp_path / "run")[0]
    monkeypatch.chdir(checkpoint.parent)
    assert fit_of(Path(checkpoint.name)) == "pad"
    monkeypatch.chdir(checkpoint)
    assert fit_of(Path()) == "pad"
    (tmp_path / "best").symlink_to(checkpoint)
    assert fit_of(tmp_path / "best") == "pad"
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "elsewhere")
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    assert fit_of(checkpoint) == "pad"
