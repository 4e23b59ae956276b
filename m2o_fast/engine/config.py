"""How a run gets its configuration: defaults, presets, files and options are laid over each other.

From weak to strong: the defaults of the schema, the preset of the data set (``presets/<data.name>.yaml``), a YAML
file, the options of the command line, ``--set KEY=VALUE``. A dumped configuration holds every key, so that it alone
decides when it is loaded again, whatever the defaults and presets have become by then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from m2o_fast.engine.schema import Config, DataConfig, LossConfig, ModelConfig, OptimConfig, nearest
from m2o_fast.engine.yaml12 import dump_yaml, parse_yaml
from m2o_fast.errors import UserError

__all__ = [
    "KEYS",
    "PRESETS",
    "Config",
    "ConfigError",
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "differences",
    "dump_config",
    "flatten",
    "load_config",
]

_PRESETS = Path(__file__).with_name("presets")
#: recipes that a configuration can start from
PRESETS = tuple(sorted(path.stem for path in _PRESETS.glob("*.yaml")))
_PRESET_OF = {"ade20k": "ade20k-hms"}


class ConfigError(UserError):
    """A configuration that cannot be used: an unknown key, a wrong value, or values that contradict each other."""


# --- dotted keys ---


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


#: every key that a configuration has, dotted: ``"steps"``, ``"optim.lr"``, ...
KEYS = tuple(_fields(Config))
_SECTIONS = frozenset(key.partition(".")[0] for key in KEYS if "." in key)


def flatten(config: Config) -> dict[str, Any]:
    """The values of a configuration by dotted key, in the order of the schema."""
    return {key: _get(config, key) for key in KEYS}


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two configurations differ, with the old and the new value."""
    before, after = flatten(old), flatten(new)
    return {key: (before[key], after[key]) for key in KEYS if before[key] != after[key]}


