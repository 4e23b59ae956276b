"""What a user does from beginning to end: train, through real processes, go on, evaluate, translate."""

import io
import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import chdir, redirect_stdout

import numpy as np
import pytest
from PIL import Image

from m2o_fast.cli import main

QUICKLY = ["--outputs-per-source", 2, "--sources", 30, "--extractor", "none", "--device", "cpu"]
SMALL = ["--set", "model.max_width=8", "--set", "model.hidden_dim=16", "--batch-size", 4, "--device", "cpu"]


@pytest.fixture(scope="session")
def home(m2o_fast, tmp_path_factory):
    """A folder with one trained run, ``runs/hms-digits-001``, and gray and coloured pictures."""
    folder = tmp_path_factory.mktemp("home")
    steps = ["--steps", 4, "--set", "checkpoint_every=2", "--set", "log_every=2"]
    done = m2o_fast("train", *steps, *SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "run folder: runs/hms-digits-001" in done.stdout
    assert "m2o-fast eval runs/hms-digits-001" in done.stdout
    generator = np.random.default_rng(0)
    (folder / "gray").mkdir()
    for name in ("a", "b"):
        Image.fromarray(generator.integers(0, 256, (32, 32), dtype=np.uint8)).save(folder / "gray" / f"{name}.png")
    Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / "color.png")
    return folder


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- train ---


def test_a_second_run_gets_the_next_number(here, home):
    before = files_of(home / "runs" / "hms-digits-001")
    assert here("train", "--steps", 1, *SMALL, "--quiet", cwd=home) == (0, "", "")
    assert (home / "runs" / "hms-digits-002" / "config.yaml").is_file()
    assert files_of(home / "runs" / "hms-digits-001") == before
    shutil.rmtree(home / "runs" / "hms-digits-002")


def test_a_run_and_a_foreign_folder_are_not_overwritten(refused, home, tmp_path):
    before = files_of(home)
    assert "add --resume auto" in refused("train", "--run", home / "runs" / "hms-digits-001", *SMALL)
    assert "is not a run" in refused("train", "--run", home / "gray", *SMALL)
    assert "is not a run" in refused("train", "--run", home / "gray", "--resume", "auto", *SMALL)
    assert "is a file" in refused("train", "--run", home / "color.png", *SMALL)
    assert files_of(home) == before


