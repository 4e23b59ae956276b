"""Nothing that a user is handed can run code: no file that a command reads, and no way to do so in the source."""

from __future__ import annotations

import ast
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from source_tree import ROOT
from tiny import tiny_config, tiny_digits

import m2o_fast
from m2o_fast.cli import main
from m2o_fast.engine.checkpoint import list_checkpoints, seal
from m2o_fast.engine.loop import train
from m2o_fast.errors import UserError

# --- the source ---

#: modules whose loading runs what a file says, and calls that do
MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
}
CALLS = {
    "eval",
    "exec",
    "compile",
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.package.PackageImporter",
    "np.load",
    "numpy.load",
    "numpy.lib.format.read_array",
    "np.lib.format.read_array",
}
#: the one call that is there for files with code: a TorchScript net that the user names as such (docs/metrics.md)
ALLOWED = {"features.py": ["torch.jit.load"]}
#: endings of calls that unpickle what other processes send
ENDINGS = ("broadcast_object_list", "all_gather_object", "gather_object", "scatter_object_list", "recv_object_list")
OPTIONS = {"allow_pickle": True, "weights_only": False, "shell": True}


def findings(source: str) -> list[str]:
    """What in a module could run foreign code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            found.append(node.module)
        elif isinstance(node, ast.Call):
            name, options = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name in CALLS or name.endswith(ENDINGS):
                found.append(name)
            found += [
                f"{name}({key}={value})"
                for key, value in OPTIONS.items()
                if options.get(key, str(not value)) != str(not value)
            ]
            if name == "torch.load" and options.get("weights_only") != "True":
                found.append("torch.load without weights_only=True")
    return found


def modules() -> list[Path]:
    return sorted([*(ROOT / "m2o_fast").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])


def test_no_module_has_a_way_to_run_a_file() -> None:
    assert len(modules()) > 50
    assert {path.name: found for path in modules() if (found := findings(path.read_text()))} == ALLOWED


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "torch.load(file, weights_only=flag)",
        "np.load(file)",
        "f(allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run(line, shell=True)",
        "dist.broadcast_object_list([1])",
        "eval(text)",
    ],
)
def test_the_search_finds_what_it_should(line: str) -> None:
    assert findings(line)


@pytest.mark.parametrize(
    "line", ["torch.load(f, weights_only=True)", "translator.eval()", "re.compile(x)", "json.load(f)"]
)
def test_the_search_finds_no_more(line: str) -> None:
    assert not findings(line)


# --- files ---


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.folder,)


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[Path]:
    """The folder that exists if an evil file was run."""
    folder = tmp_path / "owned"
    yield folder
    assert not folder.exists()


@pytest.fixture(params=["pickle", "torch"])
def evil(request: pytest.FixtureRequest, owned: Path, tmp_path: Path) -> bytes:
    """A file with code, as ``pickle`` or as ``torch.save`` writes it."""
    path = tmp_path / "evil"
    if request.param == "pickle":
        path.write_bytes(pickle.dumps(Evil(owned)))
        pickle.loads(path.read_bytes())
    else:
        torch.save({"generator": Evil(owned)}, path)
        torch.load(path, weights_only=False)
    owned.rmdir()  # it works
    return path.read_bytes()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", tiny_digits)
    train(tiny_config("steps=1"), tmp_path / "run", quiet=True)
    return tmp_path / "run"


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) in (1, 2), words
    error = capsys.readouterr().err
    assert "Traceback" not in error and "unexpected" not in error, error
    return error


@pytest.mark.parametrize("name", ["nets.safetensors", "ema.safetensors", "optimizers.safetensors"])
def test_evil_checkpoints(name: str, evil: bytes, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Even with a manifest that vouches for them."""
    import hashlib

    folder = list_checkpoints(run)[-1]
    (folder / name).write_bytes(evil)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["files"][name] = {"bytes": len(evil), "sha256": hashlib.sha256(evil).hexdigest()}
    (folder / "manifest.json").write_bytes(seal(manifest))
    more = ("--set", "steps=2", "--quiet")
    assert name in refused(capsys, "train", "--run", run, "--resume", "auto", *more)
    assert name in refused(capsys, "train", "--run", run.parent / "new", "--resume", folder, *more)
    if name != "optimizers.safetensors":
        assert name in refused(capsys, "eval", run)
        with pytest.raises(UserError, match=name):
            m2o_fast.load(run)


def test_evil_text_files(evil: bytes, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = list_checkpoints(run)[-1]
    (folder / "manifest.json").write_bytes(evil)
    assert "manifest.json" in refused(capsys, "train", "--run", run, "--resume", "auto")
    assert "evil" in refused(capsys, "train", "--config", tmp_path / "evil")
    (run / "config.yaml").write_bytes(evil)
    assert "config.yaml" in refused(capsys, "train", "--run", run, "--resume", "auto")


def test_evil_weights_images_and_data(
    evil: bytes, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, "convert", "stargan-v2", tmp_path / "evil", "--out", tmp_path / "out")
    (tmp_path / "evil.png").write_bytes(evil)
    error = refused(
        capsys, "translate", tmp_path / "evil.png", "--run", run, "--to", "color", "--out", tmp_path / "o.png"
    )
    assert "evil.png" in error
    (tmp_path / "mnist").mkdir()
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"):
        (tmp_path / "mnist" / name).write_bytes(evil)
    assert main(["data", "check", str(tmp_path / "mnist")]) == 1
