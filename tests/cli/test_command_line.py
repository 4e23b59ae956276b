"""The frame of the command line: help, errors, exit codes."""

import subprocess
import sys

import pytest
from folder_files import color_of, write
from PIL import Image

from m2o_fast import __version__
from m2o_fast.cli import main
from m2o_fast.engine.config import Config, dump_config, load_config

COMMANDS = [
    "train",
    "eval",
    "translate",
    "convert",
    "data",
    "data fetch",
    "data check",
    "doctor",
    "bench",
    "bench train",
]
COMMANDS += ["sim-scale", "export", "play", "publish"]


def test_no_help_page_imports_torch():
    # Importing torch takes longer than a help page may.
    pages = [[*command.split(), "--help"] for command in ["", *COMMANDS]]
    code = f"""
import sys
from m2o_fast.cli import main
codes = [main(page) for page in {pages!r}]
assert codes == [0] * {len(pages)}, codes
heavy = {{"torch", "numpy", "PIL"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_names_every_command(m2o_fast, arguments):
    done = m2o_fast(*arguments)
    assert done.returncode == 0
    assert done.stderr == ""
    for command in {name.split()[0] for name in COMMANDS}:
        assert f" {command} " in done.stdout
    assert "Examples:" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_page_has_examples_that_fit_a_terminal(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    _, _, examples = shown.partition("Examples:")
    commands = [line.strip() for line in examples.splitlines() if line.strip().startswith("m2o-fast")]
    assert commands
    assert len(examples.strip().splitlines()) == 2 * len(commands), "a line was wrapped"


def test_version(m2o_fast):
    done = m2o_fast("--version")
    assert (done.returncode, done.stdout) == (0, f"m2o-fast {__version__}\n")


def test_python_module():
    done = subprocess.run([sys.executable, "-m", "m2o_fast.cli", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"m2o-fast {__version__}\n")


@pytest.mark.parametrize("module", ["m2o_fast.cli.app", "typer", "m2o_fast.cli.translate"])
def test_ctrl_c_while_python_imports_is_one_line(module):
    code = f"""if True:
        import signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)

        class Finder:
            def find_spec(self, name, *_):
                if name == {module!r}:
                    signal.raise_signal(signal.SIGINT)

        sys.meta_path.insert(0, Finder())
        from m2o_fast.cli import main

        sys.exit(main(["--version"]))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "m2o-fast: interrupted\n")


