"""How a run gets its configuration: defaults, presets, files and options are laid over each other.

From weak to strong: the defaults of the schema, the preset of the data set (``presets/<data.name>.yaml``), that of the
system for this data, what the variant has otherwise, a YAML file, the options of the command line, ``--set KEY=VALUE``.
A dumped configuration holds every key, so that it alone decides when it is loaded again, whatever the defaults and
presets have become by then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from m2o_fast.engine.schema import Config, config_class
from m2o_fast.engine.yaml12 import dump_yaml, parse_yaml
from m2o_fast.errors import UserError
from m2o_fast.m2o import PLAIN, VARIANTS
from m2o_fast.settings import nearest
from m2o_fast.translators import DEFAULT, EXAMPLE_SETTING, NAMES, system

__all__ = [
    "CPU_PRESETS",
    "Config",
    "ConfigError",
    "differences",
    "dump_config",
    "flatten",
    "keys",
    "load_config",
    "presets",
]

#: recipes for data: image size, augmentation, pace; those of a system stand in its folder
_PRESETS = Path(__file__).with_name("presets")
#: data set -> the preset that the command line takes in the place of its own where there is no GPU
CPU_PRESETS = {"folder": "folder-cpu"}
_LARGEST_FILE = 1 << 16  # bytes; all keys are 2 kB
Layer = tuple[Mapping[Any, Any], str]


class ConfigError(UserError):
    """A configuration that cannot be used: an unknown key, a wrong value, or values that contradict each other."""


# --- dotted keys ---


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


@cache
def keys(name: str) -> tuple[str, ...]:
    """Every key that the configuration of a system has, dotted: ``"steps"``, ``"optim.lr"``, ..."""
    return tuple(_fields(config_class(name)))


def presets(name: str) -> tuple[str, ...]:
    """The recipes that a configuration of a system can start from."""
    return tuple(sorted({*_data_presets(), *system(name).presets}))


def _data_presets() -> dict[str, Path]:
    return {path.stem: path for path in _PRESETS.glob("*.yaml")}


def flatten(config: Config) -> dict[str, Any]:
    """The values of a configuration by dotted key, in the order of the schema."""
    return {key: _get(config, key) for key in keys(config.system)}


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two configurations differ, with the old and the new value.

    Those of another system differ in everything, so the system alone is named.
    """
    if old.system != new.system:
        return {"system": (old.system, new.system)}
    before, after = flatten(old), flatten(new)
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def _get(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _unknown(key: str, source: str, name: str) -> ConfigError:
    # Somebody who writes "lr" means "optim.lr": try the last part alone before resemblance of the whole key.
    known, last = keys(name), key.rpartition(".")[2]
    same = [found for found in known if found.rpartition(".")[2] == last]
    owners = _owners(key, name)
    hint = f"; nearest: {same[0]!r}" if same else nearest(key, known, at_least=0.75 if owners else 0.5)
    where = f"unknown key {_short(repr(key))} in {source}"
    if owners:
        return ConfigError(f"{where}: system {name!r} has none; {' and '.join(owners)} {_have(owners)}{hint}")
    return ConfigError(f"{where}{hint or '; the keys are: ' + ', '.join(known)}")


def _owners(key: str, name: str) -> list[str]:
    """The systems that have a key which the system ``name`` lacks."""
    return [] if key in keys(name) else [other for other in NAMES if key in keys(other)]


def _have(owners: Collection[str]) -> str:
    return "has one" if len(owners) == 1 else "have one"


def _refuse_foreign(tree: Mapping[Any, Any], source: str, name: str) -> None:
    """Raises ``ConfigError`` where a layer has several keys of other systems: it was written for one of them."""
    foreign = {key: owners for key in _written(tree) if (owners := _owners(key, name))}
    if len(foreign) > 1:
        others = list(dict.fromkeys(owner for owners in foreign.values() for owner in owners))
        raise ConfigError(
            f"keys of {' and '.join(others)} in {source}, which system {name!r} does not have: {', '.join(foreign)}"
        )


def _written(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of a layer, whether known or not."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _written(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _leaves(tree: Mapping[Any, Any], source: str, system: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    known = keys(system)
    for name, value in tree.items():
        key = f"{prefix}{name}"
        inside = [found for found in known if found.startswith(f"{key}.")]
        if key in known:
            yield key, value
        elif not inside or prefix:
            raise _unknown(key, source, system)
        elif isinstance(value, Mapping):
            yield from _leaves(value, source, system, f"{key}.")
        elif value is not None:  # an empty section is a mapping that was left out
            raise ConfigError(f"{key!r} in {source} is a section, not a value; set one of {', '.join(inside)}")


# --- which system ---


def _choose_system(layers: Sequence[Layer]) -> tuple[str, Any]:
    """System and variant, which is not checked yet; the later layer wins.

    The name of a system in the place of a variant is the system, plain.

    Raises:
        ConfigError: An unknown system, or one over the configuration of another.
    """
    chosen: tuple[str, Layer] | None = None
    variants: list[Any] = []
    for tree, source in layers:
        name, rules = tree.get("system"), tree.get("variant")
        if rules in NAMES:
            if name not in (None, rules):
                raise ConfigError(f"variant {rules!r} in {source} is a system, but system is {name!r}; leave one out")
            name, rules = rules, PLAIN
        if name is not None:
            _require_system(name, source)
            if chosen is not None and chosen[0] != name:
                raise _other_system(name, source, *chosen)
            chosen = name, (tree, source)
        variants += [rules] if "variant" in tree else []
    name, usual = DEFAULT if chosen is None else (chosen[0], PLAIN)
    return name, variants[-1] if variants else usual


def _require_system(name: Any, source: str) -> None:
    if name in tuple(VARIANTS):
        raise ConfigError(f"system = {name!r} in {source}: that is a variant; choose it with --variant {name}")
    if name not in NAMES:
        hint = f"unknown system{nearest(str(name), NAMES)} (systems: {', '.join(NAMES)})"
        raise ConfigError(f"system = {_short(repr(name))} in {source}: {hint}")


def _other_system(name: str, source: str, before: str, layer: Layer) -> ConfigError:
    foreign = [key for key, _ in _leaves(*layer, before) if key not in (*keys(name), "system", "variant")]
    what = f"; {', '.join(foreign)} do not fit" if foreign else ""
    return ConfigError(f"system = {name!r} in {source}, but {before!r} in {layer[1]}{what}; leave one of them out")


class _Layers:
    """Values by dotted key, each with the place it came from; a later layer wins."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.values: dict[str, Any] = {}
        self.sources: dict[str, str] = {}

    def add(self, tree: Mapping[Any, Any], source: str) -> None:
        _refuse_foreign(tree, source, self._name)
        before, place = self.values.get("data.name"), self.sources.get("data.name")
        seen = set()
        for key, value in _leaves(tree, source, self._name):
            if key in seen:
                raise ConfigError(f"{key!r} is given twice in {source}")
            seen.add(key)
            self.values[key], self.sources[key] = value, source
        if "data.name" in seen and place != source and before not in (None, self.values["data.name"]):
            for key in {"data.dir", "data.also"} - seen:  # what was named with other data is none of this
                if self.sources.get(key) == place:
                    self.values.pop(key, None)
        self._split_data_name(source, seen)

    def _split_data_name(self, source: str, given: Collection[str]) -> None:
        """``folder:DIR`` is short for the name and its folder; of several, the others are further data sets."""
        if "data.name" not in given:
            return
        value = self.values["data.name"]
        if isinstance(value, list | tuple):
            if "data.also" in given:
                raise ConfigError(f"the data folders are given twice in {source}: data.name and data.also")
            value = self._first_of(value, source)
        name, colon, directory = value.partition(":") if isinstance(value, str) else ("", "", "")
        if colon:
            if not directory:
                raise ConfigError(f"data.name = {value!r} in {source}: names no folder; write {name}:DIR")
            if "data.dir" in given:
                raise ConfigError(f"the data folder is given twice in {source}: {directory} and data.dir (--data-dir)")
            if name == "digits":
                raise ConfigError(
                    f"data set 'digits' needs no folder, but {source} name one: {_short(repr(directory))}"
                )
            self.values["data.name"] = name
            self.values["data.dir"], self.sources["data.dir"] = directory, source

    def _first_of(self, named: Sequence[Any], source: str) -> str:
        """The first of several data sets; the folders of the others are kept."""
        folders = [text[len("folder:") :] for text in named if isinstance(text, str) and text.startswith("folder:")]
        if len(folders) < max(2, len(named)) or not all(folders):
            raise ConfigError(
                f"data.name = {_short(repr(list(named)))} in {source}: several data sets are folders of own images; "
                "write folder:DIR for each of two or more"
            )
        self.values["data.name"] = f"folder:{folders[0]}"
        self.values["data.also"], self.sources["data.also"] = folders[1:], source
        return f"folder:{folders[0]}"

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
            key = next((known for n in (2, 1) if (known := ".".join(path[:n])) in keys(self._name)), "")
            reason = _reworded(detail["msg"])
            named, colon, rest = reason.partition(": ")
            if not key and colon and named in keys(self._name):  # what a check of several values says of one
                key, reason = named, rest
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
        preset: One of :func:`presets`; ``None``: that of the data set, or, under a file that names most keys, none.

    Raises:
        ConfigError: Unknown key, wrong value, contradictory values, or a file that cannot be read; every problem is
            named with its place.
    """
    layers: list[Layer] = []
    of_file: Mapping[Any, Any] = {} if file is None else _read_yaml(Path(file))
    if file is not None:
        layers.append((of_file, str(file)))
    layers.append((dict(overrides or {}), "the options"))
    layers.extend(_assignment(text) for text in assignments)

    name, variant = _choose_system(layers)
    given = _Layers(name)
    for tree, source in layers:
        given.add(tree, source)

    merged = _Layers(name)
    if preset is not None and preset not in presets(name):
        raise ConfigError(
            f"unknown preset {preset!r}{nearest(preset, presets(name))} (presets: {', '.join(presets(name))})"
        )
    config = config_class(name)
    data = given.values.get("data.name", config.model_fields["data"].default.name)
    usual = data if isinstance(data, str) and not _is_whole(of_file, str(file), name) else ""
    chosen = preset or usual
    of_variant = system(name).presets_of(variant) if variant in tuple(VARIANTS) else {}
    for recipes in (_data_presets(), system(name).presets, of_variant):
        if chosen in recipes:  # an unknown data set is reported with all other wrong values
            merged.add(_read_yaml(recipes[chosen]), f"preset {chosen}.yaml")
    merged.values |= given.values | {"system": name, "variant": variant}
    merged.sources |= given.sources
    try:
        return config.model_validate(merged.nested())
    except ValidationError as error:
        raise merged.explain(error) from None


def _is_whole(tree: Mapping[Any, Any], source: str, name: str) -> bool:
    """Whether a file holds a whole configuration, as runs keep it, and no recipe has a say in it.

    What became a setting after it was written is not in it, and means its default. Files for people name a few keys.
    """
    return 2 * len(list(_leaves(tree, source, name))) > len(keys(name))


def dump_config(config: Config) -> str:
    """The configuration as YAML with every key; :func:`load_config` of it gives an equal configuration."""
    return dump_yaml(config.model_dump(mode="json"))


def _assignment(text: str) -> tuple[dict[str, Any], str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {_short(text)!r}: expected KEY=VALUE, such as --set {EXAMPLE_SETTING}")
    try:
        return {key.strip(): parse_yaml(value)}, "--set"
    except ValueError as error:
        raise ConfigError(f"--set {_short(text)!r}: the value is not YAML: {error}") from None


def _read_yaml(path: Path) -> Mapping[Any, Any]:
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe or a device may never end
            raise ConfigError(f"configuration file {path} cannot be read: it is not a regular file")
        if (size := path.stat().st_size) > _LARGEST_FILE:
            raise ConfigError(f"configuration file {path} cannot be read: {size} bytes are more than {_LARGEST_FILE}")
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
