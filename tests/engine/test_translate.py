"""Translating files: names, styles, refusals."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from m2o_fast.data.images import read_image, to_pillow
from m2o_fast.engine.translate import Done, Request, translate_path
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.randomness import torch_generator
from m2o_fast.translators.starganv2.settings import Size
from m2o_fast.translators.starganv2.translator import StarGANv2

SIZE = 32
DOMAINS = (Domain("color", 3), Domain("gray", 1, multimodal=False))


def build(domains=DOMAINS, rules=None) -> StarGANv2:
    size = Size(image_size=SIZE, base_width=4, max_width=8, style_dim=4, latent_dim=4, hidden_dim=8)
    torch.manual_seed(0)
    return StarGANv2(domains, rules or ManyToOne(), size, discriminator=False).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def translator():
    return build()


@pytest.fixture
def folder(tmp_path):
    """Three different gray images and a text file."""
    path = tmp_path / "in"
    path.mkdir()
    for index, name in enumerate(("a.png", "b.jpg", "c.bmp")):
        pixels = np.random.default_rng(index).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
        Image.fromarray(pixels).save(path / name)
    (path / "notes.txt").write_text("no image")
    return path


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image)


def digests(path):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()}


def test_one_file(translator, folder, tmp_path):
    out = tmp_path / "new" / "x.png"
    assert translate_path(translator, folder / "a.png", out, Request("color")) == Done(1, [])
    style = translator.sample_style(1, "color", torch_generator(0, "translate", 0))
    expected = translator.translate(read_image(folder / "a.png", 1, SIZE), "gray", "color", style=style)
    assert np.array_equal(pixels_of(out), np.asarray(to_pillow(expected)))
    assert pixels_of(out).shape == (SIZE, SIZE, 3)


def test_one_file_into_an_existing_folder(translator, folder, tmp_path):
    translate_path(translator, folder / "b.jpg", tmp_path, Request("color"))
    assert (tmp_path / "b.png").is_file()


def test_a_folder_gives_one_file_for_each_image_and_others_change_it_by_rounding_only(translator, folder, tmp_path):
    assert translate_path(translator, folder, tmp_path / "all", Request("color")) == Done(3, [])
    assert sorted(digests(tmp_path / "all")) == ["a.png", "b.png", "c.png"]
    for name in ("a.png", "b.jpg", "c.bmp"):
        translate_path(translator, folder / name, tmp_path / "single" / f"{name[0]}.png", Request("color"))
    translate_path(translator, folder, tmp_path / "alone", Request("color", batch_size=1))
    for name in ("a.png", "b.png", "c.png"):
        together, alone, single = (pixels_of(tmp_path / way / name) for way in ("all", "alone", "single"))
        assert np.array_equal(alone, single)
        assert np.abs(together.astype(int) - single).max() <= 1  # in a batch, sums are taken in another order


def test_images_of_one_stem_do_not_overwrite_each_other(translator, folder, tmp_path):
    (folder / "b.jpg").rename(folder / "a.jpg")
    assert translate_path(translator, folder, tmp_path / "out", Request("color"))[0] == 3
    assert sorted(digests(tmp_path / "out")) == ["a.jpg.png", "a.png.png", "c.bmp.png"]


def test_subfolders_are_kept_and_earlier_outputs_are_no_inputs(translator, folder, tmp_path):
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "b.jpg").rename(folder / "deep" / "a.jpg")
    (folder / "c.bmp").rename(folder / "deep" / "er" / "a.bmp")
    for out in (tmp_path / "out", folder / "out", folder / "out"):
        assert translate_path(translator, folder, out, Request("color"))[0] == 3
        found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*"))
        assert found == ["a.png", "deep/a.png", "deep/er/a.png"]


def test_a_folder_that_holds_nothing_but_outputs(translator, folder, tmp_path):
    (folder / "only").mkdir()
    for name in ("a.png", "b.jpg", "c.bmp"):
        (folder / name).rename(folder / "only" / name)
    with pytest.raises(UserError, match="all images of .* lie in .*only, where the results would go"):
        translate_path(translator, folder, folder / "only", Request("color"))


def test_the_seed_decides_the_look(translator, folder, tmp_path):
    for name, seed in (("default", None), ("zero", 0), ("one", 1), ("again", 1)):
        translate_path(translator, folder / "a.png", tmp_path / f"{name}.png", Request("color", seed=seed))
    found = {name: pixels_of(tmp_path / f"{name}.png") for name in ("default", "zero", "one", "again")}
    assert np.array_equal(found["default"], found["zero"])
    assert np.array_equal(found["one"], found["again"])
    assert not np.array_equal(found["zero"], found["one"])


def test_the_reference_gives_the_style(translator, folder, tmp_path):
    reference = tmp_path / "reference.png"
    Image.fromarray(np.random.default_rng(9).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(reference)
    translate_path(translator, folder / "a.png", tmp_path / "x.png", Request("color", reference=reference))
    expected = translator.translate(
        read_image(folder / "a.png", 1, SIZE), "gray", "color", reference=read_image(reference, 3, SIZE)
    )
    assert np.array_equal(pixels_of(tmp_path / "x.png"), np.asarray(to_pillow(expected)))


def test_a_grid_shows_the_image_and_its_looks(translator, folder, tmp_path):
    translate_path(translator, folder / "a.png", tmp_path / "grid.png", Request("color", styles=3))
    translate_path(translator, folder / "a.png", tmp_path / "first.png", Request("color"))
    grid = pixels_of(tmp_path / "grid.png")
    assert grid.shape == (SIZE + 4, 4 * (SIZE + 2) + 2, 3)
    tiles = [grid[2 : 2 + SIZE, left : left + SIZE] for left in range(2, grid.shape[1] - SIZE, SIZE + 2)]
    assert np.array_equal(tiles[0][..., 0], pixels_of(folder / "a.png"))
    assert np.array_equal(tiles[1], pixels_of(tmp_path / "first.png"))
    assert not np.array_equal(tiles[1], tiles[2])


def test_an_image_of_a_folder_that_cannot_be_read_is_named_and_the_others_are_translated(translator, folder, tmp_path):
    (folder / "b.jpg").write_bytes(b"")
    (folder / "c.bmp").write_bytes((folder / "c.bmp").read_bytes()[:200])
    written, failures, _ = translate_path(translator, folder, tmp_path / "out", Request("color"))
    assert written == 1
    assert [name in text for name, text in zip(("b.jpg", "c.bmp"), failures, strict=True)] == [True, True]
    assert sorted(digests(tmp_path / "out")) == ["a.png"]


def test_a_single_image_that_cannot_be_read_is_an_error(translator, folder, tmp_path):
    (folder / "b.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"b\.jpg"):
        translate_path(translator, folder / "b.jpg", tmp_path / "x.png", Request("color"))
    assert not (tmp_path / "x.png").exists()


def test_inputs_are_never_overwritten(translator, folder):
    before = digests(folder)
    for images, out in ((folder / "a.png", folder / "a.png"), (folder, folder), (folder / "a.png", folder)):
        with pytest.raises(UserError, match="would overwrite"):
            translate_path(translator, images, out, Request("color"))
    assert digests(folder) == before


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("colour"), "unknown domain 'colour'; the domains are color, gray"),
        (Request("color", source="grey"), "unknown domain 'grey'"),
        (Request("gray", styles=2), "'gray' have no style"),
        (Request("gray", reference="x.png"), "'gray' have no style"),
        (Request("color", reference="x.png", seed=1), "leave --seed and --styles out"),
        (Request("color", reference="x.png", styles=2), "leave --seed and --styles out"),
        (Request("color", reference="nowhere.png"), "nowhere.png"),
    ],
)
def test_requests_that_do_not_fit(translator, folder, tmp_path, request_, message):
    with pytest.raises(ValueError, match=message):
        translate_path(translator, folder, tmp_path / "out", request_)
    assert not (tmp_path / "out").exists()


def test_outputs_that_do_not_fit(translator, folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="must be a folder"):
        translate_path(translator, folder, tmp_path / "file", Request("color"))
    with pytest.raises(UserError, match=r"ends in \.png"):
        translate_path(translator, folder / "a.png", tmp_path / "x.jpg", Request("color"))
    with pytest.raises(UserError, match="no such file or folder"):
        translate_path(translator, tmp_path / "nowhere", tmp_path / "x.png", Request("color"))


def test_the_source_must_be_named_where_there_are_several(folder, tmp_path):
    three = build((*DOMAINS, Domain("sepia", 3)))
    with pytest.raises(UserError, match="say with --from .* there are color, gray"):
        translate_path(three, folder, tmp_path / "out", Request("sepia"))
    assert translate_path(three, folder, tmp_path / "out", Request("sepia", source="gray"))[0] == 3


def test_starganv2_has_styles_everywhere(folder, tmp_path):
    symmetric = build(rules=ManyToOne.symmetric())
    assert translate_path(symmetric, folder, tmp_path / "out", Request("gray", styles=2)) == Done(3, [])
