"""The walls: imports go down, and no floor above the systems names one of them or a setting of one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from source_tree import ROOT

from m2o_fast.engine.config import keys
from m2o_fast.engine.schema import config_class
from m2o_fast.translators import NAMES, full_name, system
from m2o_fast.translators.settings import Loss

#: what may name no system, nor a setting of one
FLOORS = ("m2o_fast/engine", "m2o_fast/report", "m2o_fast/play", "m2o_fast/data", "m2o_fast/metrics", "cli")
FILES = [
    path
    for floor in FLOORS
    for path in sorted((ROOT / floor).rglob("*"))
    if path.suffix in (".py", ".html") and path.is_file()
]
#: from below; those of one floor do not know each other, but for the pure functions of the second
ROOMS = (
    {"ops"},
    {"m2o", "batch", "settings", "losses", "labels", "randomness", "files", "texts", "errors", "version"},
    {"nn"},
    {"translators", "metrics", "data"},
    {"engine"},
    {"report", "play"},
    {"cli"},
)
PURE = 1
SHARED = {f"loss.{key}" for key in Loss.model_fields}
SETTINGS = {
    key for name in NAMES for key in keys(name) if key.partition(".")[0] in system(name).settings.model_fields
} - SHARED
CLASSES = {name for facts in map(system, NAMES) for name in (facts.translator, facts.settings.__name__)}
LAYOUTS = {layout for name in NAMES for layout in system(name).layouts}
TITLES = {full_name(name, variant) for name in NAMES for variant in system(name).variants}


def texts(tree: ast.Module) -> Iterator[str]:
    """The strings of a module, docstrings left out."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def identifiers(tree: ast.Module) -> Iterator[str]:
    """Names, imported modules, and settings that are read as ``config.loss.cycle``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
            if isinstance(node.value, ast.Attribute):
                yield f"{node.value.attr}.{node.attr}"
        elif isinstance(node, ast.alias):
            yield from node.name.split(".")
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from node.module.split(".")


def said(text: str) -> set[str]:
    """What a text says of systems; a way of measuring FID is named after one."""
    known = {*NAMES, *CLASSES, *LAYOUTS, *SETTINGS}
    titles = set() if text.startswith("FID ") else {title for title in TITLES if title in text}
    return titles | known & set(re.findall(r"[\w.-]*\w", text))


def named(tree: ast.Module) -> set[str]:
    """What a module says of systems."""
    return {*NAMES, *CLASSES, *SETTINGS} & set(identifiers(tree)) | {one for text in texts(tree) for one in said(text)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_names_no_system_and_no_setting_of_one(path: Path) -> None:
    text = path.read_text()
    assert (named(ast.parse(text)) if path.suffix == ".py" else said(text)) == set()


def test_what_is_looked_for_is_found() -> None:
    code = "'''optim.ema'''\nsay('--system starganv2', x.loss.cycle, 'lower optim.lr, or', StarGANv2, 'of StarGAN v2')"
    assert named(ast.parse(code)) == {"starganv2", "loss.cycle", "optim.lr", "StarGANv2", "StarGAN v2"}
    assert named(ast.parse("'FID as StarGAN v2 computes it'")) == set()
    assert named(ast.parse("examples('HMS on digits')")) == {"HMS"}


def imported(tree: ast.Module) -> Iterator[tuple[str, ...]]:
    """Dotted names within the package that a module imports, wherever in it, split at the dots."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module or ''}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (tuple(name.split(".")[1:]) for name in names if name.startswith("m2o_fast."))


def floor(room: str) -> int:
    return next(number for number, rooms in enumerate(ROOMS) if room in rooms)


def climbs(room: str, tree: ast.Module) -> list[str]:
    """Rooms that a module of ``room`` may not import from."""
    others = {other for other, *_ in imported(tree) if other not in (room, "__version__")}
    return [other for other in others if floor(other) > floor(room) or floor(other) == floor(room) != PURE]


@pytest.mark.parametrize("room", [room for rooms in ROOMS for room in sorted(rooms)])
def test_imports_go_down(room: str) -> None:
    place = ROOT / "cli" if room == "cli" else ROOT / "m2o_fast" / room
    files = [*place.rglob("*.py")] if place.is_dir() else [place.with_suffix(".py")]
    assert files
    assert [(path, wrong) for path in files if (wrong := climbs(room, ast.parse(path.read_text())))] == []


def test_every_room_has_a_floor() -> None:
    rooms = {path.stem for path in (ROOT / "m2o_fast").iterdir() if path.suffix == ".py" or path.is_dir()}
    known = {room for rooms in ROOMS for room in rooms}
    assert {room for room in rooms if not room.startswith(("_", "cli"))} <= known


def test_an_import_that_goes_up_or_sideways_is_found() -> None:
    lines = "def f():\n from m2o_fast.engine import step\nimport m2o_fast.metrics.fid\nfrom m2o_fast import nn, data"
    assert sorted(climbs("data", ast.parse(lines))) == ["engine", "metrics"]


def strangers(name: str, tree: ast.Module) -> list[str]:
    """The other systems that a module of one imports from."""
    rooms = [rest[0] for room, *rest in imported(tree) if room == "translators" and rest]
    return [other for other in rooms if other in NAMES and other != name]


def test_systems_do_not_know_each_other() -> None:
    for name in NAMES:
        for path in sorted((ROOT / "m2o_fast" / "translators" / name).rglob("*.py")):
            assert strangers(name, ast.parse(path.read_text())) == [], path
    first, second = NAMES[:2]
    for line in (f"from m2o_fast.translators import base, {second}", f"import m2o_fast.translators.{second}.nets"):
        assert strangers(first, ast.parse(line)) == [second]


def test_facts_are_told_without_torch_and_shown() -> None:
    for name in NAMES:
        facts = system(name)
        assert facts.name == name and facts.title and facts.paper
        assert facts.variants.keys().isdisjoint(facts.refused)
        assert config_class(name)().system == name
        assert facts.load().__name__ == facts.translator
        assert "digits" in facts.presets and "folder" in facts.presets
