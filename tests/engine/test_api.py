"""Training and translating from Python: the same as the commands."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folder_files import SIDE, write_folder
from PIL import Image
from small import small_config
from source_tree import ROOT
from tiny import tiny_digits

import m2o_fast
from m2o_fast.cli import main
from m2o_fast.engine.build import build_translator
from m2o_fast.engine.config import load_config
from m2o_fast.engine.runs import CONFIG, load_translator
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.translators.base import Translator

NARROW = {"model.base_width": 4, "model.max_width": 8, "model.hidden_dim": 8, "model.style_dim": 4, "batch_size": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)
        folder = tmp_path_factory.mktemp("api") / "run"
        settings = NARROW | {"data.fit": "pad", "device": "cpu"}
        assert m2o_fast.train(variant="hms", data="digits", steps=1, settings=settings, run=folder) == folder
    return folder


@pytest.fixture(scope="module")
def any_size() -> Translator:
    domains = (Domain("color"), Domain("gray", channels=1, multimodal=False))
    return build_translator(small_config(["system=cyclegan", "variant=hms"]), domains).eval()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_training_is_that_of_the_command(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(run / CONFIG)
    assert (config.variant, config.steps, config.batch_size, config.settings.model.base_width) == ("hms", 1, 4, 4)
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)
    with pytest.raises(UserError, match="exists already|not empty|is a run"):
        m2o_fast.train(run=run, quiet=True)
    assert m2o_fast.train(run=run, resume="auto", steps=2, quiet=True) == run
    assert m2o_fast.load(run, "cpu").describe()["system"] == "starganv2"
    with pytest.raises(UserError, match="unknown key 'optim.lrr'"):
        m2o_fast.train(settings={"optim.lrr": 1})


def test_another_system_on_own_images(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "d")
    settings = dict.fromkeys(load_config(assignments=["system=cyclegan"]).settings.widths(32), 4)
    settings |= {"data.image_size": 32, "model.blocks": 1, "batch_size": 4, "device": "cpu"}
    run = m2o_fast.train(
        system="cyclegan", variant="hms", data=f"folder:{data}", uni=["sketch"], steps=1, settings=settings,
        run=tmp_path / "run", quiet=True,
    )  # fmt: skip
    translator = m2o_fast.load(run, "cpu")
    assert translator.describe()["system"] == "cyclegan"
    assert [(domain.name, domain.multimodal) for domain in translator.domains] == [("photo", True), ("sketch", False)]
    made = m2o_fast.translate(run, data / "val" / "photo" / "1.png", to="sketch")
    assert isinstance(made, Image.Image) and made.size == (SIDE, SIDE)


@pytest.mark.parametrize("words", [["--seed", "3"], ["--seed", "3", "--keep-size"], ["--psi", "0.5"]])
def test_translations_are_those_of_the_command(run: Path, photo: Path, tmp_path: Path, words: list[str]) -> None:
    gray = tmp_path / "gray.png"
    Image.open(photo).convert("L").save(gray)
    out = tmp_path / "out.png"
    assert main(["translate", str(gray), "--run", str(run), "--to", "color", "--out", str(out), *words]) == 0
    seed, psi = (3, None) if "--seed" in words else (None, 0.5)
    made = m2o_fast.translate(run, gray, "color", seed=seed, psi=psi, keep_size="--keep-size" in words)
    assert isinstance(made, Image.Image) and np.array_equal(np.asarray(made), np.asarray(Image.open(out)))


def test_paths_pictures_and_arrays_are_alike(run: Path, photo: Path) -> None:
    picture = Image.open(photo)
    array = np.asarray(picture)
    kinds = [photo, str(photo), picture, array, array / np.float32(255)]
    found = [np.asarray(m2o_fast.translate(run, kind, "gray")) for kind in kinds]
    assert found[0].shape == (32, 32)
    for one in found[1:]:
        assert np.array_equal(one, found[0])
    gray = np.asarray(picture.convert("L"))
    several = m2o_fast.translate(run, [gray, gray[..., None], gray / 255.0], "color", reference=photo)
    assert isinstance(several, list) and len(several) == 3
    assert np.array_equal(np.asarray(several[0]), np.asarray(several[1]))
    assert m2o_fast.translate(run, [], "gray") == []


def test_sizes_are_kept_where_any_is_taken(any_size: Translator) -> None:
    shapes = [(20, 30), (20, 30), (33, 5), (1, 1)]
    images = [np.full((*shape, 3), 10 * number, dtype=np.uint8) for number, shape in enumerate(shapes)]
    made = m2o_fast.translate(any_size, images, "gray")
    assert [one.size[::-1] for one in made] == shapes
    alone = m2o_fast.translate(any_size, images[2], "gray")
    assert np.abs(np.asarray(alone).astype(int) - np.asarray(made[2]).astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), "an array must be \\[H, W\\]"),
        (np.zeros((0, 4), np.uint8), "an array must be \\[H, W\\]"),
        (np.zeros(4, np.uint8), "an array must be \\[H, W\\]"),
        (np.zeros((4, 4), np.int64), "must be uint8, or floating-point in \\[0, 1\\], got int64"),
        (np.full((4, 4), 1.5), "must be uint8, or floating-point"),
        (np.full((4, 4), np.nan), "must be uint8, or floating-point"),
        ("none.png", "none.png: no such image file"),
        (torch.zeros(1, 3, 4, 4), "must be the path of a file, an image of Pillow, or an array of numpy, got Tensor"),
        (None, "must be the path of a file, .* got NoneType"),
        ([["none.png"]], "must be the path of a file, .* got list"),
        (Image.new("HSV", (4, 4)), "the image: cannot be read .*HSV.* convert it to RGB"),
    ],
)
def test_what_is_no_image_is_refused(any_size: Translator, image: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        m2o_fast.translate(any_size, image, "color")  # type: ignore[arg-type]


def test_a_photo_is_turned_also_as_a_picture(any_size: Translator, photo: Path) -> None:
    """And one that is cut off is an error of the user, though Pillow reads it late."""
    tags = Image.Exif()
    tags[0x0112] = 6
    turned = photo.with_name("turned.png")
    Image.open(photo).save(turned, exif=tags)
    made = m2o_fast.translate(any_size, [turned, Image.open(turned)], "gray")
    assert made[0].size == made[1].size == (20, 30) and made[0].tobytes() == made[1].tobytes()
    turned.write_bytes(turned.read_bytes()[:900])
    with pytest.raises(UserError, match="the image: cannot be read"):
        m2o_fast.translate(any_size, Image.open(turned), "gray")


def test_the_newest_run_is_looked_for_once(
    run: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one that is begun meanwhile does not say how images become squares."""
    monkeypatch.chdir(tmp_path)
    for place in ("m2o_fast.engine.api", "m2o_fast.engine.runs"):
        shutil.rmtree("runs", ignore_errors=True)
        shutil.copytree(run, "runs/a")

        def loaded(*arguments: Any) -> Translator:
            shutil.copytree(run, "runs/b", ignore=shutil.ignore_patterns("checkpoints"))
            config = Path("runs/b", CONFIG)
            config.write_text(config.read_text().replace("fit: pad", "fit: crop"))
            return load_translator(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(f"{place}.load_translator", loaded)
            if place.endswith("api"):
                m2o_fast.translate(None, photo, "gray").save("out.png")
            else:
                assert main(["translate", str(photo), "--to", "gray", "--out", "out.png"]) == 0
        assert Path("runs/b").is_dir()
        assert np.array_equal(np.asarray(Image.open("out.png")), np.asarray(m2o_fast.translate(run, photo, "gray")))


def test_a_mistyped_fit_is_no_other_one(any_size: Translator, photo: Path) -> None:
    with pytest.raises(ValueError, match="fit must be one of stretch, crop, pad, got 'padded'"):
        m2o_fast.translate(any_size, photo, "gray", fit="padded")  # type: ignore[arg-type]


def test_one_uni_modal_domain_may_be_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its letters are no domains."""
    seen: list[object] = []

    def settings(*arguments: Any) -> None:
        seen.append(arguments[4]["data.uni"])
        raise UserError("enough")

    monkeypatch.setattr("m2o_fast.engine.api.settings_to_train", settings)
    for uni in ("map", ["map"], ()):
        with pytest.raises(UserError, match="enough"):
            m2o_fast.train(uni=uni)
    assert seen == [["map"], ["map"], None]


def test_a_model_is_checked(any_size: Translator, photo: Path) -> None:
    with pytest.raises(ValueError, match="unknown domain 'map'"):
        m2o_fast.translate(any_size, photo, "map")
    with pytest.raises(UserError, match="have no style"):
        m2o_fast.translate(any_size, photo, "gray", reference=photo)
    assert not torch.is_inference_mode_enabled()


def test_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)
    monkeypatch.chdir(tmp_path)
    Image.new("L", (32, 32), 200).save("digit.png")
    examples = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) == 3
    found: dict[str, Any] = {}
    for code in examples:
        exec(compile(code, "docs/api.md", "exec"), found)
    assert found["picture"].size == (32, 32) and [one.mode for one in found["gray"]] == ["L"] * 4
    assert Path("out.png").is_file() and "gray->color" in found["report"]["directions"]
