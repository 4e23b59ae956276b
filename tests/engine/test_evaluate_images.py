"""Images that were made elsewhere: folders and tensors give what the same images give anywhere, or one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fakes import PASSED, Painter, mean_color_extractor, squares
from PIL import Image

import m2o_fast
from m2o_fast.data.images import read_pixels, save_image
from m2o_fast.engine.evaluate_images import evaluate_images
from m2o_fast.engine.evaluation.options import Options
from m2o_fast.engine.evaluation.translations import Evaluation
from m2o_fast.errors import UserError

COUNT = 12
FEATURES = Options(extractor="module:fakes.mean_colors")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(images: torch.Tensor, folder: Path, names: list[str] | None = None) -> Path:
    for number, image in enumerate(images):
        save_image(image * 2 - 1, folder / f"{names[number] if names else f'{number:03d}'}.png")
    return folder


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, torch.Tensor]:
    """Images of 8 bits, true ones, and real ones."""
    generator = torch.Generator().manual_seed(0)
    draws = (
        torch.randint(0, 256, (count, 3, 16, 16), generator=generator).float() / 255 for count in (COUNT, COUNT, 20)
    )
    return dict(zip(("images", "truth", "real"), draws, strict=True))


# --- the same numbers ---


def test_folders_and_tensors_give_what_a_run_gives(tmp_path: Path) -> None:
    data, train = squares(COUNT), squares(20, "train")
    painter = Painter(data.domains).know(data)
    asked = Options(guidance="latent", outputs_per_source=1)
    found = Evaluation(painter, data, lambda: train, asked, extractor=mean_color_extractor()).run()
    expected = found.directions["color->gray"]["none"]
    outputs = painter.translate(data.images("color", range(COUNT)) * 2 - 1, 0, 1, style=torch.zeros(COUNT, 3))
    given = {"images": (outputs + 1) / 2, "truth": data.content(range(COUNT)), "real": train.content(range(20))}
    by_tensor = evaluate_images(**{name: images.clamp(0, 1) for name, images in given.items()}, options=FEATURES)
    folders = {name: write(images, tmp_path / name) for name, images in given.items()}
    by_folder = evaluate_images(**folders, options=FEATURES)
    for name in ("mse", "psnr", "ssim", "fid_clean", "kid_mean", "kid_std", "precision", "recall"):
        assert by_tensor["measures"][name] == pytest.approx(expected[name], rel=1e-5), name
        assert by_folder["measures"][name] == pytest.approx(expected[name], rel=1e-5), name
    assert [entry["index"] for entry in by_folder["details"]["worst"]] == list(range(11, -1, -1))
    assert by_folder["details"]["worst"][0]["file"] == "011.png"
    assert json.loads(json.dumps(by_folder, allow_nan=False)) == by_folder


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batches_do_not_matter(sets: dict[str, torch.Tensor], batch_size: int) -> None:
    whole = evaluate_images(**sets, options=FEATURES)
    options = Options(extractor=FEATURES.extractor, batch_size=batch_size)
    assert evaluate_images(**sets, options=options)["measures"] == pytest.approx(whole["measures"], rel=1e-6)


def test_a_gray_image_may_be_compared_with_three_channels(sets: dict[str, torch.Tensor]) -> None:
    gray = sets["truth"][:, :1]
    expected = evaluate_images(sets["images"], truth=gray.expand(-1, 3, -1, -1))["measures"]
    assert evaluate_images(sets["images"], truth=gray)["measures"] == pytest.approx(expected)
    assert evaluate_images(gray, truth=sets["images"])["measures"] == pytest.approx(expected)


def test_hand_computed_errors_and_bytes() -> None:
    images = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
    images[1] = 51
    report = evaluate_images(images, truth=torch.zeros(2, 1, 16, 16))
    assert report["measures"]["mse"] == pytest.approx((0.2**2 + 0) / 2)
    assert report["details"]["worst"][0] == {"index": 1, "measure": "mse", "value": pytest.approx(0.04)}
    assert report["protocol"]["images"] == 2
    assert any("--extractor" in warning for warning in report["warnings"])


def test_true_images_are_found_by_name_whatever_their_kind(sets: dict[str, torch.Tensor], tmp_path: Path) -> None:
    images = write(sets["images"], tmp_path / "images", [f"n{number}" for number in range(COUNT)])
    truth = tmp_path / "truth"
    truth.mkdir()
    for number in range(COUNT):
        Image.open(images / f"n{number}.png").save(truth / f"n{number}.bmp")
    assert evaluate_images(images, truth=truth)["measures"]["mse"] == 0
    assert m2o_fast.evaluate_images is evaluate_images


def test_true_images_are_found_in_subfolders_and_however_accents_are_stored(
    sets: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    names = [f"n{number}" for number in range(COUNT)]
    images = write(sets["images"], tmp_path / "images", ["sub/n0", "caf\u00e9", *names[2:]])
    truth = write(sets["images"], tmp_path / "truth", ["sub/n0", "cafe\u0301", *names[2:]])
    assert evaluate_images(images, truth=truth)["measures"]["mse"] == 0
    (truth / "sub" / "n0.png").rename(truth / "n0.png")
    with pytest.raises(UserError, match="1 images of .*images have no true image here: sub/n0.png"):
        evaluate_images(images, truth=truth)


def test_real_images_are_looked_at_once(sets: dict[str, torch.Tensor], tmp_path: Path) -> None:
    folders = {name: write(sets[name], tmp_path / name) for name in ("images", "real")}
    PASSED.clear()
    first = evaluate_images(**folders, options=FEATURES)
    assert sum(PASSED[1:]) == COUNT + 20  # the first call is the extractor's own try
    PASSED.clear()
    assert evaluate_images(**folders, options=FEATURES)["measures"] == first["measures"]
    assert sum(PASSED[1:]) == COUNT
    save_image(torch.zeros(3, 16, 16), folders["real"] / "000.png")
    PASSED.clear()
    assert evaluate_images(**folders, options=FEATURES)["measures"] != first["measures"]
    assert sum(PASSED[1:]) == COUNT + 20


def test_a_function_with_other_weights_looks_at_real_images_again(
    sets: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights.txt"
    weights.write_text("1")
    (tmp_path / "weighted.py").write_text(
        "from pathlib import Path\n\n"
        f"def mean(images):\n    return images.mean((2, 3)) * float(Path({str(weights)!r}).read_text())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    given = {"images": sets["images"], "real": sets["real"], "options": Options(extractor="module:weighted.mean")}
    before = evaluate_images(**given)["measures"]["fid_clean"]
    weights.write_text("2")
    assert evaluate_images(**given)["measures"]["fid_clean"] == pytest.approx(4 * before)


def test_a_size_for_images_of_several(sets: dict[str, torch.Tensor], tmp_path: Path) -> None:
    folder = write(sets["images"], tmp_path / "images")
    save_image(torch.zeros(3, 8, 32), folder / "wide.png")
    save_image(torch.zeros(3, 32, 32), folder / "zlarge.png")
    with pytest.raises(UserError) as refusal:
        evaluate_images(folder, truth=folder)
    for words in ("3 sizes", "16 x 16 (000.png)", "32 x 8 (wide.png)", "32 x 32 (zlarge.png)", "--size"):
        assert words in str(refusal.value)
    assert evaluate_images(folder, truth=folder, size=16)["measures"]["mse"] == 0


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_images_that_are_not_square_are_read_as_training_reads_them(
    sets: dict[str, torch.Tensor], tmp_path: Path, fit: str
) -> None:
    folder, squares_of = write(sets["images"][:, :, :11], tmp_path / "wide"), tmp_path / "square"
    for path in folder.iterdir():
        save_image(torch.from_numpy(read_pixels(path, 3, 16, fit=fit)) / 127.5 - 1, squares_of / path.name)
    given = {"real": folder, "truth": folder, "size": 16, "options": FEATURES}
    fitted = evaluate_images(squares_of, fit=fit, **given)
    assert fitted["measures"]["mse"] == 0 and fitted["measures"]["fid_clean"] == pytest.approx(0, abs=1e-6)
    assert fitted["protocol"]["fit"] == fit
    stretched = evaluate_images(squares_of, **given)
    assert stretched["measures"]["mse"] > 0 and stretched["measures"]["fid_clean"] > 1e-6, "its features are others"
    assert "fit" not in stretched["protocol"]


# --- refusals ---


def refused(*arguments: object, **options: object) -> str:
    with pytest.raises(UserError) as refusal:
        evaluate_images(*arguments, **options)  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_nothing_to_compare_with(sets: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert "--real" in refused(sets["images"])
    assert "--extractor inception:FILE" in refused(sets["images"], real=sets["real"])
    assert "--extractor" in refused(sets["images"], real=sets["real"], options=Options(extractor="none"))
    assert "--extractor" in refused(sets["images"], real=sets["real"], options=Options(extractor=""))
    assert "--real DIR" in evaluate_images(sets["images"], truth=sets["truth"], options=FEATURES)["warnings"][0]
    (tmp_path / "empty").mkdir()
    assert "no image files" in refused(tmp_path / "empty", real=sets["real"], options=FEATURES)
    assert "no such" in refused(tmp_path / "nowhere", truth=sets["truth"])


def test_unequal_pairs_are_named(sets: dict[str, torch.Tensor], tmp_path: Path) -> None:
    images, truth = write(sets["images"], tmp_path / "images"), write(sets["truth"][:5], tmp_path / "truth")
    line = refused(images, truth=truth)
    assert "7 images" in line and "005.png, 006.png, 007.png, 008.png, 009.png, and 2 more" in line
    assert "7 true images have no image" in refused(truth, truth=images)
    Image.open(truth / "000.png").save(truth / "000.bmp")
    assert "000" in refused(images, truth=truth) and "several files" in refused(images, truth=truth)
    assert "12 images but 5 true ones" in refused(sets["images"], truth=sets["truth"][:5])


def test_damaged_files_are_named(sets: dict[str, torch.Tensor], tmp_path: Path) -> None:
    folder = write(sets["images"], tmp_path / "images")
    for number in range(7):
        (folder / f"{number:03d}.png").write_bytes(b"" if number == 0 else b"no image")
    line = refused(folder, truth=folder)
    assert "7 images cannot be read" in line and "000.png: the file is empty" in line and line.endswith("; and 2 more")
    assert "005.png" not in line
    whole = (folder / "010.png").read_bytes()
    for number in range(7):
        (folder / f"{number:03d}.png").unlink()
    (folder / "010.png").write_bytes(whole[: len(whole) // 2])
    assert "010.png" in refused(folder, truth=folder)


def test_wrong_tensors_are_worded(sets: dict[str, torch.Tensor]) -> None:
    truth = sets["truth"]
    bad = sets["images"].clone()
    bad[[1, 2, 3, 5, 7, 11], 0, 3, 3] = torch.nan
    assert "not finite in images 1, 2, 3, 5, 7" in refused(bad, truth=truth)
    assert "beyond [0, 1] in images 0, 1" in refused(sets["images"] * 2 - 1, truth=truth)
    assert "truth: values not finite" in refused(truth, truth=bad)
    assert "[N >= 1, 1 or 3, S, S]" in refused(truth[:, :2], truth=truth)
    assert "uint8" in refused(truth.long(), truth=truth)
    assert "16 x 16 pixels, but truth of 8 x 8" in refused(truth, truth=truth[:, :, :8, :8])
    assert "leave size out" in refused(truth, truth=truth, size=8)
    assert "give it too, --size S" in refused(truth, truth=truth, fit="crop")
    assert "unknown --fit 'cut'; choose from stretch, crop, pad" in refused(truth, truth=truth, size=8, fit="cut")


def test_arrays_are_refused_in_words(sets: dict[str, torch.Tensor], tmp_path: Path) -> None:
    array, hint = sets["images"].numpy(), "give a folder or a tensor, not ndarray; torch.from_numpy makes a tensor"
    for role, given in {"images": {"images": array, "truth": sets["truth"]}, "truth": {**sets, "truth": array}}.items():
        with pytest.raises(UserError, match=f"^{role}: {hint}"):
            evaluate_images(**given, options=FEATURES)
    with pytest.raises(UserError, match="^images: there is nothing to compare them with"):
        evaluate_images(array)


def test_extractors_that_cannot_be_opened(sets: dict[str, torch.Tensor], tmp_path: Path) -> None:
    given = {"images": sets["images"], "real": sets["real"]}
    weights = tmp_path / "weights.pth"
    assert "no such file" in refused(**given, options=Options(extractor=f"inception:{weights}"))
    weights.write_bytes(b"not weights")
    assert str(weights) in refused(**given, options=Options(extractor=f"inception:{weights}"))
    named = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    named.write_bytes(b"other content")
    assert "SHA-256" in refused(**given, options=Options(extractor=f"inception:{named}"))
    assert "unknown extractor" in refused(**given, options=Options(extractor="resnet"))


@pytest.mark.parametrize(
    ("name", "words"), [("nothing", "NaN or infinite"), ("by_count", r"features must be \[n, 1\]")]
)
def test_features_of_no_use_are_one_line(
    sets: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    (tmp_path / "useless.py").write_text(
        "import torch\n\n"
        "def nothing(images):\n    return torch.full((len(images), 4), torch.nan)\n\n"
        "def by_count(images):\n    return torch.zeros(len(images), len(images))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    options = Options(extractor=f"module:useless.{name}")
    with pytest.raises(UserError, match=f"extractor gives features of no use: .*{words}"):
        evaluate_images(sets["images"], real=sets["real"], options=options)


def test_features_of_the_real_images_themselves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained once for each set of them."""
    monkeypatch.setattr("m2o_fast.metrics.own_net._STEPS", 2)
    generator = torch.Generator().manual_seed(1)
    made, real = torch.rand(2, 8, 3, 16, 16, generator=generator)
    options = Options(extractor="own")
    for times in (1, 0):
        found = evaluate_images(made, real=real, options=options, quiet=False)
        assert capsys.readouterr().err.count("training the extractor own on real") == times
    assert found["measures"]["fid_clean"] > 0 and found["protocol"]["extractor"].startswith("own (")
    evaluate_images(made, real=made, options=options, quiet=False)
    assert "training the extractor own on real" in capsys.readouterr().err
