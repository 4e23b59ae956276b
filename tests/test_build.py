"""What is built, what is packed, and that the package works, and says so, where nothing was compiled."""

from __future__ import annotations

import re
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from source_tree import ROOT, build, copy_sources, run_python

from m2o_fast.ops import _library, build_info
from m2o_fast.version import __version__

USE_AN_OPERATOR = """
import torch
from m2o_fast.ops import adain_act, backends
y = adain_act(torch.randn(2, 3, 4, 4), torch.ones(2, 3), torch.ones(2, 3))
assert y.shape == (2, 3, 4, 4) and y.isfinite().all()
assert torch.ops.m2o_fast.adain_act(y, y[:, :, 0, 0], y[:, :, 0, 0], 1e-5, 0.2, True)[0].isfinite().all()
print(backends()["adain_act"]["cpu"])
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_sources(tmp_path_factory.mktemp("sources") / "m2o_fast")


def test_build_info_says_what_was_built() -> None:
    info = build_info()
    if info is None:
        pytest.skip(f"no native build: {_library.NATIVE_MISSING['cpu']}")
    assert re.match(r"(g\+\+|clang) \d+", info["compiler"])
    assert "-O3" in info["flags"] and "-fast-math" not in info["flags"] and "-march=native" not in info["flags"]
    assert info["build_type"] == "Release"
    assert (info["simd"], info["wide_simd"]) in (("x86-64-v3", "x86-64-v4"), ("default", ""))
    assert info["torch_minimum"] == "2.11"
    assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)
    assert re.match(r"\d+\.\d+", info["torch_built_against"])
    assert bool(info["cuda_version"]) == bool(info["cuda_archs"])


def test_native_library_is_loaded_where_it_was_built() -> None:
    built = list((ROOT / "m2o_fast").glob("_C.*.so"))
    if not built:
        pytest.skip("m2o_fast._C is not in the source tree")
    assert _library.NATIVE_MISSING["cpu"] is None


def test_source_distribution_is_complete(sources, tmp_path) -> None:
    archive, _ = build("sdist", sources, tmp_path)
    with tarfile.open(archive) as files:
        packed = {name.partition("/")[2] for name in files.getnames()}
    needed = {"CMakeLists.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE", "tests/test_build.py"}
    for folder, pattern in (("csrc", "**/*"), ("cli", "*.py"), ("m2o_fast", "**/*.py"), ("m2o_fast", "**/*.yaml")):
        needed |= {str(path.relative_to(sources)) for path in (sources / folder).glob(pattern) if path.is_file()}
    assert any(name.endswith(".cpp") for name in needed)
    assert needed <= packed, needed - packed
    assert not [name for name in packed if name.endswith((".so", ".pyc"))]


@pytest.mark.slow  # tests/test_wheel.py installs one
def test_pure_python_wheel_works_and_says_what_is_missing(sources, tmp_path) -> None:
    wheel, printed = build("wheel", sources, tmp_path / "dist", M2O_BUILD="0")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "WITHOUT native code (M2O_BUILD=0)" in printed and "pip install --no-build-isolation ." in printed
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as files:
        assert not [name for name in files.namelist() if name.endswith(".so") or name.startswith(("csrc", "tests"))]
        assert "m2o_fast/cli/__init__.py" in files.namelist() and "m2o_fast/py.typed" in files.namelist()
        presets = {str(path.relative_to(sources)) for path in (sources / "m2o_fast").rglob("*.yaml")}
        assert presets and presets <= set(files.namelist())
        files.extractall(installed)

    result = run_python(USE_AN_OPERATOR, folder=installed, plain=True)
    assert result.returncode == 0, result.stderr
    assert "'chosen': 'reference'" in result.stdout and "m2o_fast._C was not built" in result.stdout
    assert result.stderr.count("m2o_fast runs without native code") == 1
    assert "pip install --no-build-isolation ." in result.stderr

    result = run_python("import m2o_fast; print(m2o_fast.__path__)", folder=installed, plain=True)
    assert result.stdout.strip() == str([str(installed / "m2o_fast")])

    result = run_python("import m2o_fast.ops", folder=installed, plain=True, M2O_REQUIRE_EXT="1")
    assert result.returncode != 0
    assert "ImportError: M2O_REQUIRE_EXT=1, but m2o_fast._C was not built" in result.stderr

    result = run_python(USE_AN_OPERATOR, folder=installed, plain=True, M2O_BACKEND="compiled")
    assert "adain_act: backend 'compiled' is not available: m2o_fast._C was not built" in result.stderr


def test_command_line_runs_from_a_source_tree(sources) -> None:
    code = "import sys, runpy; sys.argv[1:] = ['--version']; runpy.run_module('m2o_fast.cli', run_name='__main__')"
    result = run_python(code, folder=sources, plain=True)
    assert (result.returncode, result.stdout) == (0, f"m2o-fast {__version__}\n"), result.stderr


def test_unloadable_library_is_named_and_replaced(sources, tmp_path) -> None:
    copy = copy_sources(tmp_path / "copy")
    broken = copy / "m2o_fast" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    broken.write_bytes(b"not a library")
    result = run_python(USE_AN_OPERATOR, folder=copy)
    assert result.returncode == 0, result.stderr
    assert "m2o_fast._C cannot be loaded" in result.stderr
    result = run_python("import m2o_fast.ops", folder=copy, M2O_REQUIRE_EXT="1")
    assert "ImportError: M2O_REQUIRE_EXT=1, but m2o_fast._C cannot be loaded" in result.stderr


WITHOUT_TORCH = """
import sys
from importlib import metadata
version = metadata.version
def without_torch(name):
    if name == "torch":
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = without_torch
sys.argv = ["setup.py", "--version"]
__file__ = "setup.py"
exec(open("setup.py").read())
"""


def test_demanded_native_build_fails_without_torch(sources) -> None:
    result = run_python(WITHOUT_TORCH, folder=sources, M2O_BUILD="1")
    assert result.returncode != 0
    assert "M2O_BUILD=1, but the build environment lacks torch" in result.stderr
    assert run_python(WITHOUT_TORCH, folder=sources, M2O_BUILD="auto").returncode == 0


def test_switches_take_three_values(sources) -> None:
    result = run_python(WITHOUT_TORCH, folder=sources, M2O_BUILD="yes")
    assert "M2O_BUILD must be auto, 0 or 1, got 'yes'" in result.stderr
