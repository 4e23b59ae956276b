"""Reading a run folder: what is damaged is counted, what the numbers say about the run is said."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from no_files import KINDS, put_no_file
from result_file import evaluation
from tiny import tiny_config

from m2o_fast.engine.config import Config, load_config
from m2o_fast.errors import UserError
from m2o_fast.report.evaluation import newest_evaluation
from m2o_fast.report.record import read_record, repeat_command

MakeRun = Callable[..., Path]


def problems(run: Path) -> str:
    return " | ".join(read_record(run, run.name).problems)


def test_a_sound_run_has_no_problems(make_run: MakeRun) -> None:
    record = read_record(make_run("a", evaluation()), "a")
    assert record.problems == ()
    assert [line["step"] for line in record.metrics] == [1, 2, 3, 4] and record.step == 4
    assert record.title == "HMS on digits" and record.has_checkpoint
    assert record.sample_picture is not None and record.sample_picture.name == "step-00000004.png"


def test_damaged_lines_are_counted_and_the_others_used(make_run: MakeRun) -> None:
    run = make_run()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    broken = ["", "{", "[]", '"step"', '{"step": "2"}', '{"step": true}', '{"loss": 1}', "\udcff" * 3, "[" * 100_000]
    (run / "metrics.jsonl").write_text("\n".join([*lines[:2], *broken, *lines[2:]]), errors="surrogateescape")
    record = read_record(run, "a")
    assert [line["step"] for line in record.metrics] == [1, 2, 3, 4]
    assert f"{len(broken)} of {len(broken) + 4} lines are damaged" in record.problems[0]


def test_numbers_that_are_not_finite_are_left_out(make_run: MakeRun) -> None:
    run = make_run()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "a/b": NaN, "a/c": Infinity, "a/d": 1e999, "a/e": 1.5}\n')
    record = read_record(run, "a")
    assert record.metrics[-1] == {"step": 5, "a/e": 1.5}
    assert "3 numbers are not finite" in record.problems[0]


def test_numbers_beyond_all_charts_cost_only_themselves(make_run: MakeRun, report: Callable[..., str]) -> None:
    run = make_run(result=evaluation())
    with (run / "metrics.jsonl").open("a") as file:
        for step in range(5, 9):
            file.write(f'{{"step": {step}, "a/b": {(-1) ** step * 1e308}, "a/c": 1e-14, "a/d": 5e-324}}\n')
        file.write('{"step": 1' + 200 * "0" + ', "a/b": 1.0}\n')
    path = next((run / "evaluation").iterdir())
    found = json.loads(path.read_text())
    found["directions"]["color->gray"]["none"]["mse"] = 10**400
    path.write_text(json.dumps(found))
    assert "4 numbers are not finite" in (page := report(run)) and "1 of 9 lines" in page


def test_skipped_steps_are_told_with_their_places(make_run: MakeRun) -> None:
    run = make_run()
    counts = [0, 2, 2, 3]
    rows = [{"step": step + 1, "skipped": count} for step, count in enumerate(counts)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "3 steps were skipped: their loss was not finite (in the log lines of step 2, 4)" in problems(run)


def test_an_unfinished_run_says_how_to_go_on(make_run: MakeRun) -> None:
    run = make_run("my run")
    config = (run / "config.yaml").read_text().replace("\nsteps: 4\n", "\nsteps: 9\n")
    (run / "config.yaml").write_text(config)
    assert f"4 of 9 steps are logged; go on with m2o-fast train --run '{run}' --resume auto" in problems(run)


def test_the_alarm_sounds_at_the_end_only(make_run: MakeRun) -> None:
    run = make_run()
    rows = [{"step": 5000, "gray->color/style_effect": 0.01}, {"step": 5001, "gray->color/color_spread": 0.01}]
    (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = problems(run)
    assert "gray->color/color_spread: 0.01 is below 0.25" in found and "style_effect" not in found


@pytest.mark.parametrize("name", ["config.yaml", "env.json", "evaluation/step-00000004.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[1, 2", b'{"format": 2}', b"variant: [}", b"null"])
def test_a_damaged_file_is_named(make_run: MakeRun, name: str, content: bytes) -> None:
    run = make_run("a", evaluation())
    if name == "config.yaml" and content in (b"", b"null"):
        content = b"unheard_of: 1\n"  # an empty file means the defaults
    (run / name).write_bytes(content)
    if name == "env.json" and content == b'{"format": 2}':
        assert read_record(run, "a").environment == {"format": 2}
    else:
        assert Path(name).name in problems(run)


@pytest.mark.parametrize("name", ["env.json", "metrics.jsonl", "evaluation/step-00000004.json"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_named_and_not_waited_for(make_run: MakeRun, name: str, kind: str) -> None:
    run = make_run("a", evaluation())
    put_no_file(kind, run / name)
    found = problems(run)
    unseen = {
        "env.json": ["missing", "link to nothing"],
        "metrics.jsonl": ["missing", "link to nothing", "link to itself"],
    }
    assert (Path(name).name in found) == (kind not in unseen.get(name, ["missing"])), found


def test_a_log_larger_than_any_is_named(make_run: MakeRun) -> None:
    run = make_run("a")
    with (run / "metrics.jsonl").open("wb") as file:
        file.truncate(1 << 40)  # a hole, which takes no room
    assert "metrics.jsonl cannot be read: larger than 256 MiB" in problems(run)


def test_the_newest_readable_evaluation_is_taken(make_run: MakeRun) -> None:
    run = make_run("a", evaluation())
    (run / "evaluation" / "step-00000002.json").write_text(json.dumps(evaluation(step=2)))
    (run / "evaluation" / "step-00000008.json").write_text("{")
    found, complaints = newest_evaluation(run)
    assert found is not None and found.step == 4
    assert len(complaints) == 1 and "step-00000008.json" in complaints[0]


@pytest.mark.parametrize(
    "histogram",
    [
        {"bins": 4, "generated": [1] * 63, "real": [1] * 64},
        {"bins": 0, "generated": [], "real": []},
        {"bins": 1, "generated": [-1], "real": [1]},
    ],
)
def test_a_histogram_must_fit_its_bins(make_run: MakeRun, histogram: dict) -> None:
    details = {"gray->color": {"color_histogram": histogram}}
    assert "step-00000004.json is damaged" in problems(make_run("a", evaluation(details=details)))


def test_the_command_is_short_where_a_preset_says_it() -> None:
    config = load_config(preset="mnist", overrides={"data.name": "folder", "data.dir": "x", "seed": 3})
    assert repeat_command(config) == (
        "m2o-fast train --variant hms --data folder --data-dir x --preset mnist --steps 6500 --seed 3"
    )


def test_an_empty_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("steps: 5\n")
    with pytest.raises(UserError, match="has nothing to report yet"):
        read_record(tmp_path, "a")


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(),
        load_config(),
        load_config(overrides={"data.name": "mnist", "data.dir": "/a b/$HOME", "variant": "starganv2", "steps": 21}),
        load_config(assignments=["optim.betas=[0.5, 0.9]", "optim.mapping_lr=2e-5", "seed=5", "precision=bf16"]),
        load_config(assignments=["loss.diversity_steps=2000", "steps=2000", "model.base_width=official"]),
        load_config(preset="mnist", overrides={"data.name": "digits"}),
        load_config(overrides={"data.name": "folder", "data.dir": "x", "data.uni": ["a b", "c"]}),
    ],
    ids=lambda config: f"{config.variant}-{config.data.name}",
)
def test_the_command_gives_the_same_settings(config: Config) -> None:
    words = shlex.split(repeat_command(config))
    assert words[:2] == ["m2o-fast", "train"]
    names = {"--data": "data.name", "--data-dir": "data.dir"}
    overrides, assignments = {}, []
    for option, value in zip(words[2::2], words[3::2], strict=True):
        if option == "--set":
            assignments.append(value)
        else:
            overrides[names.get(option, option[2:].replace("-", "_"))] = value
    again = load_config(overrides=overrides, assignments=assignments, preset=overrides.pop("preset", None))
    assert again.filled().loss.diversity_steps == config.filled().loss.diversity_steps
    same = {"loss": config.loss.model_copy(update={"diversity_steps": again.loss.diversity_steps})}
    assert again == config.model_copy(update=same)
