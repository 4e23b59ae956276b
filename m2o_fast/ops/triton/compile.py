"""Compiles every Triton kernel to machine code ahead of time; needs neither a GPU nor a driver.

    python -m m2o_fast.ops.triton.compile [--arch 80 90] [--match bf16]

Prints one line per kernel and architecture; the exit code is 1 if one of them failed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
import time
from collections.abc import Iterator, Sequence

from m2o_fast.ops.triton import CompileCase

ARCHITECTURES = (80, 90)
SUMMARY = "Compile every Triton kernel to machine code; needs no GPU."
ELF = b"\x7fELF"


def find_cases() -> Iterator[CompileCase]:
    """The cases of all modules beside this one."""
    package = importlib.import_module("m2o_fast.ops.triton")
    for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
        if name != "compile":
            cases = getattr(importlib.import_module(f"{package.__name__}.{name}"), "compile_cases", tuple)
            yield from cases()


def compile_case(case: CompileCase, architecture: int) -> bytes:
    """Machine code (a cubin) of one case for compute capability ``architecture`` (90 is 9.0).

    Raises:
        Exception: whatever Triton or ptxas has to say about it.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(case.kernel, case.signature, case.constants)
    target = GPUTarget("cuda", architecture, 32)
    cubin = triton.compile(source, target=target, options=case.options).asm["cubin"]
    if not cubin.startswith(ELF):
        raise RuntimeError("Triton returned something that is not a cubin")
    return cubin


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m m2o_fast.ops.triton.compile", description="Compile all Triton kernels."
    )
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHITECTURES, help="compute capabilities, such as 90")
    parser.add_argument("--match", default="", help="only kernels whose name holds this text")
    options = parser.parse_args(arguments)
    os.environ.pop("TRITON_INTERPRET", None)  # must be gone before the kernels are imported
    failures = count = 0
    for case in find_cases():
        if options.match not in case.name:
            continue
        for architecture in options.arch:
            start = time.perf_counter()
            try:
                result = f"{len(compile_case(case, architecture))} bytes"
            except Exception as error:  # a compiler error of any kind is a result to report
                failures += 1
                result = f"FAILED: {type(error).__name__}: {error}"
            count += 1
            print(f"sm_{architecture} {case.name}: {result} ({time.perf_counter() - start:.1f} s)", flush=True)
    print(f"{count} compiled, {failures} failed")
    if count == 0:
        print(f"no kernel has {options.match!r} in its name", file=sys.stderr)
    return 1 if failures or not count else 0


if __name__ == "__main__":
    sys.exit(main())
