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
from m2o_fast.translators import NAMES, system
from m2o_fast.translators.settings import Loss

#: what may name no system, nor a setting of one
FLOORS = ("m2o_fast/engine", "m2o_fast/report", "m2o_fast/data", "m2o_fast/metrics", "cli")
FILES = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
SHARED = {f"loss.{key}" for key in Loss.model_fields}
SETTINGS = {key for name in NAMES for key in keys(name) if key.partition(".")[0] in ("model", "loss", "optim")} - SHARED
CLASSES = {name for facts in map(system, NAMES) for name in (facts.translator, facts.settings.__name__)}
LAYOUTS = {layout for name in NAMES for layout in system(name).layouts}


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


def named(tree: ast.Module) -> set[str]:
    """What a module says of systems."""
    known = {*NAMES, *CLASSES, *LAYOUTS, *SETTINGS}
    words = {word for text in texts(tree) for word in re.findall(r"[\w.-]*\w", text)}
    return known & (words | set(identifiers(tree)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_names_no_system_and_no_setting_of_one(path: Path) -> None:
    assert named(ast.parse(path.read_text())) == set()


def test_what_is_looked_for_is_found() -> None:
    found = named(
        ast.parse("'''optim.ema'''\nsay('--system starganv2', x.loss.cycle, 'lower optim.lr, or', StarGANv2)")
    )
    assert found == {"starganv2", "loss.cycle", "optim.lr", "StarGANv2"}


def test_systems_do_not_know_each_other() -> None:
    for name in NAMES:
        others = {f"translators.{other}" for other in NAMES if other != name}
        for path in sorted((ROOT / "m2o_fast" / "translators" / name).rglob("*.py")):
            assert not [other for other in others if other in path.read_text()], path


def test_facts_are_told_without_torch_and_shown() -> None:
    for name in NAMES:
        facts = system(name)
        assert facts.name == name and facts.title and facts.paper
        assert facts.variants.keys().isdisjoint(facts.refused)
        assert config_class(name)().system == name
        assert facts.load().__name__ == facts.translator
        assert "digits" in facts.presets and "folder" in facts.presets