def _get(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _unknown(key: str, source: str) -> ConfigError:
    # Somebody who writes "lr" means "optim.lr": try the last part alone before resemblance of the whole key.
    last = key.rpartition(".")[2]
    same = [known for known in KEYS if known.rpartition(".")[2] == last]
    hint = f"; nearest: {same[0]!r}" if same else nearest(key, KEYS)
    return ConfigError(f"unknown key {key!r} in {source}{hint or '; the keys are: ' + ', '.join(KEYS)}")


def _leaves(tree: Mapping[Any, Any], source: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if key in KEYS:
            yield key, value
        elif key not in _SECTIONS:
            raise _unknown(key, source)
        elif isinstance(value, Mapping):
            yield from _leaves(value, source, f"{key}.")
        elif value is not None:  # an empty section is a mapping that was left out
            inside = [known for known in KEYS if known.startswith(f"{key}.")]
            raise ConfigError(f"{key!r} in {source} is a section, not a value; set one of {', '.join(inside)}")


class _Layers:
    """Values by dotted key, each with the place it came from; a later layer wins."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}

    def add(self, tree: Mapping[Any, Any], source: str) -> None:
        seen = set()
        for key, value in _leaves(tree, source):
            if key in seen:
                raise ConfigError(f"{key!r} is given twice in {source}")
            seen.add(key)
            self.values[key], self.sources[key] = value, source
        self._split_data_name(source, seen)

    def _split_data_name(self, source: str, given: Collection[str]) -> None:
        """``folder:DIR`` is short for the name and its folder."""
        name, colon, directory = str(self.values.get("data.name", "")).partition(":")
        if colon:
            if "data.dir" in given:
                raise ConfigError(f"the data folder is given twice in {source}: {directory} and data.dir (--data-dir)")
            if name == "digits":
                raise ConfigError(
                    f"data set 'digits' needs no folder, but {source} name one: {_short(repr(directory))}"
                )
            self.values["data.name"] = name
            self.values["data.dir"], self.sources["data.dir"] = directory, source

    def nested(self) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for key, value in self.values.items():
            section, _, name = key.rpartition(".")
            (tree.setdefault(section, {}) if section else tree)[name] = value
        return tree

    def explain(self, error: ValidationError) -> ConfigError:
        """All problems in one line, each with key, value and place."""
        problems: dict[str, list[str]] = {}
        for detail in error.errors():
            path = [str(part) for part in detail["loc"]]
            key = next((known for n in (2, 1) if (known := ".".join(path[:n])) in KEYS), "")
            reason = _reworded(detail["msg"])
            if reason not in problems.setdefault(key, []):
                problems[key].append(reason)
        return ConfigError("; ".join(self._at(key) + " or ".join(reasons) for key, reasons in problems.items()))

    def _at(self, key: str) -> str:
        if not key:
            return ""
        source = self.sources.get(key)
        return f"{key} = {_short(repr(self.values.get(key)))}{f' in {source}' if source else ''}: "


def _reworded(message: str) -> str:
    """pydantic's message in our words."""
    message = message.removeprefix("Value error, ").replace("Input should be", "must be")
    message = message.replace("a valid integer", "a whole number").replace("a valid number", "a number")
    message = message.replace("a valid tuple", "a list, such as [a, b]").replace("a valid boolean", "true or false")
    message = message.replace("a valid string", "text (put it in quotes)").replace(
        "Field required", "a value is missing"
    )
    return message.partition(", unable to parse")[0]


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- load and dump ---


def load_config(
    file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    preset: str | None = None,
) -> Config:
    """Lay preset, file, overrides and assignments over the defaults; the later one wins.

    Args:
        file: A YAML file with any of the keys, nested (``optim: {lr: 1e-3}``) or dotted (``optim.lr: 1e-3``).
        overrides: Values by dotted key.
        assignments: ``"key=value"`` texts; the value is read as YAML.
        preset: One of :data:`PRESETS`; ``None``: that of the data set.

    Raises:
        ConfigError: Unknown key, wrong value, contradictory values, or a file that cannot be read; every problem is
            named with its place.
    """
    layers: list[tuple[Mapping[Any, Any], str]] = []
    if file is not None:
        layers.append((_read_yaml(Path(file)), str(file)))
    layers.append((dict(overrides or {}), "the options"))
    layers.extend(_assignment(text) for text in assignments)

    given = _Layers()
    for tree, source in layers:
        given.add(tree, source)

    merged = _Layers()
    if preset is not None and preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}{nearest(preset, PRESETS)} (presets: {', '.join(PRESETS)})")
    data = given.values.get("data.name", DataConfig().name)
    chosen = preset or _PRESET_OF.get(data, data)
    if chosen in PRESETS:  # an unknown data set is reported with all other wrong values
        merged.add(_read_yaml(_PRESETS / f"{chosen}.yaml"), f"preset {chosen}.yaml")
    merged.values |= given.values
    merged.sources |= given.sources
    try:
        return Config.model_validate(merged.nested())
    except ValidationError as error:
        raise merged.explain(error) from None


def dump_config(config: Config) -> str:
    """The configuration as YAML with every key; :func:`load_config` of it gives an equal configuration."""
    return dump_yaml(config.model_dump(mode="json"))


def _assignment(text: str) -> tuple[dict[str, Any], str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {_short(text)!r}: expected KEY=VALUE, such as --set optim.lr=2e-4")
    try:
        return {key.strip(): parse_yaml(value)}, "--set"
    except ValueError as error:
        raise ConfigError(f"--set {_short(text)!r}: the value is not YAML: {error}") from None


def _read_yaml(path: Path) -> Mapping[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"configuration file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"configuration file {path} cannot be read: {reason}") from None
    try:
        tree = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"configuration file {path} is not YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, Mapping):
        raise ConfigError(f"configuration file {path} must hold 'key: value' lines, got a {type(tree).__name__}")
    return tree