def test_going_on_needs_no_settings_and_refuses_others(here, refused, home, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(home / "runs" / "hms-digits-001", run)
    assert "model.style_dim: 8 -> 5" in refused("train", "--run", run, "--resume", "auto", "--set", "model.style_dim=5")
    code, out, err = here("train", "--run", run, "--resume", "auto", "--steps", 5)
    assert code == 0, err
    assert "step-00000004" in out
    assert (run / "checkpoints" / "step-00000005" / "manifest.json").is_file()


def test_a_checkpoint_to_resume_must_be_there_and_whole(refused, home, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(home / "runs" / "hms-digits-001", run)
    assert "nowhere" in refused("train", "--run", run, "--resume", run / "nowhere")
    newest = run / "checkpoints" / "step-00000004"
    (newest / "nets.safetensors").write_bytes(b"cut")
    line = refused("train", "--run", run, "--resume", newest, "--steps", 5)
    assert "nets.safetensors is damaged: 3 bytes" in line


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_stopped_run_is_saved_and_says_how_to_go_on(command, tmp_path, sent, code):
    words = ["train", "--run", "r", "--steps", "100000", "--set", "log_every=1", *SMALL]
    process = subprocess.Popen(
        [*command, *map(str, words)],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )
    metrics, limit = tmp_path / "r" / "metrics.jsonl", time.monotonic() + 600
    while not (metrics.is_file() and metrics.stat().st_size) and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(sent)
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, err
    assert "m2o-fast train --run r --resume auto" in out + err
    assert "Traceback" not in err
    assert len(list((tmp_path / "r" / "checkpoints").glob("step-*/manifest.json"))) == 1


# --- eval ---


@pytest.fixture(scope="session")
def evaluated(home):
    """The object that ``m2o-fast eval --json`` prints for the newest run."""
    with redirect_stdout(io.StringIO()) as printed, chdir(home):
        assert main(["eval", "--json", *map(str, QUICKLY)]) == 0
    return json.loads(printed.getvalue())


def test_eval_prints_one_object(evaluated):
    assert evaluated["run"].endswith("hms-digits-001")
    assert evaluated["step"] == 4
    assert set(evaluated["directions"]) == {"color->gray", "gray->color"}
    assert 0 < evaluated["directions"]["color->gray"]["none"]["mse"] < 10
    expected = {"color_recall", "color_recall_ceiling", "coverage", "unique_colors", "content_mse"}
    for guidance in ("latent", "reference"):
        assert expected <= set(evaluated["directions"]["gray->color"][guidance])
    assert evaluated["protocol"]["sources"] == 30 and evaluated["protocol"]["sources_available"] == 360


def test_eval_leaves_what_it_prints_in_the_run(evaluated, home):
    kept = home / "runs" / "hms-digits-001" / "evaluation" / "step-00000004.json"
    assert json.loads(kept.read_text()) == evaluated


def test_eval_prints_tables(here, home, evaluated):
    code, out, err = here("eval", "runs/hms-digits-001", *QUICKLY, cwd=home)
    assert code == 0, err
    for text in ("hms-digits-001, step 4", "color -> gray", "gray -> color", "mse", "color recall", "coverage"):
        assert text in out
    for words in ("note: no FID, KID, precision and recall: --extractor", "reference", "latent", "ssim"):
        assert words in out
    assert f"{evaluated['directions']['color->gray']['none']['mse']:.4g}" in out
    assert "gray -> color: 120 images" in err and "written to" in err
    assert here("eval", "runs/hms-digits-001", *QUICKLY, "--quiet", cwd=home)[2] == ""


def test_eval_refusals(here, refused, home, tmp_path):
    assert "no run below runs" in refused("eval", cwd=tmp_path)
    assert "nowhere" in refused("eval", "nowhere", cwd=tmp_path)
    assert "--real" in refused("eval", home / "gray")
    run = home / "runs" / "hms-digits-001"
    assert "step-00000002, step-00000004" in refused("eval", run, "--checkpoint", "step-7")
    assert "--guidance must be one of latent, reference, both" in refused("eval", run, "--guidance", "style")
    assert "unknown extractor" in refused("eval", run, "--extractor", "resnet")
    assert "nowhere.pth: no such file" in refused("eval", run, "--lpips", "nowhere.pth")
    for name in ("a", "b"):
        shutil.copytree(home / "gray", tmp_path / "own" / "val" / name)
    code, out, err = here("eval", run, "--data", f"folder:{tmp_path / 'own'}", *QUICKLY)
    assert (code, out) == (2, "")
    *said, line = err.splitlines()  # which images there are is said as they are read, and how far it is
    slow = ("decoding ", "decoded images are kept in ")  # said where it takes long
    assert all("images used" in note or " files/s, " in note or note.startswith(slow) for note in said), said
    assert "error: the run translates between color (3 channels, multi-modal), gray" in line


def test_eval_of_images(here, refused, home, tmp_path):
    """Pictures against themselves, against nothing, and with options that are for runs."""
    gray = home / "gray"
    code, out, err = here("eval", gray, "--truth", gray, "--json", "--quiet")
    assert code == 0 and err == ""
    assert json.loads(out)["measures"] == {"mse": 0, "psnr": 100, "ssim": pytest.approx(1)}
    code, out, _ = here("eval", gray, "--truth", gray)
    assert code == 0 and "ssim" in out and "direction" not in out
    assert "--extractor inception:FILE" in refused("eval", gray, "--real", gray)
    assert "--guidance, --sources: for runs" in refused(
        "eval", gray, "--truth", gray, "--guidance", "both", "--sources", 3
    )
    assert "name their folder" in refused("eval", "--truth", gray)
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "b.png")
    assert "32 x 32 pixels, but" in refused("eval", gray, "--truth", tmp_path)
    assert here("eval", gray, "--truth", tmp_path, "--size", 16, "--json")[0] == 0
    code, out, _ = here("eval", gray, "--truth", tmp_path, "--size", 16, "--fit", "crop", "--json")
    assert code == 0 and json.loads(out)["protocol"]["fit"] == "crop"
    assert "--size S" in refused("eval", gray, "--truth", tmp_path, "--fit", "pad")
    assert "name their folder" in refused("eval", "--fit", "pad")


# --- translate ---


def test_translate_a_folder(here, home, tmp_path):
    out = tmp_path / "out"
    done = here("translate", "gray", "--to", "color", "--out", out, cwd=home)
    assert done == (0, f"2 of 2 images written to {out}\n", "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert (image.mode, image.size) == ("RGB", (32, 32))


def test_translate_goes_on_with_a_folder_and_from_look_to_look(here, home, tmp_path):
    words = ["translate", "gray", "--to", "color", "--out", tmp_path / "out", "--psi", 0.5, "--resume", "--keep-size"]
    assert here(*words, cwd=home) == (0, f"2 of 2 images written to {tmp_path / 'out'}\n", "")
    (tmp_path / "out" / "b.png").unlink()
    kept = f"1 of 1 images written to {tmp_path / 'out'}; 1 were there already\n"
    assert here(*words, "--batch-size", 1, cwd=home) == (0, kept, "")
    way = ["--interpolate", 1, "color.png", "--frames", 3, "--out", tmp_path / "way.gif"]
    assert here("translate", "gray/a.png", "--to", "color", *way, cwd=home)[0] == 0
    with Image.open(tmp_path / "way.gif") as movie:
        assert (movie.n_frames, movie.size) == (3, (32, 32))


def test_translate_one_image_in_several_ways(here, home, tmp_path):
    run = home / "runs" / "hms-digits-001"
    ways = {
        "newest": [],
        "run": ["--run", run],
        "checkpoint": ["--checkpoint", run / "checkpoints" / "step-00000004"],
        "earlier": ["--run", run, "--checkpoint", "step-00000002"],
        "path": ["--checkpoint", run / "checkpoints" / "step-00000002"],
        "name": ["--checkpoint", "step-00000002"],
        "from": ["--from", "gray"],
        "seed": ["--seed", 1],
        "reference": ["--reference", "color.png"],
        "styles": ["--styles", 2],
    }
    for name, options in ways.items():
        file = tmp_path / f"{name}.png"
        words = ["translate", "gray/a.png", "--to", "color", "--out", file, *options]
        assert here(*words, cwd=home) == (0, f"1 of 1 images written to {file}\n", "")
    written = {name: (tmp_path / f"{name}.png").read_bytes() for name in ways}
    assert written["newest"] == written["run"] == written["checkpoint"] == written["from"]
    assert written["earlier"] == written["path"] == written["name"]
    assert len(set(written.values())) == 5


def test_a_bad_image_of_a_folder_is_named_and_the_others_are_translated(here, home, tmp_path):
    shutil.copytree(home / "gray", tmp_path / "in")
    (tmp_path / "in" / "b.png").write_bytes(b"")
    code, out, err = here("translate", tmp_path / "in", "--to", "color", "--out", tmp_path / "out", cwd=home)
    assert code == 2
    assert err.startswith("m2o-fast: error: ") and "b.png" in err
    assert len(err.splitlines()) == 1
    assert out == f"1 of 2 images written to {tmp_path / 'out'}\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_translate_refusals(refused, home, tmp_path):
    out = ["--out", tmp_path / "x.png"]
    assert "unknown domain 'blue'" in refused("translate", "color.png", "--to", "blue", *out, cwd=home)
    assert "no such file" in refused("translate", "none.png", "--to", "gray", *out, cwd=home)
    assert "neither a run" in refused("translate", "color.png", "--to", "gray", "--run", "gray", *out, cwd=home)
    words = ["translate", "color.png", "--to", "gray", "--checkpoint", "best", *out, "--run"]
    run = home / "runs" / "hms-digits-001"
    assert f"{run} has no best checkpoint" in refused(*words, run, cwd=home)
    assert "leave out --checkpoint" in refused(*words, run / "checkpoints" / "best", cwd=home)
    assert not (tmp_path / "x.png").exists()


# --- doctor ---


def test_doctor(here, tmp_path):
    code, out, err = here("doctor", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "adain_act (cpu)" in out
    assert "No problems found." in out
    assert list(tmp_path.iterdir()) == []


def test_doctor_reports_a_problem(here, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file where the cache folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, out, _ = here("doctor", "--json", cwd=tmp_path)
    assert code == 1
    problems = json.loads(out)["problems"]
    assert any("cache" in text and "Not a directory" in text for text in problems)