@pytest.mark.parametrize(
    ("module", "becomes"),
    [
        ("m2o_fast.cli.app", "ImportError"),
        ("m2o_fast.cli.app", "nothing"),
        ("PIL.Image", "ImportError"),
        pytest.param("PIL.Image", "nothing", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_within_an_import_is_one_line_whatever_becomes_of_it(module, becomes, tmp_path):
    """Libraries replace it by an ImportError of their own, or lose it."""
    code = f"""if True:
        import signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)

        class Finder:
            def find_spec(self, name, *_):
                if name == {module!r}:
                    sys.meta_path.remove(self)
                    try:
                        signal.raise_signal(signal.SIGINT)
                    except KeyboardInterrupt:
                        if {becomes!r} == "ImportError":
                            raise ImportError("numpy._core.multiarray failed to import", name="numpy") from None

        sys.meta_path.insert(0, Finder())
        from m2o_fast.cli import main

        sys.exit(main(["data", "check", {str(tmp_path)!r}]))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "m2o-fast: interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("trian", "No such command 'trian'. Did you mean 'train'?"),
        ("train --stepz 3", "No such option: --stepz (Possible options:"),
        ("train --steps x", "Invalid value for '--steps'"),
        ("train --steps", "Option '--steps' requires an argument"),
        ("train extra", "extra"),
        ("translate", "Missing argument"),
        ("data", "Missing command (see m2o-fast data --help)"),
        ("data fetch imagenet", "fetch knows mnist only"),
        ("data check nowhere", "nowhere"),
        ("train --variant hsm", "unknown variant; nearest: 'hms'"),
        ("train --data minst", "unknown data set; nearest: 'mnist'"),
        ("train --set optim.lrr=3", "unknown key 'optim.lrr' in --set; nearest: 'optim.lr'"),
        ("train --set data.image_size=48", "power of two"),
        ("train --set data.pair_fraction=0", "learns from known pairs"),
        ("train --config nowhere.yaml", "nowhere.yaml does not exist"),
        ("train --resume auto", "needs --run DIR"),
        ("train --steps 0 --dry-run", "must be greater than or equal to 1"),
        ("train --json", "--json goes with --dry-run"),
        ("train --data folder --data-dir a --data-dir b", "several data sets by --data folder:DIR for each"),
        ("bench train --data folder --data-dir a --data-dir b", "--data-dir is given twice"),
        ("bench", "Missing command (see m2o-fast bench --help)"),
        ("bench train --steps 0", "Invalid value for '--steps'"),
        ("bench train --set optim.lrr=3", "nearest: 'optim.lr'"),
        ("bench train --data mnist --data-dir nowhere", "MNIST not found"),
        ("sim-scale", "Missing option '--step-ms'"),
        ("sim-scale --step-ms 0", "Invalid value for '--step-ms'"),
        ("sim-scale --step-ms 1 --gpus 1,x", "Invalid value for --gpus: expected numbers such as 1,8,64"),
        ("sim-scale --step-ms 1 --gpus 12", "do not fill nodes of 8"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(arguments, hint, refused, tmp_path):
    assert hint in refused(*arguments.split(), cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [["--stepz", 3], ["--variant", "hsm"]])
def test_wrong_input_in_a_real_process(m2o_fast, option):
    done = m2o_fast("train", *option)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("m2o-fast: error: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--debug", "train", "--variant", "x"], ["train", "--variant", "x", "--debug"]])
def test_debug_adds_the_traceback(m2o_fast, arguments):
    done = m2o_fast(*arguments)
    assert done.returncode == 2
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("m2o-fast: error: variant = 'x'")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("two\nlines"), 2, "two lines"),
        (FileNotFoundError(2, "No such file or directory", "a.png"), 2, "a.png: No such file or directory"),
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (MemoryError(), 2, "out of memory: lower batch_size"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 2, "No module named 'torch'; install m2o-fast"),
        (ImportError("x", name="m2o_fast.ops"), 1, "unexpected ImportError: x"),
        (KeyError("x"), 1, "unexpected KeyError: 'x' (run again with --debug"),
    ],
)
def test_errors_of_the_package_become_one_line(error, code, message, capsys, monkeypatch):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("m2o_fast.engine.fitting.load_config", fail)
    assert main(["train"]) == code
    err = capsys.readouterr().err
    assert err.startswith(f"m2o-fast: error: {message}")
    assert len(err.splitlines()) == 1


def test_an_image_that_pillow_warns_of_is_refused_in_one_line(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 63)  # Pillow warns of more, and raises from twice as many on
    for folder in ("fakes", "reals"):
        write(tmp_path / folder / "big.png", color_of(0, side=10))
    line = refused("eval", tmp_path / "fakes", "--truth", tmp_path / "reals", "--quiet")
    assert "big.png: 10 x 10 pixels are too many, 63 at most" in line


def test_an_interrupted_command_ends_with_130(capsys, monkeypatch):
    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("m2o_fast.engine.fitting.load_config", fail)
    assert main(["train"]) == 130
    assert "Traceback" not in capsys.readouterr().err


# --- settings ---


def test_dry_run_prints_settings_that_can_be_loaded(here, tmp_path):
    small = ["--batch-size", 4, "--set", "model.max_width=8"]
    code, out, err = here("train", "--steps", 7, "--set", "optim.lr=2e-4", *small, "--dry-run", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "c.yaml").write_text(out)
    expected = load_config(overrides={"batch_size": 4, "model.max_width": 8, "steps": 7, "optim.lr": 2e-4})
    assert load_config(tmp_path / "c.yaml") == expected


def settings_of(arguments, capsys, tmp_path) -> Config:
    code = main(["train", *arguments, "--dry-run"])
    out, err = capsys.readouterr()
    assert code == 0 or (code == 2 and "MNIST not found" in err)  # which changes no setting
    file = tmp_path / "printed.yaml"
    file.write_text(out)
    return load_config(file)


def test_options_that_are_not_given_leave_the_file_alone(capsys, tmp_path):
    flags = ["variant", "data.name", "data.dir", "steps", "batch_size", "seed", "device"]
    values = {"variant": "hmu", "data.name": "mnist", "data.dir": "d", "steps": 3, "batch_size": 5, "seed": 6}
    changed = load_config(overrides={**values, "device": "cpu"})
    assert all(getattr(changed, flag) != getattr(load_config(), flag) for flag in flags if "." not in flag)
    file = tmp_path / "c.yaml"
    file.write_text(dump_config(changed))
    assert settings_of(["--config", str(file)], capsys, tmp_path) == changed


def test_every_option_reaches_its_key(capsys, tmp_path):
    line = "--variant hmu --data mnist --data-dir d --steps 3 --batch-size 5 --seed 6 --device cpu --set optim.ema=0.5"
    settings = settings_of(line.split(), capsys, tmp_path)
    expected = {"variant": "hmu", "data.name": "mnist", "data.dir": "d", "steps": 3, "batch_size": 5, "seed": 6}
    assert settings == load_config(overrides={**expected, "device": "cpu", "optim.ema": 0.5})


def test_set_wins_over_options_and_options_over_the_file(capsys, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("steps: 1\nbatch_size: 1\nseed: 1\n")
    line = ["--config", str(file), "--steps", "2", "--batch-size", "2", "--set", "batch_size=3"]
    settings = settings_of(line, capsys, tmp_path)
    assert (settings.seed, settings.steps, settings.batch_size) == (1, 2, 3)
