"""Runs that begin with the weights of others."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import SMALLER, small_config
from tiny import contents, stop_at, tiny_config
from torch import Tensor

import m2o_fast
from m2o_fast.cli import main
from m2o_fast.engine.build import build_translator
from m2o_fast.engine.checkpoint import save_translator
from m2o_fast.engine.config import load_config
from m2o_fast.engine.convert import convert_checkpoint, write_published
from m2o_fast.engine.initial import begin_with, pinned
from m2o_fast.engine.loop import train
from m2o_fast.engine.model_folder import write_model
from m2o_fast.engine.runs import find_checkpoint
from m2o_fast.engine.schema import Config
from m2o_fast.engine.trainer import Trainer
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.translators import NAMES
from m2o_fast.translators.base import Translator

COLOR, GRAY = Domain("color", 3), Domain("gray", 1, multimodal=False)

Trained = Callable[[Path, int], Path]


def differing(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    assert found.keys() == wanted.keys()
    return [name for name in wanted if not torch.equal(found[name], wanted[name])]


def nets(*domains: Domain, seed: int = 1, words: tuple[str, ...] = ()) -> Translator:
    return build_translator(tiny_config(f"seed={seed}", *words), domains or (COLOR, GRAY))


def test_all_begins_with_the_averages_and_optimizers_are_new(trained: Trained, tmp_path: Path) -> None:
    run = trained(tmp_path / "before", 2)
    trainer = Trainer(tiny_config("seed=5", f"init_from={run}"), tmp_path / "run")
    wanted = m2o_fast.load(run, device="cpu").state_dict()
    assert differing(trainer.translator.state_dict(), wanted) == differing(trainer.averaged.state_dict(), wanted) == []
    assert trainer.step == 0 and not any(optimizer.state for optimizer in trainer.stepper.optimizers.values())
    first, *others = trainer.plan().weights
    assert f"{len(wanted)} of {len(wanted)} tensors are those of {run / 'checkpoints' / 'step-00000002'}" in first
    assert others == []


def test_the_source_may_be_gone_when_a_run_goes_on(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings tell where the weights came from, and their hash; a stopped run ends with the same bytes."""
    before = trained(tmp_path / "before", 2)
    asked = tiny_config("steps=2", "checkpoint_every=1", "sample_every=8", f"init_from={before}")
    train(asked, tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        stop_at(0, signal.SIGTERM, patch)
        train(asked, tmp_path / "run", quiet=True)
    kept = load_config(tmp_path / "run" / "config.yaml")
    folder, _, digest = (kept.init_from or "").partition("@sha256:")
    assert Path(folder) == before / "checkpoints" / "step-00000002" and len(digest) == 64
    shutil.rmtree(before)
    train(asked, tmp_path / "run", "auto", quiet=True)  # named once more, as it was
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    other = trained(tmp_path / "other", 2)
    with pytest.raises(UserError, match="trained with other settings: init_from"):
        train(tiny_config("steps=2", f"init_from={other}"), tmp_path / "run", "auto", quiet=True)


def test_other_weights_in_the_same_place_are_refused(trained: Trained, tmp_path: Path) -> None:
    save_translator(nets(), tmp_path / "source")
    asked = tiny_config(f"init_from={tmp_path / 'source'}")
    again = asked.with_values(pinned(asked, tmp_path / "run"))
    assert pinned(again, tmp_path / "run") == {}
    begin_with(nets(), again.init_from or "")
    shutil.rmtree(tmp_path / "source")
    save_translator(nets(seed=2), tmp_path / "source")
    with pytest.raises(UserError, match=r"source is not what this run was to begin with: its SHA-256 is [0-9a-f]{12}"):
        begin_with(nets(), again.init_from or "")


def small(name: str, variant: str, seed: int) -> Config:
    return small_config([f"system={name}", f"variant={variant}", *SMALLER.get(name, [])], f"seed={seed}")


@pytest.mark.parametrize("name", NAMES)
def test_every_system_begins_with_others(name: str, tmp_path: Path) -> None:
    one, two = (build_translator(small(name, "hms", seed), (COLOR, GRAY)) for seed in (1, 2))
    save_translator(one, tmp_path / "source")
    assert differing(two.state_dict(), one.state_dict())
    (line,) = begin_with(two, str(tmp_path / "source"))
    assert line.startswith("weights: ") and differing(two.state_dict(), one.state_dict()) == []


def test_published_weights_are_begun_with(tmp_path: Path) -> None:
    """Those of generators alone, for the other domains of the own images."""
    domains = tuple(Domain(name, 3) for name in ("day", "night"))
    before, now = (build_translator(small("cyclegan", "plain", seed), domains) for seed in (1, 2))
    save_translator(before, tmp_path / "run")
    files = write_published(tmp_path / "run", tmp_path / "published")
    generators = {file.stem.partition("net_")[2]: file for file in files if "net_G" in file.name}
    convert_checkpoint("cyclegan", generators, tmp_path / "converted", image_size=32)
    lines = begin_with(now, str(tmp_path / "converted"))
    assert differing(now.generators.state_dict(), before.generators.state_dict()) == []
    assert lines[1].startswith("domain 0 was A (3 channels") and "is day (3 channels" in lines[1]


def test_a_model_that_was_published_is_begun_with(tmp_path: Path) -> None:
    before, now, folder = nets(), nets(seed=2), tmp_path / "model"
    folder.mkdir()
    write_model(before, folder, {"fit": "stretch"})
    kept = pinned(tiny_config(f"init_from={folder}"), tmp_path / "run")["init_from"]
    assert kept.startswith(f"{folder}@sha256:")
    (line,) = begin_with(now, kept)
    assert line.startswith("weights: ") and differing(now.state_dict(), before.state_dict()) == []
    write_model(nets(seed=3), folder, {"fit": "stretch"})
    with pytest.raises(UserError, match="is not what this run was to begin with"):
        begin_with(now, kept)
    for described in ({}, {"domains": 7}, {"domains": [{"name": "a", "evil": 1}]}, {"domains": [7]}):
        config = {**json.loads((folder / "config.json").read_bytes()), "translator": described}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=r"config\.json: no domains"):
            begin_with(now, str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="neither a run .* nor a checkpoint"):
        begin_with(now, str(folder))


