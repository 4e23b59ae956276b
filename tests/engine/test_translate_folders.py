"""Folders in batches, going on where one stopped, sizes that are kept."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from m2o_fast.data.images import save_image
from m2o_fast.engine.evaluation.progress import Meter
from m2o_fast.engine.outputs import is_made
from m2o_fast.engine.translate import Done, Request, restored, translate_path
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain, ManyToOne
from m2o_fast.translators import create, system
from m2o_fast.translators.base import Translator

COLOR, GRAY = Domain("color", 3), Domain("gray", 1, multimodal=False)


def build(name: str, **model: object) -> Translator:
    facts = system(name)
    settings = facts.settings.model_validate({"model": model, "loss": {"diversity_steps": 1}})
    torch.manual_seed(0)
    description = settings.description([COLOR, GRAY], ManyToOne(), 32)
    return create({"system": name, **description}).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def any_size() -> Translator:
    return build("munit", width=2, discriminator_width=2, blocks=1, mlp_width=2)


@pytest.fixture(scope="module")
def one_size() -> Translator:
    return build("starganv2", base_width=4, max_width=8, style_dim=4, latent_dim=4, hidden_dim=8)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, any_size: Translator, one_size: Translator) -> Iterator[list[list[int]]]:
    """The shapes of what went through the nets."""
    shapes: list[list[int]] = []
    for translator in (any_size, one_size):
        made = translator.translate

        def noted(x: Tensor, *way: str, made=made, **style: Tensor) -> Tensor:
            shapes.append(list(x.shape))
            return made(x, *way, **style)

        monkeypatch.setattr(translator, "translate", noted)
    yield shapes


def write(path: Path, width: int, height: int, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)).save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


SIZES = [(32, 32), (30, 20), (31, 18), (32, 32), (29, 20), (8, 40)]  # width, height


def test_images_of_alike_sizes_go_together(any_size: Translator, calls: list[list[int]], tmp_path: Path) -> None:
    """Those that are padded to the same multiples; the others wait for their own. Translations are those of one."""
    for k, (width, height) in enumerate(SIZES):
        write(tmp_path / "in" / f"{k}.png", width, height, seed=k)
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n")
    done = translate_path(any_size, tmp_path / "in", tmp_path / "out", Request("color", seed=1))
    assert (done.written, done.kept) == (6, 0) and "broken.png" in done.failures[0] and len(done.failures) == 1
    assert calls == [[2, 1, 32, 32], [3, 1, 20, 32], [1, 1, 40, 8]]
    for k, (width, height) in enumerate(SIZES):
        alone = tmp_path / "alone" / f"{k}.png"
        translate_path(any_size, tmp_path / "in" / f"{k}.png", alone, Request("color", seed=1))
        assert pixels(alone).shape == (height, width, 3)
        assert np.abs(pixels(tmp_path / "out" / f"{k}.png") - pixels(alone)).max() <= 1


def test_no_batch_is_larger_than_asked_for(one_size: Translator, calls: list[list[int]], tmp_path: Path) -> None:
    for k in range(5):
        write(tmp_path / "in" / f"{k}.png", 32, 32, seed=k)
    translate_path(one_size, tmp_path / "in", tmp_path / "out", Request("color", batch_size=2))
    assert [shape[0] for shape in calls] == [2, 2, 1]
    calls.clear()  # of several looks, as many as there is room for
    translate_path(one_size, tmp_path / "in" / "0.png", tmp_path / "grid.png", Request("color", styles=5, batch_size=3))
    translate_path(one_size, tmp_path / "in", tmp_path / "grids", Request("color", styles=2, batch_size=5))
    assert [shape[0] for shape in calls] == [3, 2, 4, 4, 2]
    assert np.abs(pixels(tmp_path / "grids" / "0.png") - pixels(tmp_path / "grid.png")[:, : 3 * 34 + 2]).max() <= 1


def test_a_folder_that_is_half_done_is_gone_on_with(
    one_size: Translator, calls: list[list[int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is missing, cut off, older than its image, or made with other options or weights is made anew."""
    for k in range(5):
        write(tmp_path / "in" / f"{k}.png", 32, 32, seed=k)
    request, out = Request("color", resume=True), tmp_path / "out"
    assert translate_path(one_size, tmp_path / "in", out, request) == Done(5, [])
    wanted = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "0.png").unlink()
    (out / "1.png").write_bytes(wanted["1.png"][:-9])
    save_image(torch.zeros(3, 32, 32), out / "2.png")  # of somebody else
    os.utime(tmp_path / "in" / "3.png", ns=(0, (out / "3.png").stat().st_mtime_ns + 1))
    calls.clear()
    assert translate_path(one_size, tmp_path / "in", out, request, Meter(True)) == Done(4, [], 1)
    assert [shape[0] for shape in calls] == [4]
    assert capsys.readouterr().err.startswith("translating: 4 images, ")
    for name, content in wanted.items():
        (out / name).write_bytes(content)
    assert translate_path(one_size, tmp_path / "in", out, Request("color", seed=1, resume=True)) == Done(5, [])
    weight = next(one_size.generator.parameters())
    with torch.no_grad():
        weight += 1
    assert translate_path(one_size, tmp_path / "in", out, Request("color", seed=1, resume=True)) == Done(5, [])
    with torch.no_grad():
        weight -= 1
    assert translate_path(one_size, tmp_path / "in", out, Request("color", seed=1)) == Done(5, [])


