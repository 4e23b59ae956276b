"""Triton kernels, one module per operator family, imported on first use: Triton is optional."""

from __future__ import annotations

from typing import Any, NamedTuple


class CompileCase(NamedTuple):
    """One kernel with everything that its machine code depends on.

    Every module that launches kernels has a function ``compile_cases()`` that yields them for :mod:`.compile`.
    """

    name: str
    kernel: Any  # a triton.JITFunction
    signature: dict[str, str]  # parameter -> type, such as "*fp32" or "i32", "constexpr" for a constant
    constants: dict[str, Any]
    options: dict[str, Any]  # of the compiler, such as num_warps
