"""Layers, typos and traps of the configuration."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2o_fast.data.settings import DATASETS
from m2o_fast.engine import config as config_module
from m2o_fast.engine.config import ConfigError, differences, dump_config, flatten, keys, load_config
from m2o_fast.engine.schema import config_class
from m2o_fast.engine.yaml12 import dump_yaml, parse_yaml
from m2o_fast.translators import DEFAULT, system


@pytest.fixture
def presets(tmp_path, monkeypatch):
    """A folder of presets for this test, empty at first; the system has none."""
    folder = tmp_path / "presets"
    folder.mkdir()
    for name in DATASETS:
        (folder / f"{name}.yaml").write_text("")
    monkeypatch.setattr(config_module, "_PRESETS", folder)
    monkeypatch.setitem(vars(system(DEFAULT[0])), "presets", {})
    return folder


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def message_of(file=None, overrides=None, assignments=()) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides, assignments)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- layers ---


def test_each_layer_wins_over_the_one_below(presets, tmp_path):
    names = ["optim.lr", "optim.mapping_lr", "optim.ema", "optim.weight_decay"]
    write(presets / "digits.yaml", "optim: {lr: 0.1, mapping_lr: 0.1, ema: 0.1, weight_decay: 0.1}")
    file = write(tmp_path / "c.yaml", "optim:\n  mapping_lr: 0.2\n  ema: 0.2\n  weight_decay: 0.2\n")
    config = load_config(file, {"optim.ema": 0.3, "optim.weight_decay": 0.3}, ["optim.weight_decay=0.4"])
    assert [flatten(config)[key] for key in names] == [0.1, 0.2, 0.3, 0.4]
    assert config.optim.betas == config_class(DEFAULT[0])().optim.betas


def test_the_preset_follows_the_data_set_wherever_it_is_chosen(presets, tmp_path):
    write(presets / "digits.yaml", "steps: 11")
    write(presets / "mnist.yaml", "steps: 22")
    file = write(tmp_path / "c.yaml", "data.name: mnist")
    assert load_config().steps == 11
    assert load_config(file).steps == 22
    assert load_config(overrides={"data.name": "mnist"}).steps == 22
    assert load_config(file, assignments=["data.name=digits"]).steps == 11


def test_a_dumped_configuration_does_not_change_with_the_presets(presets, tmp_path):
    before = load_config(overrides={"data.name": "mnist", "steps": 5}, assignments=["optim.lr=2e-4"])
    file = write(tmp_path / "config.yaml", dump_config(before))
    write(presets / "mnist.yaml", "steps: 99\noptim: {lr: 0.5, betas: [0.1, 0.2]}\nmodel: {base_width: official}")
    assert load_config(file) == before


def test_a_dump_holds_every_key(tmp_path):
    assert set(flatten(load_config())) == set(keys(DEFAULT[0]))
    tree = parse_yaml(dump_config(load_config()))
    written = {f"{name}.{inner}" for name, section in tree.items() if isinstance(section, dict) for inner in section}
    written |= {name for name, section in tree.items() if not isinstance(section, dict)}
    assert written == set(keys(DEFAULT[0]))


@pytest.mark.parametrize("folder", ["no", "2e-4", "null", "0777", "a b: #c", "~x", "1:30", "ü", "12"])
def test_a_dump_reproduces_folders_with_awkward_names(folder, tmp_path):
    config = load_config(overrides={"data.dir": folder})
    assert config.data.dir == folder
    assert load_config(write(tmp_path / "c.yaml", dump_config(config))) == config


@pytest.mark.parametrize("name", DATASETS)
def test_the_shipped_presets_are_valid(name):
    config = load_config(overrides={"data.name": name, "data.dir": "images"})
    assert config.data.name == name
    assert config.variant == "hms"


def test_a_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert load_config(assignments=["data.dir=~/digits"]).data.dir == "/home/someone/digits"


def test_nested_dotted_and_empty_sections(tmp_path):
    file = write(tmp_path / "c.yaml", "optim:\n  # all defaults\nloss.cycle: 3\nmodel:\n  max_width: 32\n")
    assert differences(load_config(), load_config(file)) == {"loss.cycle": (4.0, 3.0), "model.max_width": (64, 32)}


def test_a_variant_has_its_own_on_top_of_the_preset():
    """StarGAN v2 as published keeps what was found for its decoder, unless something else is said."""
    plain, hms = (load_config(overrides={"variant": variant, "data.name": "digits"}) for variant in ("plain", "hms"))
    assert (plain.model.style_dim, plain.loss.r1, plain.loss.diversity) == (4, 1, 1)
    assert plain.model.base_width == hms.model.base_width == 8 and hms.model.style_dim != 4
    assert load_config(overrides={"variant": "plain"}, assignments=["model.style_dim=5"]).model.style_dim == 5


def test_a_configuration_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        load_config().steps = 3


# --- typos ---


@pytest.mark.parametrize(
    ("assignment", "hint"),
    [
        ("optim.lrr=3", "unknown key 'optim.lrr' in --set; nearest: 'optim.lr'"),
        ("lr=3", "unknown key 'lr' in --set; nearest: 'optim.lr'"),
        ("model.mapping_lr=3", "nearest: 'optim.mapping_lr'"),
        ("step=3", "nearest: 'steps'"),
        ("optim.lr.x=3", "nearest: 'optim.lr'"),
        ("zzz=3", "the keys are: system, variant, data.name"),
        ("variant=hsm", "nearest: 'hms' (variants: plain, hmu, hms)"),
        ("variant=starganv", "nearest: 'starganv2'"),
        ("data.name=minst", "nearest: 'mnist' (data sets: digits, mnist, ade20k, folder)"),
        ("data.color_law=hvs", "must be 'rgb' or 'hue'"),
        ("device=gpu", "unknown device; use 'auto', 'cpu', 'cuda'"),
    ],
)
def test_typos_are_named_with_the_nearest_valid_word(assignment, hint):
    assert hint in message_of(assignments=[assignment])


def test_the_place_of_a_wrong_key_or_value_is_named(tmp_path):
    file = write(tmp_path / "c.yaml", "optim: {lrr: 3}")
    assert f"unknown key 'optim.lrr' in {file}" in message_of(file)
    file.write_text("optim: {lr: -3}")
    assert message_of(file) == f"optim.lr = -3 in {file}: must be greater than 0"
    assert load_config(file, {"optim.lr": 3}).optim.lr == 3
    assert "in --set" in message_of(file, {"optim.lr": 3}, ["optim.lr=-1"])


def test_all_wrong_values_are_told_at_once():
    message = message_of(overrides={"variant": "x", "optim.lr": 0, "optim.betas": [0.5]})
    assert "variant = 'x'" in message
    assert "optim.lr = 0 in the options: must be greater than 0" in message
    assert "optim.betas = [0.5] in the options: a value is missing" in message
    message = message_of(overrides={"data.uni": "sketch", "data.cache": "maybe"})
    assert "must be a list, such as [a, b]" in message and "must be true or false" in message


# --- values ---


@pytest.mark.parametrize(
    "assignment",
    [
        "steps=0",
        "steps=1.5",
        "steps=true",
        "steps=no",
        "steps=1:30",
        "steps=",
        "steps=[1]",
        "steps={a: 1}",
        "seed=-1",
        "batch_size=1e30",
        "keep_checkpoints=-1",
        "optim.lr=nan",
        "optim.lr=.inf",
        "optim.lr=0",
        "optim.lr=true",
        "optim.ema=1",
        "optim.betas=[0.5, 1.0]",
        "optim.betas=[0.1, 0.2, 0.3]",
        "loss.cycle=-1",
        "data.pair_fraction=1.1",
        "data.crop_probability=-0.1",
        "data.dir=[a]",
        "data.dir=true",
        "data.dir=''",
        "data.image_size=16",
        "data.image_size=48",
        "data.image_size=0",
        "data.image_size=-32",
        "model.base_width=big",
        "model.base_width=0",
        "model.style_op=relu",
        "variant=null",
    ],
)
def test_wrong_values_are_refused_with_key_and_value(assignment):
    key = assignment.partition("=")[0]
    assert message_of(assignments=[assignment]).startswith(f"{key} = ")


def test_the_rule_for_image_sizes_is_told():
    assert "power of two and at least 32" in message_of(assignments=["data.image_size=48"])
    assert load_config(assignments=["data.image_size=256"]).data.image_size == 256


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("optim.lr=2e-4", "optim.lr", 2e-4),
        ("optim.lr=1E-3", "optim.lr", 1e-3),
        ("optim.lr=.5", "optim.lr", 0.5),
        ("optim.betas=[0, 9e-1]", "optim.betas", (0.0, 0.9)),
        ("steps=1e3", "steps", 1000),
        ("seed=0777", "seed", 777),
        ("data.dir=2024", "data.dir", "2024"),
        ("data.dir=0777", "data.dir", "0777"),
        ("data.dir=no", "data.dir", "no"),
        ("data.dir=null", "data.dir", None),
        ("data.dir=a=b", "data.dir", "a=b"),
        ("model.base_width=official", "model.base_width", "official"),
    ],
)
def test_yaml_values_mean_what_they_say(text, key, value):
    assert flatten(load_config(assignments=[text, "model.max_width=512"]))[key] == value


def test_hms_needs_pairs():
    assert "learns from known pairs, but data.pair_fraction is 0" in message_of(assignments=["data.pair_fraction=0"])
    assert "loss.supervised is 0" in message_of(assignments=["loss.supervised=0"])
    for variant in ("hmu", "starganv2"):
        assert load_config(assignments=["data.pair_fraction=0", f"variant={variant}"]).rules.supervised_weight == 0


def test_the_rules_follow_variant_and_supervised_weight():
    assert load_config(assignments=["loss.supervised=3"]).rules.supervised_weight == 3
    assert load_config(assignments=["variant=hmu"]).rules.supervised_weight == 0
    assert load_config(assignments=["variant=starganv2"]).rules.domain_layers is None


def base_width(config) -> int:
    return config.settings.base_width(config.data.image_size)


def test_widths_and_diversity_steps_as_numbers():
    assert base_width(load_config(assignments=["model.base_width=null", "model.max_width=64"])) == 64
    assert base_width(load_config(assignments=["model.base_width=null", "model.max_width=4096"])) == 512
    assert base_width(load_config(assignments=["model.base_width=official", "model.max_width=512"])) == 512
    assert base_width(load_config(assignments=["model.base_width=null", "data.image_size=1024"])) == 16
    assert base_width(load_config(assignments=["model.base_width=24"])) == 24
    assert load_config(assignments=["steps=40", "loss.diversity_steps=null"]).filled().loss.diversity_steps == 40
    assert load_config(assignments=["steps=40", "loss.diversity_steps=10"]).filled().loss.diversity_steps == 10


# --- files and assignments that are none ---


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("optim: 3", "'optim' in {file} is a section, not a value; set one of optim.lr"),
        ("- 1\n- 2", "must hold 'key: value' lines, got a list"),
        ("steps: [1", "is not YAML: line 1"),
        ("steps: 1\nsteps: 2", "is not YAML: line 2: 'steps' is given twice"),
        ("optim.lr: 1\noptim: {lr: 2}", "'optim.lr' is given twice"),
        ("[a]: 1", "a key must be a plain word"),
        ("steps: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("steps: !!int x", "is not YAML"),
        ("7: 1", "unknown key '7'"),
        ("steps: &a [*a]", "no aliases"),
        ("steps: " + "[" * 3000, "nested too deeply"),
        ("\0", "is not YAML"),
    ],
)
def test_files_that_are_no_configuration(text, hint, tmp_path):
    file = write(tmp_path / "c.yaml", text)
    message = message_of(file)
    assert str(file) in message
    assert hint.format(file=file) in message


def test_files_that_cannot_be_read(tmp_path):
    assert message_of(tmp_path / "none.yaml").endswith("none.yaml does not exist")
    assert "cannot be read: Is a directory" in message_of(tmp_path)
    (tmp_path / "latin1.yaml").write_bytes(b"data: {dir: \xe9}")
    assert "it is not UTF-8 text" in message_of(tmp_path / "latin1.yaml")


@pytest.mark.parametrize("text", ["steps", "=3", " =3", ""])
def test_assignments_need_key_and_value(text):
    assert "expected KEY=VALUE, such as --set optim.lr=2e-4" in message_of(assignments=[text])


def test_long_values_do_not_flood_the_message():
    assert len(message_of(assignments=["steps=" + "x" * 10_000])) < 200
    assert len(message_of(assignments=["steps=" + "[" * 10_000])) < 200


# --- the YAML itself ---

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@settings(deadline=None)
@given(st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
def test_yaml_round_trip(value):
    assert parse_yaml(dump_yaml(value)) == value


@settings(deadline=None)
@given(st.text())
def test_any_text_is_read_or_refused(text):
    try:
        load_config(assignments=[text, f"steps={text}"])
    except ConfigError as error:
        assert str(error)


def test_digits_take_no_folder():
    with pytest.raises(ConfigError, match="'digits' needs no folder, but the options name one: 'somewhere'"):
        load_config(overrides={"data.name": "digits:somewhere"})


def test_the_configuration_needs_no_torch():
    code = "import sys, m2o_fast.engine.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_variant_in_the_place_of_a_system() -> None:
    assert message_of(overrides={"system": "hms"}) == (
        "system = 'hms' in the options: that is a variant; choose it with --variant hms"
    )


@pytest.mark.parametrize("value", ["[a]", "['folder:a']", "{a: 1}", "3"])
def test_a_name_that_is_no_text(value: str) -> None:
    assert "data.name" in message_of(assignments=[f"data.name={value}"])


def test_a_whole_file_stands_on_no_recipe(tmp_path: Path) -> None:
    """A run from before a setting has none of it, and did what is the default; its data's recipe may say otherwise."""
    file = tmp_path / "config.yaml"
    now = load_config(assignments=["system=flow", "variant=hms", "data.name=digits"])
    before = now.model_dump(mode="json")
    assert before["model"].pop("predicts") == "image" and before["optim"].pop("decay_from") == 4000
    file.write_text(dump_yaml(before))
    of_before = load_config(file)
    assert (of_before.settings.model.predicts, of_before.settings.optim.decay_from) == ("velocity", None)
    assert of_before.steps == now.steps and load_config(file, preset="digits") == now
    file.write_text("{system: flow, variant: hms, data: {name: digits}, steps: 7, optim: {lr: 1e-3}}")
    assert load_config(file).settings.model.predicts == "image"


