"""Translators whose translations are known have the measures without weights that anybody can compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import SIDE, Painter
from torch import Tensor

from m2o_fast.data.folder import FolderDataset
from m2o_fast.engine.evaluation import translations, weightless
from m2o_fast.engine.evaluation.options import Options
from m2o_fast.engine.evaluation.styles import LatentStyles
from m2o_fast.engine.evaluation.translations import Evaluation
from m2o_fast.m2o import Domain, ManyToOne

COUNT, MANY, LOOKS = 12, 4, 3
GRAY, COLOR = Domain("gray", 1, multimodal=False), Domain("color", 3)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def drawings(looks: int) -> FolderDataset:
    """Gray squares, and each in some random colours; contents are as many, with the looks one after the other."""
    random = np.random.default_rng(1)
    gray = random.integers(60, 255, (COUNT, 1, SIDE, SIDE))
    color = np.repeat(gray, looks, 0) * random.random((COUNT * looks, 3, 1, 1))
    names = [f"{number:02d}" for number in range(COUNT)]
    images = [color.astype(np.uint8), gray.astype(np.uint8)]
    keys = [[name for name in names for _ in range(looks)], names]
    return FolderDataset((COLOR, GRAY), images, keys, split="test", fingerprint="")


class Coloured(Painter):
    """Paints in the colour of the style; gray again are the brightest channels.

    Args:
        domains: Of the data.
        pale: How much of the colours is lost: 0 nothing, 1 all of it.
        way_back: Whether it makes gray of colour, too.
    """

    def __init__(self, domains: Sequence[Domain], pale: float = 0.0, way_back: bool = True) -> None:
        super().__init__(domains, ManyToOne())
        self.pale, self.way_back = pale, way_back

    def directions(self) -> tuple[tuple[int, int], ...]:
        return ((0, 1), (1, 0)) if self.way_back else ((1, 0),)

    def translate(self, x: Tensor, source: Any, target: Any, *, style: Any = None, reference: Any = None) -> Tensor:
        values = (x.double() + 1) / 2
        if self.domain(target).name == "gray":
            return (values.amax(1, keepdim=True) * 2 - 1).float()
        color = style * (1 - self.pale) + self.pale
        return (values * color.double()[:, :, None, None] * 2 - 1).float()

    def encode_style(self, x: Tensor, domain: Any) -> Tensor:
        """The brightest value of each channel."""
        return (
            ((x + 1) / 2).amax((2, 3)).expand(-1, 3) if self.domain(domain).name == "color" else torch.zeros(len(x), 3)
        )


def measured(translator: Painter, data: FolderDataset, **options: Any) -> dict[str, dict[str, Any]]:
    asked = Options(**{"outputs_per_source": MANY, "extractor": "none", **options})
    found = Evaluation(translator.eval(), data, lambda: data, asked).run()
    return found.directions["gray->color"]


def test_numbers_are_those_of_the_definitions() -> None:
    data = drawings(LOOKS)
    values = measured(Coloured(data.domains), data)
    assert set(values) == {"latent", "reference"}
    styles = LatentStyles(Coloured(data.domains), 1, 0, MANY).rows(range(COUNT)).double()
    made = data.images("gray", range(COUNT)).double()[:, None] * styles[..., None, None]
    within = np.mean([(a - b).square().mean() for image in made for i, a in enumerate(image) for b in image[:i]])
    real = data.images("color", range(COUNT * LOOKS)).double()
    apart = np.mean([(a - b).square().mean() for i, a in enumerate(real) for b in real[:i]])
    # Of the real images some pairs are taken, which differ as all of them do, to chance.
    assert values["latent"]["pixel_variety"] == pytest.approx((within / apart) ** 0.5, rel=0.15)
    looks = real.unflatten(0, (COUNT, LOOKS))
    true = np.mean([(a - b).square().mean() for image in looks for i, a in enumerate(image) for b in image[:i]])
    assert values["latent"]["pixel_variety_of_looks"] / values["latent"]["pixel_variety"] == pytest.approx(
        (true / within) ** 0.5, rel=1e-5
    )
    assert values["latent"]["pixel_variety_of_looks"] == values["reference"]["pixel_variety_of_looks"]
    assert 0.5 < values["latent"]["structure_variety"] < 2


def test_what_takes_long_or_much_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {count: int(weightless._by_structure(torch.arange(count), count).sum()) for count in (1, 500, 999, 5001)}
    assert counts == {1: 1, 500: 500, 999: 500, 5001: 455}
    monkeypatch.setattr(translations, "MOST_LOOKS", 1)
    data = drawings(LOOKS)
    values = measured(Coloured(data.domains), data)["latent"]
    assert "pixel_variety_of_looks" not in values and "mse_looks_covered" in values


def test_a_reference_that_is_obeyed_or_not() -> None:
    data = drawings(1)
    assert "references_followed" not in measured(Coloured(data.domains), data)["latent"]
    assert measured(Coloured(data.domains), data)["reference"]["references_followed"] > 0.9
    deaf = measured(Coloured(data.domains, pale=1.0), data)["reference"]
    assert deaf["references_followed"] == pytest.approx(0.5, abs=0.12)
    assert deaf["pixel_variety"] == pytest.approx(0, abs=1e-6) == deaf["structure_variety"]


def test_a_reference_that_comes_twice_is_not_another_one() -> None:
    """Three reference images, six outputs of each source."""
    few = drawings(1)
    images = [few.images(name, range(3)).mul(255).byte().numpy() for name in ("color", "gray")]
    few = FolderDataset((COLOR, GRAY), images, [list("abc")] * 2, split="test", fingerprint="")
    measures = measured(Coloured(few.domains), few, outputs_per_source=6)
    assert measures["reference"]["references_followed"] > 0.9


def test_pale_colours_are_noticed() -> None:
    data = drawings(1)
    sound, pale = (measured(Coloured(data.domains, pale=p), data)["reference"] for p in (0.0, 0.6))
    assert sound["pixel_color_recall"] > 0.8 * sound["pixel_color_recall_ceiling"] > 2 * pale["pixel_color_recall"]
    assert pale["pixel_color_recall_ceiling"] == sound["pixel_color_recall_ceiling"]
    assert pale["pixel_variety"] < 0.6 * sound["pixel_variety"]


def test_content_is_kept_where_the_way_back_gives_the_source() -> None:
    data = drawings(1)
    values = measured(Coloured(data.domains, pale=1.0), data)["latent"]
    assert values["content_kept"] == pytest.approx(1) and values["cycle_mse"] == pytest.approx(0, abs=1e-12)
    dark = measured(Coloured(data.domains), data)["latent"]  # gray levels are those of the brightest channel
    assert dark["content_kept"] < 0.9


def test_a_system_of_one_direction_has_no_way_back() -> None:
    data = drawings(1)
    values = measured(Coloured(data.domains, way_back=False), data)["latent"]
    assert not {"content_kept", "cycle_mse"} & set(values) and "pixel_color_recall" in values


def test_one_output_of_each_source_tells_of_colours_and_content_alone() -> None:
    data = drawings(1)
    values = measured(Coloured(data.domains), data, outputs_per_source=1)["reference"]
    assert set(values) == {
        "pixel_color_recall",
        "pixel_color_recall_ceiling",
        "cycle_mse",
        "content_kept",
        "mse_nearest",
    }


def test_gray_pictures_have_no_colours_but_references() -> None:
    data = drawings(1)
    stroke = Domain("stroke", 1)
    images = [data.images("color", range(COUNT)).mean(1, keepdim=True).mul(255).byte().numpy()]
    images.append(data.images("gray", range(COUNT)).mul(255).byte().numpy())
    names = [f"{number:02d}" for number in range(COUNT)]
    gray = FolderDataset((stroke, GRAY), images, [names, names], split="test", fingerprint="")

    class Inked(Coloured):
        def translate(self, x: Tensor, source: Any, target: Any, *, style: Any = None, reference: Any = None) -> Tensor:
            if target == 1:
                return x
            return (((x + 1) / 2) * style.mean(1)[:, None, None, None]) * 2 - 1

        def encode_style(self, x: Tensor, domain: Any) -> Tensor:
            return ((x + 1) / 2).amax((1, 2, 3))[:, None].expand(-1, 3)

    found = Evaluation(Inked(gray.domains).eval(), gray, lambda: gray, Options(outputs_per_source=MANY)).run()
    values = found.directions["gray->stroke"]["reference"]
    assert "pixel_color_recall" not in values and values["references_followed"] > 0.9
