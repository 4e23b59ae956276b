"""A pytest plugin, for a process of its own: the backend ``compiled`` of the operators on CPU tensors is a library of
emulated CUDA kernels, ``M2O_EMULATED_LIBRARY``. Tests can choose the device and the schedule that it emulates.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import types
import zlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

# Before m2o_fast is imported, which would register the kernels for CPUs.
sys.modules["m2o_fast._C"] = types.ModuleType("m2o_fast._C")
torch.ops.load_library(os.environ["M2O_EMULATED_LIBRARY"])
_library = ctypes.CDLL(os.environ["M2O_EMULATED_LIBRARY"])
_library.emulation_launches.restype = ctypes.c_char_p

#: In the order of ``kDevices`` in runtime.cpp.
DEVICES = ["h100", "a100", "a slice", "translated code", "one multiprocessor"]
SCHEDULES = ["forward", "backward", "random"]
#: dtypes and what kernels call them
DTYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "__half",
    torch.bfloat16: "__nv_bfloat16",
    torch.uint8: "unsigned char",
}
TARGET = ("compiled", torch.device("cpu"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--dtypes", help="of these only, with commas between them")
    parser.addoption(
        "--every-schedule", action="store_true", help="each test under each schedule, not under one of them"
    )


def chosen_dtypes(config: pytest.Config) -> list[torch.dtype]:
    names = config.getoption("dtypes")
    return [getattr(torch, name) for name in names.split(",")] if names else list(DTYPES)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "dtype" in metafunc.fixturenames:
        floating = [dtype for dtype in chosen_dtypes(metafunc.config) if dtype.is_floating_point]
        metafunc.parametrize("dtype", floating, ids=str)
    if "pixel" in metafunc.fixturenames:
        metafunc.parametrize("pixel", chosen_dtypes(metafunc.config), ids=str)
    if metafunc.config.getoption("every_schedule"):
        metafunc.fixturenames.append("schedule")
        metafunc.parametrize("schedule", SCHEDULES)


@pytest.fixture(autouse=True)
def emulate(request: pytest.FixtureRequest) -> None:
    """The device that the test's parameter names, or the first; the schedule that it names, or one of them."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    _library.cudaSetDevice(DEVICES.index(parameters.get("device", DEVICES[0])))
    schedule = parameters.get("schedule", SCHEDULES[number_of(request) % len(SCHEDULES)])
    _library.emulation_set_schedule(SCHEDULES.index(schedule))


def number_of(request: pytest.FixtureRequest) -> int:
    """Always the same for a test, however few are run."""
    return zlib.crc32(request.node.name.encode())


def moved_by(x: Tensor, offset: int) -> Tensor:
    """The same numbers with the same strides, so many elements behind the start of their memory."""
    memory = torch.empty(x.numel() + offset, dtype=x.dtype)
    return torch.as_strided(memory, x.shape, x.stride(), offset).copy_(x)


def assert_all_launched(config: pytest.Config, routes_of: Callable[[str], set[str]] = lambda kernel: set()) -> None:
    """Every kernel of the chosen dtypes was launched, by each of the routes that ``routes_of`` demands for its name."""
    lines = _library.emulation_launches().decode().splitlines()
    met: dict[str, set[str]] = {line: set() for line in lines if "\t" not in line}
    launched = [line.split("\t") for line in lines if "\t" in line]
    for kernel, routes in launched:
        met[kernel] |= {"launched", *routes.split("; ")}
    words = [DTYPES[dtype] for dtype in chosen_dtypes(config)]
    unmet = []
    for kernel, routes in met.items():
        types_of_kernel = [word for word in DTYPES.values() if re.search(rf"\b{word}\b", kernel.partition("[with")[2])]
        if not types_of_kernel or set(types_of_kernel) & set(words):
            lacking = {"launched", *routes_of(kernel)} - routes
            unmet += [f"{_short(kernel)}: {', '.join(sorted(lacking))}"] if lacking else []
    if unmet or not met:
        pytest.fail("never reached:\n" + "\n".join(sorted(unmet)), pytrace=False)


def _short(kernel: str) -> str:
    name, _, arguments = kernel.partition("(")
    words = arguments.partition("[with")[2].rstrip("]")
    words = re.sub(r"m2o_fast::|\{anonymous\}::|<unnamed>::", "", words)
    return f"{name.split('::')[-1]}: {words.strip()}"