def test_no_data_folder_is_dropped(tmp_path: Path) -> None:
    words = {"system": "stargan", "data.name": ["folder:a", "folder:b"], "data.also": ["c"]}
    with pytest.raises(ConfigError, match="given twice in the options: data.name and data.also"):
        load_config(overrides=words)
    file = tmp_path / "my.yaml"
    file.write_text("{system: stargan, data: {name: [folder:a, folder:b]}}")
    assert load_config(file, {"data.name": "folder"}).data.folders == ("a", "b")
    assert load_config(file, {"data.name": "folder:c"}).data.folders == ("c",)


def test_a_folder_goes_with_the_data_that_it_was_named_with(tmp_path: Path) -> None:
    """One that was named elsewhere stays: it may be meant for the other data."""
    file = tmp_path / "my.yaml"
    for text in ("{data: {name: 'folder:a'}}", "{system: stargan, data: {name: ['folder:a', 'folder:b']}}"):
        file.write_text(text)
        assert load_config(file, {"data.name": "mnist"}).data.folders == ()
        assert load_config(file, {"data.dir": "c"}, ["data.name=mnist"]).data.folders == ("c",)
        both = ["data.name=mnist", "data.dir=c", "data.name=folder"]  # in one place nothing is left over from before
        assert load_config(file, assignments=both).data.folders == ("c",)
    file.write_text("{data: {dir: c}}")
    assert load_config(file, {"data.name": "mnist"}).data.folders == ("c",)