def test_a_model_of_the_hub_is_begun_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(nets(), tmp_path, {"fit": "stretch"})
    asked = {"hf:me/digits": tmp_path}
    monkeypatch.setattr("m2o_fast.engine.initial.fetched", asked.__getitem__)
    kept = pinned(tiny_config("init_from=hf:me/digits"), tmp_path / "run")["init_from"]
    assert kept.startswith(f"{tmp_path}@sha256:")
    for model in (Path("hf:me/digits"), tmp_path):  # what alone a run has
        with pytest.raises(UserError, match=f"{model} is a published model; this needs a run"):
            find_checkpoint(model)


def test_what_does_not_fit_is_named_with_the_reason(tmp_path: Path) -> None:
    before, now = nets(), nets(COLOR, replace(GRAY, channels=3), Domain("night", 3), seed=2)
    save_translator(before, tmp_path / "source")
    fresh = {name: tensor.clone() for name, tensor in now.state_dict().items()}
    lines = begin_with(now, str(tmp_path / "source"))
    found, given = now.state_dict(), before.state_dict()
    fits = [name for name in found if name in given and found[name].shape == given[name].shape]
    assert [name for name in found if not torch.equal(found[name], given[name] if name in fits else fresh[name])] == []
    assert lines[0].startswith(f"weights: {len(fits)} of {len(found)} tensors are those of {tmp_path / 'source'}")
    assert lines[1:3] == (
        "domain 1 was gray (1 channel, uni-modal), and is gray (3 channels, uni-modal)",
        "domain 2, night, is new",
    )
    assert "not among them: generator.stem_in.2; generator.stem_out.2; mapping_network.heads.2" in lines[3]
    assert "generator.stem_in.1.weight, which is [4, 1, 3, 3] instead of [4, 3, 3, 3]" in lines[4]
    save_translator(now, tmp_path / "wider")
    left_out = begin_with(before, str(tmp_path / "wider"))[-1]
    assert left_out.startswith("left out, as these nets have no such part: ") and "; generator.stem_in.2;" in left_out


def test_weights_of_the_same_shape_that_meant_something_else_are_told(tmp_path: Path) -> None:
    words = [*SMALLER["flow"], "system=flow", "variant=hms"]
    before, now = (
        build_translator(small_config([*words, f"model.predicts={what}"]), (COLOR, GRAY))
        for what in ("velocity", "image")
    )
    save_translator(before, tmp_path / "source")
    assert begin_with(now, str(tmp_path / "source"))[1:] == (
        "these nets are to work otherwise: predicts was 'velocity', and is 'image'",
    )


def test_weights_that_are_not_finite_are_not_taken(tmp_path: Path) -> None:
    before = nets()
    name, parameter = next(before.named_parameters())
    parameter.data[0] = torch.nan
    save_translator(before, tmp_path / "source")
    lines = begin_with(nets(), str(tmp_path / "source"))
    assert lines[1] == f"begins anew: {name}, which has numbers that are not finite"


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (lambda: nets(GRAY, COLOR), "gray, color would get those of another; rename the folders"),
        (lambda: build_translator(small("pix2pix", "hms", 1), (COLOR, GRAY)), "of system 'starganv2'.* of 'pix2pix'"),
    ],
    ids=["order", "system"],
)
def test_weights_of_something_else_are_refused(now: Callable[[], Translator], message: str, tmp_path: Path) -> None:
    save_translator(nets(COLOR, GRAY), tmp_path / "source")
    with pytest.raises(UserError, match=message):
        begin_with(now(), str(tmp_path / "source"))


def test_refusals_come_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["--init-from", str(tmp_path / "nowhere")], "nowhere: no such folder"),
        (["--init-from", str(tmp_path), "--run", str(tmp_path / "run")], "is neither a run"),
        (["--init-from", "a", "--resume", "b"], "leave one out"),
    ):
        assert main(["train", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert list(tmp_path.iterdir()) == []
