"""Folders and files that commands write are there whole or not at all, and a full disk is said in a line."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from published import DOMAINS
from small import small_config

from m2o_fast.engine.build import build_translator
from m2o_fast.engine.checkpoint import save_translator
from m2o_fast.engine.convert import write_published
from m2o_fast.engine.export_graphs import write_pt2
from m2o_fast.engine.model_folder import WEIGHTS
from m2o_fast.engine.runs import load_translator
from m2o_fast.errors import UserError
from m2o_fast.files import appearing
from m2o_fast.report import publish as publishing


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    nets = build_translator(small_config(["system=cyclegan", "variant=plain", "model.blocks=1"]), DOMAINS)
    return save_translator(nets, tmp_path_factory.mktemp("nets") / "cyclegan")


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file may become larger: the system says so as it says that a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_published_weights_on_a_full_disk(checkpoint: Path, tmp_path: Path) -> None:
    with room(2000), pytest.raises(UserError, match=r"again: cannot be written \(File too large\)"):
        write_published(checkpoint, tmp_path / "again")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_graph_on_a_full_disk(tmp_path: Path) -> None:
    """Where torch writes the file itself, the process is aborted."""
    refuse_graph(torch.export.export(torch.nn.Linear(9, 99), (torch.zeros(1, 9),)), tmp_path)


def test_a_graph_is_handed_over_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, without the time that it takes to make a graph."""
    monkeypatch.setattr(torch.export, "save", lambda program, file, *, extra_files: file.write(program))
    refuse_graph(b"graph" * 1000, tmp_path)


def refuse_graph(program: Any, place: Path) -> None:
    with room(2000), pytest.raises(UserError, match=r"graph: cannot be written \(File too large\)"):
        with appearing(place / "graph") as folder:
            write_pt2(program, folder / "a.pt2", "{}")
    assert not list(place.iterdir())


@pytest.mark.parametrize("name", ["published", "below/another"])
def test_a_model_is_not_there_while_it_is_written(
    name: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed meanwhile leaves no folder that publish --push would take for a model."""
    seen = []
    card = publishing.CARD

    def watched(*arguments: object) -> None:
        write(*arguments)
        seen.append((tmp_path / name).exists())

    write = publishing.write_model
    monkeypatch.setattr(publishing, "write_model", watched)
    publishing.publish(checkpoint, tmp_path / name, "mit")
    assert seen == [False] and (tmp_path / name / card).is_file()
    assert [path.name for path in (tmp_path / name).parent.iterdir()] == [Path(name).name]


def test_a_card_on_a_full_disk(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "write_model", lambda *_: None)
    with room(100), pytest.raises(UserError, match=r"model: cannot be written \(File too large\)"):
        publishing.publish(checkpoint, tmp_path / "model", "mit")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_with_the_name_that_was_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    with room(8000), pytest.raises(UserError, match=rf"/mine/{WEIGHTS}: cannot be written \(.*too large"):
        publishing.publish(checkpoint, tmp_path / "mine", "mit")
    with pytest.raises(UserError, match=r"cannot be written \(File name too long\)"), appearing(tmp_path / ("x" * 256)):
        pytest.fail("work that has no name in the end")
    assert not list(tmp_path.iterdir())


def test_a_link_that_leads_nowhere_is_something(checkpoint: Path, tmp_path: Path) -> None:
    """No folder can take its place, which would be found when all work is done."""
    out = tmp_path / "link"
    out.symlink_to(tmp_path / "none")
    writes: tuple[Callable[[], object], ...] = (
        lambda: write_published(checkpoint, out),
        lambda: publishing.publish(checkpoint, out, "mit"),
        lambda: save_translator(load_translator(checkpoint), out),
    )
    for write in writes:
        with pytest.raises(UserError, match="link exists already"):
            write()


def test_a_folder_that_another_process_fills_is_left_alone(tmp_path: Path) -> None:
    with appearing(tmp_path / "model") as one, appearing(tmp_path / "model") as other:
        assert one != other
        (other / "file").touch()
        other.rename(tmp_path / "model")
        with pytest.raises(UserError, match="below: cannot be written"):
            with appearing(tmp_path / "model" / "file" / "below"):
                pytest.fail("a folder in a file")
        assert one.is_dir()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "file"]