def test_one_image_is_not_resumed(one_size: Translator, tmp_path: Path) -> None:
    """What lies there has no note of who made it: it is never taken for the result."""
    write(tmp_path / "in.png", 32, 32)
    save_image(torch.zeros(3, 32, 32), tmp_path / "out.png")  # of somebody else
    with pytest.raises(UserError, match="--resume goes on with a folder of images, and .*in.png is none"):
        translate_path(one_size, tmp_path / "in.png", tmp_path / "out.png", Request("color", resume=True))
    assert not is_made(tmp_path / "out.png", None)


def test_what_cannot_be_written_is_named_and_the_others_are_written(one_size: Translator, tmp_path: Path) -> None:
    """Files whose name leaves no room for a longer one among them."""
    out, long = tmp_path / "out", "n" * 251
    for name in ("a", "b", long):
        write(tmp_path / "in" / f"{name}.png", 32, 32)
    (out / "a.png").mkdir(parents=True)
    done = translate_path(one_size, tmp_path / "in", out, Request("color"))
    assert done.written == 2 and len(done.failures) == 1
    assert done.failures[0].startswith(f"{out / 'a.png'}: cannot write the image (Is a directory")
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", f"{long}.png"]
    with pytest.raises(UserError, match=r"out/a\.png: cannot write the image"):
        translate_path(one_size, tmp_path / "in" / "a.png", out, Request("color"))


