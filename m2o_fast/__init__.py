"""Many-to-one image translation (arXiv 2402.12531) with kernels of its own.

Importing this package costs nothing: what is named here is imported on first use (PEP 562), so that ``m2o_fast --help``
does not load torch.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

#: exported name -> module that defines it
_EXPORTS: dict[str, str] = {
    "Domain": "m2o_fast.m2o",
    "ManyToOne": "m2o_fast.m2o",
}

__all__ = ["__version__", *sorted(_EXPORTS)]


def __getattr__(name: str) -> object:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
