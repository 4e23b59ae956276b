"""Configurations and manifests that nobody thought of: taken, or refused in words, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from m2o_fast.engine.checkpoint import CheckpointError, load_translator, read_manifest, seal
from m2o_fast.engine.config import ConfigError, dump_config, flatten, keys, load_config
from m2o_fast.engine.yaml12 import parse_yaml

KEYS = keys("starganv2")
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 300),
    st.floats(),
    st.text(max_size=30),
    st.sampled_from(["auto", "cpu", "hms", "hmu", "rgb", "folder:x", "digits", "official", "palette", "2e-4"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PARTS = [
    "!!int ",
    "!!bool ",
    "!!map ",
    "&a ",
    "*a",
    "[",
    "]",
    "{",
    "}",
    ": ",
    "- ",
    "\n",
    "  ",
    "'",
    '"',
    "|",
    ">",
    "%",
]
YAML = st.lists(
    st.sampled_from([*PARTS, *KEYS, "1", "x", "~", "\t", "\0", "\x1b", "é", "---\n", "? ", "<<"]), max_size=25
)


def often(few: int, many: int) -> Callable[[Callable[..., None]], Any]:
    """A fixed number of examples, and more of them among the slow tests."""

    def decorate(test: Callable[..., None]) -> Any:
        count = pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.slow)])
        return count(test)

    return decorate


def examples(count: int) -> settings:
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=checks)


@often(100, 5000)
def test_values_of_a_configuration(count: int) -> None:
    @examples(count)
    @given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3))
    @example({"data.name": [[]]})
    @example({"data.name": "folder", "data.dir": "\0"})
    def load(values: dict[str, Any]) -> None:
        try:
            config = load_config(overrides=values)
        except ConfigError as error:
            assert any(key in str(error) for key in (*values, "digits", "folder", "system", "variant")), str(error)
        else:
            assert flatten(load_config(overrides=parse_yaml(dump_config(config)))) == flatten(config)

    load()


@often(200, 10_000)
def test_text_of_a_configuration(count: int) -> None:
    @examples(count)
    @given(YAML.map("".join))
    @example('steps: !!int ""')
    @example("a: &a [*a]")
    def parse(text: str) -> None:
        try:
            parse_yaml(text)
        except ValueError as error:
            assert str(error)

    parse()


@often(60, 2000)
def test_manifests(count: int, checkpoint: Path) -> None:
    whole = json.loads((checkpoint / "manifest.json").read_bytes())
    del whole["sha256"]
    places = [*((key,) for key in whole), *(("translator", key) for key in whole["translator"])]
    places += [("translator", part, key) for part in ("rules", "size") for key in whole["translator"][part]]

    @examples(count)
    @given(st.lists(st.tuples(st.sampled_from(places), VALUES), min_size=1, max_size=2))
    def load(changes: list[tuple[tuple[str, ...], Any]]) -> None:
        facts = json.loads(json.dumps(whole))
        for place, value in changes:
            inside = facts
            for key in place[:-1]:
                inside = inside[key] if isinstance(inside.get(key), dict) else {}
            inside[place[-1]] = value
        (checkpoint / "manifest.json").write_bytes(seal(facts))
        try:
            load_translator(checkpoint, read_manifest(checkpoint))
        except CheckpointError as error:
            assert checkpoint.name in str(error)

    load()
