"""Styles nearer to the mean, and on the way from one to another."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small import SMALLER, small_config
from test_translate_folders import COLOR, GRAY, build, pixels, write

from m2o_fast.cli import main
from m2o_fast.engine import movies
from m2o_fast.engine.build import build_translator
from m2o_fast.engine.looks import between, styles_of, truncated
from m2o_fast.engine.translate import Request, translate_path
from m2o_fast.errors import UserError
from m2o_fast.randomness import torch_generator
from m2o_fast.translators import NAMES
from m2o_fast.translators.base import Translator


@pytest.fixture(scope="module")
def mapped() -> Translator:
    """Styles are what a net makes of latents."""
    return build("starganv2", base_width=4, max_width=8, style_dim=4, latent_dim=4, hidden_dim=8)


@pytest.fixture(scope="module")
def normal() -> Translator:
    return build("munit", width=2, discriminator_width=2, blocks=1, mlp_width=2)


def styles(translator: Translator, **asked: object) -> torch.Tensor:
    def read(_: Path) -> torch.Tensor:
        return torch.zeros(1, 3, 32, 32)

    return styles_of(translator, COLOR, Request("color", **asked), 5, read)


@pytest.mark.parametrize("name", NAMES)
def test_styles_that_are_called_normal_are(name: str) -> None:
    config = small_config([f"system={name}", "variant=hms", *SMALLER.get(name, [])])
    translator = build_translator(config, (COLOR, GRAY))
    (target,) = (k for k in range(2) if translator.has_style(k))
    found = translator.sample_style(3, target, torch_generator(1, "x"))
    drawn = torch.randn(found.shape, generator=torch_generator(1, "x"))
    assert torch.equal(found, drawn) == translator.normal_styles


def test_normal_styles_are_shortened(normal: Translator) -> None:
    drawn = styles(normal, styles=3)
    assert torch.equal(styles(normal, styles=3, psi=0.5), drawn / 2)
    assert torch.equal(styles(normal, styles=3, psi=1.0), drawn)


def test_styles_of_a_net_go_towards_their_mean(mapped: Translator) -> None:
    drawn, mean = styles(mapped, styles=64), styles(mapped, psi=0.0)
    assert torch.allclose(styles(mapped, styles=64, psi=0.25), mean + (drawn - mean) / 4, atol=1e-6)
    assert torch.equal(styles(mapped, seed=7, psi=0.0), mean)
    many = mapped.sample_style(4000, "color", torch_generator(5, "other"))
    assert ((mean - many.mean(0)).abs() < 0.1 * many.std(0)).all()
    assert torch.equal(truncated(mapped, COLOR, drawn, 0.0), mean.expand_as(drawn))


def test_lengths_stay_on_the_arc_between_normal_styles() -> None:
    a, b = torch.randn(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    way = between(a, b, 7, spherical=True)
    lengths = way.flatten(1).norm(dim=1)
    assert torch.allclose(lengths, torch.linspace(float(lengths[0]), float(lengths[-1]), 7), rtol=1e-5)
    angles = torch.nn.functional.cosine_similarity(way[1:].flatten(1), way[:-1].flatten(1)).acos()
    assert torch.allclose(angles, angles[:1].expand(6), atol=1e-3)
    assert torch.allclose(way[[0, -1]], torch.cat([a, b]), atol=1e-6)
    line = between(a, b, 3, spherical=False)
    assert torch.allclose(line[1], (a + b)[0] / 2) and line[1].norm() < 0.8 * lengths.min()


@pytest.mark.parametrize("other", [[0.0, 0.0], [2.0, 4.0], [-1.0, -2.0]], ids=["none", "same", "opposite"])
def test_where_there_is_no_arc_the_way_is_straight(other: list[float]) -> None:
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([other])
    assert torch.allclose(between(a, b, 3, spherical=True), torch.cat([a, (a + b) / 2, b]))


def test_an_end_is_a_seed_or_an_image(normal: Translator, mapped: Translator) -> None:
    way = styles(normal, interpolate=("3", "red.png"))
    assert way.shape == (5, *normal.style_shape("color"))
    assert torch.allclose(way[:1], styles(normal, seed=3)) and torch.allclose(way[-1:], styles(normal, reference="x"))
    ends = styles(mapped, seed=3), styles(mapped, seed=4)
    assert torch.allclose(styles(mapped, interpolate=("3", "4"))[2:3], sum(ends) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"target": "gray", "psi": 0.5}, "'gray' have no style: .*; leave --psi out"),
        ({"target": "gray", "interpolate": ("1", "2")}, "'gray' have no style: .*; leave --interpolate out"),
        ({"interpolate": ("1", "2"), "seed": 1}, "leave --seed, --styles and --reference out"),
        ({"interpolate": ("1", "2"), "styles": 1}, "leave --seed, --styles and --reference out"),
        ({"psi": float("nan")}, "--psi must be a finite number, got nan"),
        ({"frames": 4}, "--frames are those of --interpolate A B, which is missing"),
        ({"interpolate": ("1", "nowhere.png")}, "nowhere.png: no such image file"),
        ({"interpolate": ("1", "²")}, "²: no such image file"),
    ],
)
def test_requests_that_do_not_fit(normal: Translator, asked: dict[str, object], message: str, tmp_path: Path) -> None:
    source = {"color": "gray", "gray": "color"}[str(asked.get("target", "color"))]
    write(tmp_path / "in.png", 32, 32)
    request = Request(**{"target": "color", "source": source, **asked})
    with pytest.raises(UserError, match=message):
        translate_path(normal, tmp_path / "in.png", tmp_path / "out.png", request)
    assert not (tmp_path / "out.png").exists()


def test_no_style_is_read_without_an_encoder(tmp_path: Path) -> None:
    write(tmp_path / "in.png", 32, 32)
    translator = build("cyclegan", width=2, discriminator_width=2, blocks=1, style="noise")
    request = Request("color", interpolate=("1", str(tmp_path / "in.png")))
    with pytest.raises(UserError, match="leave images as ends of --interpolate out"):
        translate_path(translator, tmp_path / "in.png", tmp_path / "out.png", request)
    with pytest.raises(UserError, match="would overwrite an image that is read"):
        translate_path(translator, write(tmp_path / "x.png", 8, 8), tmp_path / "in.png", request)


def test_a_strip_begins_with_the_image(normal: Translator, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png", 32, 32)
    translate_path(normal, tmp_path / "in", tmp_path / "out", Request("color", interpolate=("1", "2")))
    translate_path(normal, tmp_path / "in" / "a.png", tmp_path / "one.png", Request("color", seed=1))
    strip = pixels(tmp_path / "out" / "a.png")
    assert strip.shape == (36, 9 * 34 + 2, 3)
    assert np.array_equal(strip[2:34, 2:34, 0], pixels(tmp_path / "in" / "a.png"))
    assert np.abs(strip[2:34, 36:68] - pixels(tmp_path / "one.png")).max() <= 1


def test_a_gif_shows_the_looks_one_after_the_other(
    normal: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file as large as one of them is enough."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20 * 24)
    write(tmp_path / "a.png", 20, 24)
    translate_path(normal, tmp_path / "a.png", tmp_path / "a.gif", Request("color", interpolate=("1", "2"), frames=6))
    with Image.open(tmp_path / "a.gif") as movie:
        assert (movie.size, movie.n_frames, movie.info["duration"], movie.info["loop"]) == ((20, 24), 6, 50, 0)


ENCODER = """#!/bin/sh
for last; do :; done
echo "$@" > "$0.words"
cat > "${last#file:}"
"""
BROKEN = "#!/bin/sh\necho some words >&2; echo unknown encoder >&2; exit 3\n"


def install(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a script in the place of ffmpeg."""
    folder.mkdir()
    (folder / "ffmpeg").write_text(script)
    (folder / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_ffmpeg_gets_the_frames_and_writes_a_whole_file(
    normal: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sides are made even by repeating the edge."""
    install(tmp_path / "bin", ENCODER, monkeypatch)
    write(tmp_path / "a.png", 19, 24)
    request = Request("color", interpolate=("1", "2"), frames=4)
    translate_path(normal, tmp_path / "a.png", tmp_path / "out" / "a.mp4", request)
    frames = np.fromfile(tmp_path / "out" / "a.mp4", dtype=np.uint8).reshape(4, 24, 20, 3)
    assert np.array_equal(frames[:, :, 19], frames[:, :, 18])
    translate_path(normal, tmp_path / "a.png", tmp_path / "last.png", Request("color", seed=2))
    assert np.abs(frames[-1, :, :19].astype(int) - pixels(tmp_path / "last.png")).max() <= 1
    words = (tmp_path / "bin" / "ffmpeg.words").read_text()
    assert "-s 20x24 -r 20 -i pipe:0" in words and f"file:{tmp_path / 'out'}/." in words
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mp4"]


def test_what_ffmpeg_says_is_handed_on(normal: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "bin", BROKEN, monkeypatch)
    write(tmp_path / "a.png", 200, 200)
    request = Request("color", interpolate=("1", "2"), frames=3)
    with pytest.raises(UserError, match=r"a\.mp4: ffmpeg failed, exit code 3: unknown encoder"):
        translate_path(normal, tmp_path / "a.png", tmp_path / "out" / "a.mp4", request)
    assert list((tmp_path / "out").iterdir()) == []


#: what is no ffmpeg, and what is said of it
NO_ENCODERS = {
    "takes nothing": ("exit 0", "ended before it had all frames"),
    "writes nothing": ("cat > /dev/null", "has written nothing"),
    "does not begin": ("sleep 1000", "did nothing for 0.5 seconds"),
    "does not end": ("cat > /dev/null; sleep 1000", "did nothing for 0.5 seconds"),
}


@pytest.mark.parametrize("kind", NO_ENCODERS)
def test_an_ffmpeg_that_makes_no_movie_leaves_the_old_one(
    kind: str, normal: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, said = NO_ENCODERS[kind]
    install(tmp_path / "bin", f"#!/bin/sh\n{script}\n", monkeypatch)
    monkeypatch.setattr(movies, "_PATIENCE", 0.5)
    write(tmp_path / "a.png", 200, 200)  # frames that no pipe holds
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.mp4").write_bytes(b"old")
    request = Request("color", interpolate=("1", "2"), frames=3)
    with pytest.raises(UserError, match=rf"a\.mp4: ffmpeg failed, it {said}"):
        translate_path(normal, tmp_path / "a.png", tmp_path / "out" / "a.mp4", request)
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "out").iterdir()] == [("a.mp4", b"old")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ffmpeg_does_not_outlive_a_signal(
    number: signal.Signals,
    normal: Translator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Here it is the encoder that sends it, when frames come."""
    script = f'#!/bin/sh\necho $$ > "$0.number"; head -c 1 > /dev/null; kill -{number} {os.getpid()}; sleep 1000\n'
    install(tmp_path / "bin", script, monkeypatch)
    write(tmp_path / "a.png", 200, 200)
    monkeypatch.setattr("m2o_fast.engine.runs.load_translator", lambda *_: normal)
    way = ["--interpolate", 1, 2, "--frames", 3]
    run = ["--run", tmp_path]
    words = [tmp_path / "a.png", *run, "--to", "color", *way, "--out", tmp_path / "out" / "a.mp4"]
    assert main(["translate", *map(str, words)]) == 128 + number
    assert capsys.readouterr().err == "m2o-fast: interrupted\n" and list((tmp_path / "out").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "bin" / "ffmpeg.number").read_text()), 0)


def test_a_seed_of_an_interpolation_is_no_endless_number(normal: Translator) -> None:
    with pytest.raises(UserError, match=r"a seed of --interpolate has at most 1000 digits, not 5,000"):
        styles(normal, interpolate=("9" * 5000, "1"))
    styles(normal, interpolate=("9" * 1000, "1"))


def test_a_gif_that_is_too_wide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.gif: a GIF has at most 65,535 pixels a side, not 65,536"):
        movies.save_movie(iter([Image.new("L", (1 << 16, 1))] * 2), tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_without_ffmpeg_a_line_says_what_to_do(
    normal: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    write(tmp_path / "a.png", 8, 8)
    with pytest.raises(UserError, match=r"a\.mp4: there is no ffmpeg on the PATH .*; install ffmpeg, or write a \.gif"):
        translate_path(normal, tmp_path / "a.png", tmp_path / "a.mp4", Request("color", interpolate=("1", "2")))
    with pytest.raises(UserError, match=r"ends in \.png"):
        translate_path(normal, tmp_path / "a.png", tmp_path / "a.mp4", Request("color"))
