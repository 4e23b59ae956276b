"""A run on two folders of own images, each with labels of its own: from the command line to a resumed run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from folder_files import color_of, gray_of, write
from forked import together
from safetensors.torch import load_file
from small import SMALLER, iterations, small_config
from tiny import contents

import m2o_fast.data
from m2o_fast.batch import Batch
from m2o_fast.cli import main
from m2o_fast.engine import build
from m2o_fast.engine.config import ConfigError, dump_config, load_config
from m2o_fast.engine.evaluate import evaluate_run
from m2o_fast.engine.evaluation.options import Options
from m2o_fast.engine.loop import train
from m2o_fast.engine.memory import blank_batch, estimate_memory, saved_bytes
from m2o_fast.engine.pace import dry_run
from m2o_fast.engine.processes import Processes
from m2o_fast.engine.schema import Config
from m2o_fast.engine.trainer import Trainer
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.report import write_report
from m2o_fast.report.publish import publish
from m2o_fast.report.record import repeat_command

COLORS, HANDS = ("blue", "green", "red"), ("bold", "thin")
STARGAN = ["system=stargan", *SMALLER["stargan"]]
SIZE = ["data.image_size=32", "model.discriminator_layers=3"]


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Three domains in colour, and two gray ones of which one has pairs in the other."""
    for split in ("train", "val"):
        for k, name in enumerate(COLORS):
            for number in range(2 + k):
                write(tmp_path / "colors" / split / name / f"{number}.png", color_of(10 * k + number))
        for k, name in enumerate(HANDS):
            for number in range(4):
                write(tmp_path / "hands" / split / name / f"{number}.png", gray_of(10 * k + number))
    return [tmp_path / "colors", tmp_path / "hands"]


def named(folders: list[Path]) -> str:
    names = [f"folder:{folder}" for folder in folders]
    return f"data.name={names[0]}" if len(names) == 1 else f"data.name=[{', '.join(names)}]"


def config_of(folders: list[Path], *more: str) -> Config:
    return small_config(STARGAN, named(folders), *SIZE, "sample_every=2", *more)


def sources(batch: Batch) -> list[int]:
    return [k for k, count in enumerate(batch.source_counts) if count]


def test_every_data_set_has_batches_of_its_own(folders: list[Path], tmp_path: Path) -> None:
    """The discriminator's of an iteration one after the other, the generator's in every second; labels stay inside."""
    trainer = Trainer(config_of(folders, "batch_size=9"), tmp_path)
    assert trainer.translator.describe()["label_sets"] == [3, 2]
    assert [domain.name for domain in trainer.translator.domains] == [*COLORS, *HANDS]
    steps = [("discriminator", False), ("generator", False), ("discriminator", True), ("generator", False)]
    assert [(phase.name, phase.new_batch) for phase in trainer.translator.phases(1)] == steps
    assert [(phase.name, phase.new_batch) for phase in trainer.translator.phases(0)] == steps[::2]
    for step in range(3):
        first, second = trainer.batch(step)
        assert first.source_counts == first.target_counts == (3, 3, 3, 0, 0)
        assert sum(second.source_counts) == 9 and sources(second) == [3, 4]
        assert sum(second.target_counts) == 9 and second.target_counts[:3] == (0, 0, 0)
        assert not torch.equal(first.noise["between"], second.noise["between"])


def test_shares_of_processes_and_parts_are_those_of_the_whole(folders: list[Path], tmp_path: Path) -> None:
    config = config_of(folders, "batch_size=8", "data.crop_probability=0.5", "data.flip_probability=0.5")
    whole, parts = (Trainer(each, tmp_path) for each in (config, config.model_copy(update={"accumulate": 2})))
    shares = [build_batches(config, whole, Processes(rank=rank, count=2)) for rank in range(2)]
    for step in range(2):
        for number, batch in enumerate(whole.batch(step)):
            divided = [share(step)[number] for share in shares], parts.batch(step)[2 * number : 2 * number + 2]
            for k in sources(batch):
                for some in divided:
                    assert torch.equal(batch.source[k], torch.cat([part.source[k] for part in some]))
            assert noises([batch]) == noises(divided[0]) == noises(divided[1])


def build_batches(config: Config, whole: Trainer, processes: Processes) -> Callable[[int], list[Batch]]:
    data = build.open_split(config, "train")
    return type(whole.batches)(config, data, whole.translator, processes, torch.device("cpu"))