def test_a_full_disk_ends_it_and_says_how_many_were_written(
    one_size: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcd":
        write(tmp_path / "in" / f"{name}.png", 32, 32)
    room = iter([True, True])

    def full(image: torch.Tensor, path: Path, note: str | None = None) -> None:
        if not next(room, False):
            raise UserError(f"{path}: cannot write the image") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("m2o_fast.engine.translate.save_picture", full)
    with pytest.raises(UserError, match=r"cannot write the image; 2 of 4 images were written; --resume goes on"):
        translate_path(one_size, tmp_path / "in", tmp_path / "out", Request("color"))


def test_an_image_that_was_replaced_by_an_older_one_is_translated_anew(one_size: Translator, tmp_path: Path) -> None:
    image = write(tmp_path / "in" / "a.png", 32, 32)
    os.utime(image, (1000, 1000))
    request, out = Request("color", resume=True), tmp_path / "out"
    assert translate_path(one_size, tmp_path / "in", out, request) == Done(1, [])
    for seconds in (500, 1000):  # and one of the same time, but another size
        write(image, 32, 31, seed=seconds)
        os.utime(image, (seconds, seconds))
        assert translate_path(one_size, tmp_path / "in", out, request) == Done(1, [])
        assert translate_path(one_size, tmp_path / "in", out, request) == Done(0, [], 1)
        image.unlink()
        write(image, 32, 30)
        os.utime(image, (seconds, seconds))


def test_settings_that_no_weight_tells_are_noticed(tmp_path: Path) -> None:
    """What other nets of the same weights have made is made anew."""
    write(tmp_path / "in" / "0.png", 32, 32)
    for output in ("linear", "tanh"):
        nets = build("starganv2", base_width=4, max_width=8, style_dim=4, latent_dim=4, hidden_dim=8, output=output)
        for done in (Done(1, []), Done(0, [], 1)):
            assert translate_path(nets, tmp_path / "in", tmp_path / "out", Request("color", resume=True)) == done


@pytest.mark.parametrize("system", ["any_size", "one_size"])
def test_more_looks_than_a_file_has_room_for_are_refused(
    system: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before they are made; other images of the folder are translated."""
    translator = request.getfixturevalue(system)
    write(tmp_path / "in" / "large.png", 320, 320)
    write(tmp_path / "in" / "small.png", 32, 32)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3 * 320 * 320 - 1)
    done = translate_path(translator, tmp_path / "in", tmp_path / "out", Request("color", styles=2, keep_size=True))
    (said,) = done.failures
    assert done.written == 1 and "large.png: 3 images of 320 x 320 pixels side by side" in said
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3 * 320 * 320)
    done = translate_path(translator, tmp_path / "in", tmp_path / "out", Request("color", styles=2, keep_size=True))
    assert done == Done(2, [])


def test_links_to_folders_are_left_out_with_a_warning(one_size: Translator, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png", 32, 32)
    write(tmp_path / "elsewhere" / "b.png", 32, 32)
    (tmp_path / "in" / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.warns(RuntimeWarning, match=r"in: a subfolder that is a link is left out, more; put"):
        assert translate_path(one_size, tmp_path / "in", tmp_path / "out", Request("color")) == Done(1, [])


def test_resume_does_not_wait_for_a_pipe_and_removes_what_the_dead_have_left(
    one_size: Translator, tmp_path: Path
) -> None:
    write(tmp_path / "in" / "a.png", 32, 32)
    out = tmp_path / "out"
    out.mkdir()
    os.mkfifo(out / "a.png")
    dead = subprocess.Popen(["true"])
    dead.wait()
    names = (f".a.png.{dead.pid}.part", f".b.png.{os.getpid()}.part", f".young.png.{dead.pid}.part", ".other.part")
    for name in names:
        (out / name).write_bytes(b"half")
        os.utime(out / name, (1, 1))
    (out / names[2]).touch()
    assert translate_path(one_size, tmp_path / "in", out, Request("color", resume=True)) == Done(1, [])
    assert sorted(path.name for path in out.iterdir()) == sorted(["a.png", *names[1:]])
    assert pixels(out / "a.png").shape == (32, 32, 3)


def test_values_that_are_not_finite_are_said_with_the_image(
    one_size: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in" / "a.png", 32, 32)
    made = one_size.translate

    def broken(*words: object, **named: object) -> torch.Tensor:
        return made(*words, **named) * torch.nan

    monkeypatch.setattr(one_size, "translate", broken)
    for images in (tmp_path / "in" / "a.png", tmp_path / "in"):
        request = Request("color", psi=2.0)
        try:
            (said,) = translate_path(one_size, images, tmp_path / "out", request).failures
        except UserError as error:
            said = str(error)
        assert said.startswith(f"{tmp_path / 'in' / 'a.png'}: its translation has values that are not finite: take")


def test_too_little_memory_is_said_in_a_line(
    one_size: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        write(tmp_path / "in" / f"{name}.png", 32, 32)

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")

    monkeypatch.setattr(one_size, "translate", full)
    with pytest.raises(UserError, match=r"out of memory: lower --batch-size \(now 2\)"):
        translate_path(one_size, tmp_path / "in", tmp_path / "out", Request("color"))


@pytest.mark.parametrize(("fit", "shape"), [("stretch", (20, 70)), ("pad", (20, 70)), ("crop", (20, 20))])
def test_sizes_are_kept(one_size: Translator, fit: str, shape: tuple[int, int], tmp_path: Path) -> None:
    """Also those of all images of a grid. Of what was cut off, nothing comes back."""
    write(tmp_path / "in.png", 70, 20)
    with pytest.warns(RuntimeWarning, match="1 of 1 images not square"):
        translate_path(one_size, tmp_path / "in.png", tmp_path / "x.png", Request("color", fit=fit, keep_size=True))
        grid = Request("color", fit=fit, keep_size=True, styles=2)
        translate_path(one_size, tmp_path / "in.png", tmp_path / "grid.png", grid)
    assert pixels(tmp_path / "x.png").shape == (*shape, 3)
    assert pixels(tmp_path / "grid.png").shape == (shape[0] + 4, 3 * (shape[1] + 2) + 2, 3)


def test_what_was_padded_is_cut_off_again(one_size: Translator) -> None:
    """A picture that is told apart in its margins; label maps get no colours between two."""
    tile = torch.full((3, 32, 32), -1.0)
    tile[:, 8:24] = torch.linspace(-1, 1, 32)
    made = restored(tile, (64, 32), one_size, COLOR, "pad", keep_size=True)
    assert made.shape == (3, 32, 64) and torch.equal(made, made[:, :1].expand_as(made))
    assert torch.allclose(made[0, 0, 1:-1].diff(), torch.tensor(1 / 31), atol=1e-5)
    labels = Domain("labels", 3, kind="palette", classes=3)
    made = restored(tile.sign(), (64, 32), one_size, labels, "pad", keep_size=True)
    assert made.shape == (3, 32, 64) and set(made.unique().tolist()) == {-1.0, 1.0}
