"""Fresh nets as a published model."""

from __future__ import annotations

from pathlib import Path

from small import small_config

from m2o_fast.engine.build import build_translator
from m2o_fast.engine.checkpoint import save_translator
from m2o_fast.m2o import Domain
from m2o_fast.report.publish import publish

DOMAINS = (Domain("color"), Domain("gray", channels=1, multimodal=False))


def published_model(folder: Path) -> Path:
    """``folder/model``, made of ``folder/checkpoint``."""
    translator = build_translator(small_config(["system=starganv2", "variant=hms"]), DOMAINS).eval()
    save_translator(translator, folder / "checkpoint")
    return publish(folder / "checkpoint", folder / "model", "mit")