def noises(batches: list[Batch]) -> list[float]:
    return sorted(torch.cat([batch.noise["between"] for batch in batches]).flatten().tolist())


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["plain", "hms"])
def test_two_processes_and_parts_do_what_one_does(folders: list[Path], tmp_path: Path, variant: str) -> None:
    """Nets and losses, in float64, to rounding."""
    more = [named(folders), *SIZE, *(["data.uni=[thin]"] if variant == "hms" else [])]
    words = [*STARGAN, f"variant={variant}"]
    on_folders(tmp_path / "one", words, more)
    ended = together(2, tmp_path, on_folders, tmp_path / "both", words, [*more, "accumulate=2"])
    assert [outcome.code for outcome in ended] == [0, 0], ended
    wanted, found = (json.loads((tmp_path / name).with_suffix(".json").read_text()) for name in ("one", "both"))
    for one, other in zip(wanted, found, strict=True):
        assert other == pytest.approx(one, rel=1e-6, abs=1e-9)
    wanted, found = (load_file((tmp_path / name).with_suffix(".safetensors")) for name in ("one", "both"))
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-8, msg=name)


def on_folders(out: Path, words: list[str], more: list[str]) -> int:
    build.open_dataset = m2o_fast.data.open_dataset
    return iterations(out, words, more)


@pytest.mark.parametrize("variant", ["plain", pytest.param("hms", marks=pytest.mark.slow)])
def test_a_run_goes_on_with_the_same_bytes(folders: list[Path], tmp_path: Path, variant: str) -> None:
    """From where its folders have been moved to; then all that can be done with it is done."""
    words = [f"variant={variant}", *(["data.uni=[thin]"] if variant == "hms" else []), "data.flip_probability=0.5"]
    words += ["optim.decay_from=2", "optim.decay_steps=2", "loss.diversity_steps=4"]
    words += ["loss.labels=[independent, exclusive]"]
    for split in ("train", "val"):
        shutil.rmtree(folders[0] / split / "green")
    train(config_of(folders, *words), tmp_path / "whole", quiet=True)
    train(config_of(folders, *words, "steps=2"), tmp_path / "parts", quiet=True)
    moved = [folder.rename(folder.with_name(f"moved-{folder.name}")) for folder in folders]
    train(config_of(moved, *words), tmp_path / "parts", "auto", quiet=True)
    whole, parts = contents(tmp_path / "whole"), contents(tmp_path / "parts")
    assert [name for name in whole if whole[name] != parts.get(name)] == ["config.yaml"]
    losses = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    assert losses["discriminator/classification"] > 0 and ("generator/supervised" in losses) == (variant == "hms")
    with pytest.raises(
        UserError, match=rf"in {folders[0]} and {folders[1]} are not those|{folders[0]}: no such folder"
    ):
        evaluate_run(tmp_path / "whole", Options(sources=2))
    with pytest.raises(
        UserError, match=rf"--data-dir names 1 in the place of 2 .* {folders[0]}, {folders[1]}, in this"
    ):
        evaluate_run(tmp_path / "whole", Options(sources=2), data_dir=str(moved[0]))
    found = evaluate_run(tmp_path / "whole", Options(sources=2), data_dir=[*map(str, moved)])
    assert {"red->blue", "red->thin", "thin->bold", "thin->blue"} <= found["directions"].keys()
    assert len(found["directions"]) == 12 and list((tmp_path / "whole" / "evaluation").glob("*.json"))
    assert write_report([tmp_path / "whole"], data_dir=[*map(str, moved)]).is_file()
    card = (publish(tmp_path / "whole", tmp_path / "model", "mit") / "README.md").read_text()
    assert "- **Data**: 2 data sets of the kind folder, fingerprint" in card and str(folders[0]) not in card
    command = repeat_command(load_config(tmp_path / "parts" / "config.yaml"))
    assert f"--data folder:{moved[0]} --data folder:{moved[1]}" in command and "--data-dir" not in command


def test_memory_is_that_of_the_hungriest_data_set() -> None:
    """Three gray domains have more directions than two in colour, which have styles and so need more."""
    domains = [Domain(name, 1, multimodal=False) for name in "abc"] + [Domain(name) for name in "de"]
    config = small_config(["variant=hmu", *STARGAN], *SIZE)
    translator = build.build_translator(config, tuple(domains), (3, 2))
    for images in (4, 12):  # measured as they are, and from smaller batches
        saved = [saved_bytes(translator, blank_batch(translator, images, ways), index=0) for ways in translator.turns()]
        assert saved[1] > 1.1 * saved[0]
        estimate = estimate_memory(translator, translator, config.optim, images).activations
        assert estimate == pytest.approx(saved[1], rel=0.02)


