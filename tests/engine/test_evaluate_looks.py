"""Translations into a multi-modal domain are compared with all looks of their content."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fakes import SIDE, Painter, squares
from forked import together
from torch import Tensor

from m2o_fast.data import ColorizedDigits
from m2o_fast.engine.evaluation.options import Options
from m2o_fast.engine.evaluation.styles import LatentStyles
from m2o_fast.engine.evaluation.translations import Evaluation, Found
from m2o_fast.engine.processes import joined_processes
from m2o_fast.metrics.diversity import Lpips

COUNT, MANY = 9, 4


class Places(ColorizedDigits):
    """Every gray square has as many coloured looks as its number tells, modulo 4; a colour i is the image number i."""

    @classmethod
    def make(cls) -> Places:
        plain = squares(COUNT)
        return cls((plain.content(range(COUNT)) * 255).to(torch.uint8), plain.labels, split="test")

    def looks(self, source: str | int, target: str | int, index: int) -> Tensor:
        if self.domain_index(target) != 0:
            return super().looks(source, target, index)
        return torch.arange(index % 4)


def found(data: Places, outputs: int = MANY, **options: object) -> Found:
    """What is measured with random styles."""
    asked = Options(outputs_per_source=outputs, guidance="latent")
    painter = Painter(data.domains).know(data).eval()
    return Evaluation(painter, data, lambda: data, asked, **options).run()  # type: ignore[arg-type]


def test_the_looks_of_every_content_are_compared_with_all_its_outputs() -> None:
    data = Places.make()
    measured = found(data).directions
    assert (
        "mse_nearest" not in measured["color->gray"]["none"]
        and "lpips_nearest" not in measured["gray->color"]["latent"]
    )
    styles = LatentStyles(Painter(data.domains), 1, 0, MANY).rows(range(COUNT))
    nearest, shares = [], []
    for index in range(COUNT):
        looks = data.images("color", range(index % 4)).double()
        if len(looks):
            content = data.content([index]).double()
            images = [(content * style.double()[:, None, None])[0] for style in styles[index]]
            table = [[float((image - look).square().mean()) for look in looks] for image in images]
            nearest.append(sum(map(min, table)) / MANY)
            if len(looks) > 1:
                shares.append(len({row.index(min(row)) for row in table}) / len(looks))
    values = measured["gray->color"]["latent"]
    assert values["mse_nearest"] == pytest.approx(sum(nearest) / len(nearest), rel=1e-4)
    assert values["mse_looks_covered"] == pytest.approx(sum(shares) / len(shares))


def test_lpips_is_measured_where_it_is_given_for_single_outputs_too() -> None:
    data = Places.make()

    class Small(Lpips):
        def embed(self, images: Tensor) -> Tensor:
            return images.flatten(1) * 2

    values = found(data, 1, lpips=Small()).directions["gray->color"]["latent"]
    assert values["lpips_nearest"] == pytest.approx(4 * 3 * SIDE * SIDE * values["mse_nearest"], rel=1e-5)
    assert values["lpips_looks_covered"] == values["mse_looks_covered"] and "lpips_diversity" not in values


def measure(folder: Path) -> int:
    data = Places.make()
    with joined_processes() as processes:
        measured = found(data, processes=processes)
        if processes.leads:
            (folder / "found.txt").write_text(repr(measured.directions["gray->color"]["latent"]["mse_nearest"]))
    return 0


def test_processes_add_up_what_they_saw(tmp_path: Path) -> None:
    outcomes = together(2, tmp_path, measure, tmp_path)
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    expected = found(Places.make()).directions["gray->color"]["latent"]["mse_nearest"]
    assert float((tmp_path / "found.txt").read_text()) == pytest.approx(expected, rel=1e-6)
