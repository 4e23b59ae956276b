"""Many-to-one image translation (arXiv 2402.12531) with kernels of its own.

Importing this package costs nothing: what is named here is imported on first use (PEP 562), so that ``m2o_fast --help``
does not load torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from m2o_fast.version import __version__

if TYPE_CHECKING:
    from m2o_fast.data.images import read_image, save_image
    from m2o_fast.engine.api import train, translate
    from m2o_fast.engine.evaluate import evaluate_run
    from m2o_fast.engine.evaluate_images import evaluate_images
    from m2o_fast.engine.evaluation.options import Options as EvaluationOptions
    from m2o_fast.engine.export import export_run as export
    from m2o_fast.engine.runs import load_translator as load
    from m2o_fast.m2o import Domain, ManyToOne
    from m2o_fast.translators import from_official, to_official
    from m2o_fast.translators.starganv2.translator import StarGANv2

if not os.path.isdir(os.path.join(__path__[0], "cli")):
    __path__.append(os.path.dirname(__path__[0]))  # a source tree: the command line lies beside this package

#: exported name -> module that defines it, and its name there
_EXPORTS: dict[str, tuple[str, str]] = {
    "Domain": ("m2o_fast.m2o", "Domain"),
    "EvaluationOptions": ("m2o_fast.engine.evaluation.options", "Options"),
    "ManyToOne": ("m2o_fast.m2o", "ManyToOne"),
    "StarGANv2": ("m2o_fast.translators.starganv2.translator", "StarGANv2"),
    "evaluate_images": ("m2o_fast.engine.evaluate_images", "evaluate_images"),
    "evaluate_run": ("m2o_fast.engine.evaluate", "evaluate_run"),
    "export": ("m2o_fast.engine.export", "export_run"),
    "from_official": ("m2o_fast.translators", "from_official"),
    "load": ("m2o_fast.engine.runs", "load_translator"),
    "read_image": ("m2o_fast.data.images", "read_image"),
    "save_image": ("m2o_fast.data.images", "save_image"),
    "to_official": ("m2o_fast.translators", "to_official"),
    "train": ("m2o_fast.engine.api", "train"),
    "translate": ("m2o_fast.engine.api", "translate"),
}

__all__ = [
    "Domain",
    "EvaluationOptions",
    "ManyToOne",
    "StarGANv2",
    "__version__",
    "evaluate_images",
    "evaluate_run",
    "export",
    "from_official",
    "load",
    "read_image",
    "save_image",
    "to_official",
    "train",
    "translate",
]


def __getattr__(name: str) -> object:
    if name in _EXPORTS:
        module, attribute = _EXPORTS[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