@pytest.mark.parametrize("known", [False, True])
def test_pairs_that_no_data_set_has_are_missed_before_an_image_is_read(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Pairs of multi-modal domains do not count: translations into uni-modal ones alone are supervised."""

    def decoded(*_: object) -> None:
        raise UserError("images are read")

    monkeypatch.setattr("m2o_fast.data.folder._decode", decoded)
    if not known:
        for file in (folders[1] / "train" / "thin").iterdir():
            file.rename(file.with_name(f"other-{file.name}"))
    message = (
        "images are read" if known else r"stargan, variant 'hms', learns from known pairs, but the data has none: .*"
    )
    with pytest.raises(UserError, match=f"^{message}"):
        Trainer(config_of(folders, "variant=hms", "data.uni=[thin]"), tmp_path)


def test_the_plan_has_both(folders: list[Path]) -> None:
    result = dry_run(config_of(folders))
    assert result is not None and result["plan"]["data_sets"] == 2
    assert result["plan"]["images"] == {"blue": 2, "green": 3, "red": 4, "bold": 4, "thin": 4}
    assert result["lines"][0] == (
        f"stargan on folder:{folders[0]} and folder:{folders[1]}: 2 blue and 3 green and 4 red and 4 bold and 4 thin "
        "images, 4 steps; batch 4 = 1 process x 4 of each of 2 data sets"
    )


def test_a_run_knows_its_folders_and_others_may_be_named(folders: list[Path], tmp_path: Path) -> None:
    """In a file, and by --data over it, which names all of them."""
    config, file = config_of(folders), tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    assert load_config(file) == config and config.data.folders == tuple(map(str, folders))
    assert load_config(file, {"data.name": ["folder:a", "folder:b"]}).data.folders == ("a", "b")
    assert load_config(file, {"data.name": "folder:a"}).data.folders == ("a",)
    assert load_config(file, {"data.dir": "a"}).data.folders == ("a", str(folders[1]))
    file.write_text("{system: stargan, data: {name: ['folder:a', 'folder:b', 'folder:c'], image_size: 128}}")
    assert load_config(file).data.named == ("folder:a", "folder:b", "folder:c")
    with pytest.raises(ConfigError, match=r"data.also is for own folders; leave it out with data set 'digits'"):
        load_config(file, {"data.name": "digits", "data.also": ["b"]})


def test_another_division_into_data_sets_is_another_net(folders: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config_of(folders, "steps=1"), run, quiet=True)
    together_ = tmp_path / "together"
    for folder in folders:
        shutil.copytree(folder, together_, dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"nets for data sets of 3 and 2 domains, but the data has a data set of 5 dom"):
        train(config_of([together_], "steps=2"), run, "auto", quiet=True)
    with pytest.raises(UserError, match=r"of 3 and 2 domains, but the data has data sets of 2 and 3 domains"):
        train(config_of(folders[::-1], "steps=2"), run, "auto", quiet=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--system", "cyclegan"], "'cyclegan' reads no labels off images, .* into one data set, or take stargan"),
        (["--data", "digits"], "several data sets are folders of own images; write folder:DIR for each of two"),
        (["--data", "folder:"], "several data sets are folders of own images; write folder:DIR for each of two"),
        (["--data", "folder:{none}"], "{none}: no such folder"),
        (["--data", "folder:{first}"], "data folder {first} is given twice"),
        (["--data-dir", "x"], "the data folder is given twice in the options"),
        (["--variant", "hmu"], "are all multi-modal"),
        (["--set", "loss.labels=[independent]"], "loss.labels = .* in --set: 1 for 2 data sets; name one for each, in"),
        (["--set", "loss.labels=[independent, some]"], "loss.labels.*some"),
        (["--uni", "bald"], "names no domain: 'bald'; nearest: 'bold'"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_line(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    places = {"first": str(folders[0]), "none": str(tmp_path / "none")}
    given = [word for folder in folders for word in ("--data", f"folder:{folder}")]
    system = [] if "--system" in words else ["--system", "stargan"]
    words = [word.format(**places) for word in words]
    assert main(["train", *system, *given, *words, "--run", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1

    assert re.search(message.format(**places), error), error
    assert not (tmp_path / "run").exists()
