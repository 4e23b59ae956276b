"""Label maps through the engine: training in both kinds, sample grids, translating files."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from ade20k_files import classes_of, write_ade20k
from PIL import Image
from tiny import contents, stop_at, tiny_config

from m2o_fast.data.images import read_image
from m2o_fast.data.label_maps import read_label_map
from m2o_fast.engine.build import open_split
from m2o_fast.engine.checkpoint import load_translator, newest_checkpoint
from m2o_fast.engine.config import load_config
from m2o_fast.engine.loop import train
from m2o_fast.engine.samples import SampleGrid
from m2o_fast.engine.trainer import Trainer
from m2o_fast.engine.translate import Request, translate_path
from m2o_fast.errors import UserError
from m2o_fast.labels import draw_labels, palette, read_labels
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.translators.starganv2.settings import Size
from m2o_fast.translators.starganv2.translator import StarGANv2

SIZE = 32
COLORS = {tuple(color) for color in palette(151).tolist()}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def settings(tmp_path: Path) -> tuple[str, ...]:
    root = write_ade20k(tmp_path / "ade")
    return (f"data.name=ade20k:{root}", "data.image_size=32", "loss.diversity_steps=6")


def translator_of(kind: str) -> StarGANv2:
    domains = (
        Domain("scene", 3),
        Domain("labels", 3 if kind == "palette" else 151, multimodal=False, kind=kind, classes=151),
    )
    torch.manual_seed(0)
    size = Size(image_size=SIZE, base_width=4, max_width=8, style_dim=4, latent_dim=4, hidden_dim=8)
    return StarGANv2(domains, ManyToOne(), size, discriminator=False).eval().requires_grad_(False)


def colors_of(picture: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(color) for color in np.asarray(picture).reshape(-1, 3).tolist()}


# --- training ---


@pytest.mark.parametrize("kind", [pytest.param("palette", marks=pytest.mark.slow), "onehot"])
def test_a_resumed_run_ends_with_the_same_bytes(
    settings: tuple[str, ...], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(*settings, f"data.labels={kind}", "steps=4", "keep_checkpoints=0", "data.crop_probability=0.5")
    train(config, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        stop_at(2, signal.SIGTERM, patch)
        assert train(config, tmp_path / "parts", quiet=True).step == 3
    assert train(config, tmp_path / "parts", "auto", quiet=True).step == 4
    wanted, found = contents(tmp_path / "whole"), contents(tmp_path / "parts")
    assert [name for name in wanted if wanted[name] != found.get(name)] == []
    folder, manifest, _ = newest_checkpoint(tmp_path / "parts")
    labels = load_translator(folder, manifest).domains[1]
    assert (labels.kind, labels.classes, labels.channels) == (kind, 151, 3 if kind == "palette" else 151)


@pytest.mark.slow
def test_parts_of_a_batch_do_what_the_whole_does(settings: tuple[str, ...]) -> None:
    """With one-hot label maps, in float64."""
    still = ("optim.weight_decay=0", "optim.lr=1e-5", "batch_size=8", "data.labels=onehot")
    results = []
    for parts in (1, 4):
        trainer = Trainer(tiny_config(*settings, *still, f"accumulate={parts}"), Path("nowhere"))
        for nets in (trainer.translator, trainer.averaged):
            nets.double()
        for step in range(3):
            result = trainer.stepper([part.to(dtype=torch.float64) for part in trainer.batch(step)], step)
        results.append((result.losses, trainer.translator.state_dict()))
    (losses, weights), (same_losses, same_weights) = results
    assert losses["generator_latent/supervised"] > 1  # near ln 151
    for name, value in losses.items():
        assert same_losses[name].item() == pytest.approx(value.item(), rel=1e-9, abs=1e-12), name
    for name, value in weights.items():
        torch.testing.assert_close(same_weights[name], value, rtol=0, atol=1e-10, msg=name)


def test_bf16_gives_float32_probabilities(settings: tuple[str, ...]) -> None:
    trainer = Trainer(tiny_config(*settings, "data.labels=onehot", "precision=bf16"), Path("nowhere"))
    batch = trainer.batch(0)[0]
    result = trainer.stepper([batch], 0)
    assert all(value.dtype is torch.float32 and value.isfinite() for value in result.losses.values())
    with torch.autocast("cpu", torch.bfloat16):
        image = trainer.translator.translate(batch.source[0], "scene", "labels")
    assert image.dtype is torch.float32
    torch.testing.assert_close(((image + 1) / 2).sum(1), torch.ones(len(image), SIZE, SIZE), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["palette", "onehot"])
def test_sample_grids_show_label_maps_in_their_palette(settings: tuple[str, ...], kind: str) -> None:
    config = tiny_config(*settings, f"data.labels={kind}")
    data = open_split(config, "test")
    translator, grid = translator_of(kind), SampleGrid(data, translator_of(kind), 7)
    directions = grid.translate(translator)
    picture = grid.draw(translator, directions)
    tile, gap, left = 64, 2, 150
    rows = [(direction, label) for direction, found in directions.items() for label in found]
    for row, (direction, label) in enumerate(rows):
        domain = direction[0] if label in ("source", "reconstruction") else direction[1]
        top = gap + row * (tile + gap)
        shown = picture.crop((left + gap, top, left + gap + tile, top + tile))
        assert (colors_of(shown) <= COLORS) == (domain == 1), label
    source = directions[1, 0]["source"]
    top = gap + len(directions[0, 1]) * (tile + gap)
    shown = picture.crop((left + gap, top, left + gap + tile, top + tile)).resize(
        (SIZE, SIZE), Image.Resampling.NEAREST
    )
    expected = palette(151)[data.label_ids([0])[0]]
    assert np.array_equal(np.asarray(shown), expected.numpy()) and source.shape[1] == (3 if kind == "palette" else 151)


# --- files ---


def test_label_maps_are_read_from_class_numbers_and_from_colors(tmp_path: Path) -> None:
    classes = classes_of(2)  # 64 x 64
    Image.fromarray(classes).save(tmp_path / "numbers.png")
    colors = palette(151).numpy()[classes]
    Image.fromarray(colors).save(tmp_path / "colors.png")
    Image.fromarray(colors).convert("RGBA").save(tmp_path / "alpha.png")
    noisy = np.clip(colors.astype(int) + np.random.default_rng(0).integers(-8, 9, colors.shape), 0, 255)
    Image.fromarray(noisy.astype(np.uint8)).save(tmp_path / "noisy.png")
    expected = torch.from_numpy(classes[1::2, 1::2].astype(np.int64))[None]
    for name in ("numbers", "colors", "alpha", "noisy"):
        found = read_label_map(tmp_path / f"{name}.png", 151, 32)
        assert found.dtype == torch.int64 and torch.equal(found, expected), name
    with pytest.raises(UserError, match="numbers.png: class 1.., but classes are 0 to 99"):
        read_label_map(tmp_path / "numbers.png", 100, 32)
    with pytest.raises(UserError, match="nothing.png: no such image file"):
        read_label_map(tmp_path / "nothing.png", 151, 32)
    photo = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    with pytest.raises(
        UserError, match=r"photo.png: no label map: [89].% of its pixels have none of the palette's 151"
    ):
        read_label_map(tmp_path / "photo.png", 151, 32)


@pytest.mark.parametrize("kind", ["palette", "onehot"])
def test_translating_files_from_and_to_label_maps(kind: str, tmp_path: Path) -> None:
    translator = translator_of(kind)
    Image.fromarray(classes_of(0)).save(tmp_path / "numbers.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(tmp_path / "scene.png")

    translate_path(translator, tmp_path / "scene.png", tmp_path / "labels.png", Request("labels"))
    with Image.open(tmp_path / "labels.png") as picture:
        assert picture.mode == "RGB" and colors_of(picture) <= COLORS
    written = read_label_map(tmp_path / "labels.png", 151, SIZE)
    image = translator.translate(read_image(tmp_path / "scene.png", 3, SIZE), "scene", "labels")
    assert torch.equal(written, read_labels((image + 1) / 2, kind, 151))

    translate_path(translator, tmp_path / "numbers.png", tmp_path / "a.png", Request("scene", seed=3))
    Image.fromarray(palette(151).numpy()[classes_of(0)]).save(tmp_path / "colors.png")
    translate_path(translator, tmp_path / "colors.png", tmp_path / "b.png", Request("scene", seed=3))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

    translate_path(translator, tmp_path / "numbers.png", tmp_path / "grid.png", Request("scene", styles=2))
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (2 + 3 * 34, 36) and colors_of(grid.crop((2, 2, 34, 34))) <= COLORS


def test_one_hot_images_are_probabilities() -> None:
    translator = translator_of("onehot")
    labels = torch.randint(0, 151, (2, SIZE, SIZE))
    source = draw_labels(labels, "onehot", 151) * 2 - 1
    styles = translator.sample_style(2, "scene", torch.Generator().manual_seed(0))
    scene = translator.translate(source, "labels", "scene", style=styles)
    assert scene.shape == (2, 3, SIZE, SIZE)
    image = translator.translate(scene, "scene", "labels")
    assert image.shape == (2, 151, SIZE, SIZE) and image.min() >= -1 and image.max() <= 1
    torch.testing.assert_close(((image + 1) / 2).sum(1), torch.ones(2, SIZE, SIZE))


def test_a_description_of_older_runs_still_builds_its_domains() -> None:
    description = translator_of("palette").describe()
    for domain in description["domains"]:
        for key in ("kind", "classes"):
            del domain[key]
    assert [domain.kind for domain in StarGANv2.from_description(description).domains] == ["continuous"] * 2


@pytest.mark.parametrize(("preset", "size"), [(None, 256), ("ade20k", 256), ("ade20k-tiny", 32)])
def test_the_presets_are_valid(preset: str | None, size: int) -> None:
    config = load_config(overrides={"data.name": "ade20k:somewhere"}, preset=preset)
    assert (config.variant, config.data.name, config.data.dir) == ("hms", "ade20k", "somewhere")
    assert (config.data.image_size, config.data.labels) == (size, "palette")
    if size == 256:  # as published
        assert config.settings.widths(256) == {"model.base_width": 64, "model.max_width": 512}
        assert (config.batch_size, config.steps) == (8, 100_000)
        assert (config.optim.lr, config.optim.mapping_lr, config.optim.ema) == (1e-4, 1e-6, 0.999)
        assert (config.data.crop_probability, config.data.flip_probability) == (0.5, 0.5)
