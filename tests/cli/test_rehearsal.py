"""Looking before leaping: dry run, bench, and the scaling model, on the command line."""

import json

import pytest
import yaml

from m2o_fast.engine.config import load_config
from m2o_fast.engine.start import Claim

SMALL = ["--set", "model.max_width=8", "--set", "model.hidden_dim=16", "--set", "batch_size=4", "--device", "cpu"]


def test_dry_run_is_a_file_for_config(here, tmp_path):
    code, out, err = here("train", *SMALL, "--steps", 5, "--dry-run", cwd=tmp_path)
    assert (code, err) == (0, "")
    comments = [line for line in out.splitlines() if line.startswith("#")]
    assert comments[0] == "# hms on digits: 1437 images, 5 steps; batch 4 = 1 process x 4"
    assert comments[-1].startswith("# expected time: ")
    assert len(comments) <= 8
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "c.yaml").write_text(out)
    sizes = {"model.max_width": 8, "model.hidden_dim": 16, "batch_size": 4, "device": "cpu", "steps": 5}
    assert load_config(tmp_path / "c.yaml") == load_config(overrides=sizes)


def test_dry_run_for_machines(here, tmp_path):
    code, out, err = here("train", *SMALL, "--dry-run", "--json", cwd=tmp_path)
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert set(result) == {"settings", "plan", "pace"}
    assert result["settings"]["model"]["max_width"] == 8
    assert result["plan"]["device"] == "cpu"
    assert result["pace"]["images_per_second"] > 0


def test_dry_run_without_data_still_shows_the_settings(here, tmp_path):
    words = ["train", "--data", "mnist", "--data-dir", "nowhere", "--dry-run"]
    code, out, err = here(*words, cwd=tmp_path)
    assert code == 2
    assert err.startswith("m2o-fast: error: MNIST not found")
    assert yaml.safe_load(out)["data"]["dir"] == "nowhere"
    code, out, again = here(*words, "--json", cwd=tmp_path)
    assert (code, again) == (2, err)
    assert "MNIST not found" in json.loads(out)["problem"]


def test_dry_run_refuses_what_training_refuses_in_the_same_words(here, refused, tmp_path):
    trained, taken = tmp_path / "trained", tmp_path / "taken"
    assert here("train", *SMALL, "--steps", 1, "--run", trained)[0] == 0
    (tmp_path / "file").touch()
    wider = tmp_path / "wider.yaml"
    wider.write_text((trained / "config.yaml").read_text().replace("max_width: 8", "max_width: 16"))
    attempts = [
        [*SMALL, "--accumulate", 3],
        [*SMALL, "--device", "cuda:7"],
        [*SMALL, "--run", trained],
        ["--run", trained, "--resume", "auto", "--seed", 5],
        ["--run", tmp_path / "new", "--resume", trained, "--config", wider],
        [*SMALL, "--run", tmp_path / "file"],
        [*SMALL, "--run", tmp_path / "file" / "below"],
        [*SMALL, "--run", taken],
        [*SMALL, "--resume", tmp_path / "nowhere"],
        ["--data", "mnist", "--data-dir", "nowhere"],
    ]
    with Claim(taken):
        before = sorted(tmp_path.rglob("*"))
        lines = []
        for words in attempts:
            lines.append(refused("train", *words, cwd=tmp_path))
            code, out, err = here("train", *words, "--dry-run", cwd=tmp_path)
            assert (code, err) == (2, lines[-1])
            assert yaml.safe_load(out)["variant"] == "hms" and "#" not in out
        after = sorted(tmp_path.rglob("*"))
    assert len(set(lines)) == len(attempts) and after == before


def test_dry_run_lets_pass_what_training_only_warns_of(here, tmp_path, monkeypatch):
    monkeypatch.setattr("m2o_fast.engine.plan.free_memory", lambda device: 1000)
    code, out, err = here("train", *SMALL, "--steps", 5, "--dry-run", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "TOO LITTLE" in out


def test_bench_train(here, tmp_path):
    code, out, err = here("bench", "train", *SMALL, "--steps", 2, cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("hms on digits")
    assert "img/s" in out.splitlines()[-1]
    assert "the median of 2 measured steps after 3 of warm-up" in out
    code, out, err = here("bench", "train", *SMALL, "--steps", 2, "--json", cwd=tmp_path)
    assert (code, err) == (0, "")
    pace = json.loads(out)["pace"]
    assert pace["images_per_second"] == pytest.approx(4 * pace["steps_per_second"])
    assert pace["hours"] == pytest.approx(pace["seconds_per_step"] * load_config().steps / 3600)
    assert list(tmp_path.iterdir()) == []


def test_sim_scale(here, tmp_path):
    code, out, err = here("sim-scale", "--step-ms", 100, cwd=tmp_path)
    assert (code, err) == (0, "")
    for text in ("weak scaling", "strong scaling", "1024", "100.0%", "A model, not a measurement"):
        assert text in out
    options = ["--images", 16, "--fixed-ms", 20, "--batch-size", 64, "--gpus", "64,8", "--gpus-per-node", 4]
    network = ["--intra-gb", 1, "--inter-gb", 0.1, "--intra-us", 1000, "--inter-us", 10000]
    code, out, err = here("sim-scale", "--step-ms", 100, *options, *network, "--json", cwd=tmp_path)
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["step"] == {"seconds": 0.1, "images": 16, "fixed_seconds": 0.02}
    assert result["network"] == {
        "gpus_per_node": 4,
        "intra_bandwidth": 1e9,
        "inter_bandwidth": 1e8,
        "intra_latency": pytest.approx(1e-3),
        "inter_latency": pytest.approx(1e-2),
    }
    assert [point["gpus"] for point in result["strong"]] == [8, 64]
    assert result["strong"][1]["images"] == 1
    assert result["weak"][1]["batch_size"] == 64 * 16


def test_tensorboard_is_a_setting(here, tmp_path, monkeypatch):
    monkeypatch.setattr("m2o_fast.engine.start.require_tensorboard", lambda: None)
    code, out, _ = here("train", *SMALL, "--tensorboard", "--dry-run", cwd=tmp_path)
    assert code == 0
    assert yaml.safe_load(out)["tensorboard"] is True
