"""Images of any size through systems that are fully convolutional."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from m2o_fast.data.images import read_image, to_pillow
from m2o_fast.engine.translate import Request, translate_path
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.translators import create, system
from m2o_fast.translators.base import Translator

COLOR, GRAY = Domain("color", 3), Domain("gray", 1, multimodal=False)
NARROW = {
    "bicyclegan": {},
    "cyclegan": {"blocks": 1},
    "munit": {"blocks": 1, "mlp_width": 2},
    "pix2pix": {},
    "simgan": {"blocks": 1},
    "stargan": {"blocks": 1},
    "unit": {"blocks": 2},
}


def build(name: str, **model: object) -> Translator:
    facts = system(name)
    widths = {"width": 2, "discriminator_width": 2, **NARROW[name], **model}
    diverse = "diversity_steps" in type(facts.settings().loss).model_fields
    settings = facts.settings.model_validate({"model": widths, "loss": {"diversity_steps": 1} if diverse else {}})
    description = settings.description([COLOR, GRAY], facts.variants["hms"], 32)
    torch.manual_seed(0)
    return create({"system": name, **description}).eval().requires_grad_(False)


@pytest.mark.parametrize("name", list(NARROW))
@pytest.mark.parametrize(("height", "width"), [(300, 451), (5, 70), (1, 1), (64, 32)])
def test_height_and_width_stay(name: str, height: int, width: int, tmp_path: Path) -> None:
    """Mirrored to the next multiple where there is enough to mirror, else its edge repeated; and cut off again."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    translator = build(name)
    assert translator.multiple is not None
    translate_path(translator, tmp_path / "in.png", tmp_path / "out.png", Request("gray"))
    with Image.open(tmp_path / "out.png") as image:
        made = np.asarray(image)
    assert made.shape == (height, width)
    x = read_image(tmp_path / "in.png", 3, None)
    down, right = -height % translator.multiple, -width % translator.multiple
    mode = "reflect" if down < height and right < width else "replicate"
    whole = translator.translate(F.pad(x, (0, right, 0, down), mode=mode), "color", "gray")
    assert np.array_equal(made, np.asarray(to_pillow(whole[:, :, :height, :width])))


def test_a_reference_needs_an_encoder(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "in.png")
    request = Request("color", reference=tmp_path / "in.png")
    for translator in (build("pix2pix"), build("cyclegan", style="noise")):
        with pytest.raises(UserError, match="no style can be read off images of domain 'color'.*leave --reference out"):
            translate_path(translator, tmp_path / "in.png", tmp_path / "out.png", request)
    translate_path(build("cyclegan"), tmp_path / "in.png", tmp_path / "out.png", request)
