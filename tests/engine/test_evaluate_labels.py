"""Translations into label maps: scored class by class, against maps that are off in a known way."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from ade20k_files import write_ade20k, write_names
from fakes import Painter, mean_color_extractor
from torch import Tensor

from m2o_fast.data import open_dataset
from m2o_fast.data.dataset import Dataset
from m2o_fast.engine.evaluation.options import Options
from m2o_fast.engine.evaluation.translations import Evaluation, Found
from m2o_fast.labels import draw_labels

SIZE, COUNT = 32, 5


class Labeller(Painter):
    """Scenes to their label maps, in which the first rows of image i, i of them, hold the next class."""

    def __init__(self, data: Dataset) -> None:
        super().__init__(data.domains)
        self.data = data

    def predicted(self, index: int) -> Tensor:
        labels = self.data.label_ids([index])
        assert labels is not None
        labels = labels.clone()
        labels[:, : 4 * index] = labels[:, : 4 * index] % 150 + 1
        return labels

    def translate(self, x, source, target, *, style=None, reference=None):
        if self.domain(target).name == "scene":
            return style.double()[:, :, None, None].expand(-1, -1, SIZE, SIZE).float() * 2 - 1
        scenes = self.data.images("scene", range(COUNT)) * 2 - 1
        chosen = [int((scenes - image).square().sum((1, 2, 3)).argmin()) for image in x]
        domain = self.domain(target)
        return torch.cat([draw_labels(self.predicted(i), domain.kind, domain.classes) for i in chosen]) * 2 - 1

    def encode_style(self, x, domain):
        return (x.mean((2, 3)) + 1) / 2


@pytest.fixture(params=["palette", "onehot"])
def data(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = write_ade20k(tmp_path / "ade", COUNT, ("validation",))
    write_names(root)
    return open_dataset("ade20k", split="test", data_dir=root, image_size=SIZE, labels=request.param)


def measured(data: Dataset, **options: object) -> Found:
    asked = Options(**{"outputs_per_source": 2, **options})  # type: ignore[arg-type]
    return Evaluation(Labeller(data), data, lambda: data, asked, extractor=mean_color_extractor()).run()


def test_scores_are_those_counted_by_hand(data: Dataset) -> None:
    found, labeller = measured(data), Labeller(data)
    values, details = found.directions["scene->labels"]["none"], found.details["scene->labels"]
    right = labelled = 0
    hits, areas, accuracies = [0] * 151, [0] * 151, []
    for index in range(COUNT):
        truth, predicted = data.label_ids([index]).flatten().tolist(), labeller.predicted(index).flatten().tolist()
        scored = [(t, p) for t, p in zip(truth, predicted, strict=True) if t]
        accuracies.append(sum(t == p for t, p in scored) / len(scored))
        right, labelled = right + sum(t == p for t, p in scored), labelled + len(scored)
        for t, p in scored:
            hits[t] += t == p
            areas[t] += 1
            areas[p] += t != p
    assert values["pixel_accuracy"] == pytest.approx(right / labelled)
    present = [hit / area for hit, area in zip(hits[1:], areas[1:], strict=True) if area]
    assert values["miou_present"] == pytest.approx(sum(present) / len(present))
    assert values["miou"] == pytest.approx(sum(present) / 150)
    assert values["style_independent"] is True
    assert set(values) == {"pixel_accuracy", "miou", "miou_present", "style_independent"}
    assert details["classes"] == list(data.class_names) and len(details["iou"]) == 151
    assert details["iou"][0] is None
    for k in range(1, 151):
        assert details["iou"][k] == (None if not areas[k] else pytest.approx(hits[k] / areas[k])), k
    assert [entry["index"] for entry in details["worst"]] == [4, 3, 2, 1, 0]
    assert details["worst"][0]["measure"] == "pixel_accuracy"
    assert [entry["value"] for entry in details["worst"]] == pytest.approx(accuracies[::-1])


def test_scenes_are_measured_by_features_and_against_their_photographs(data: Dataset) -> None:
    values = measured(data).directions["labels->scene"]
    assert set(values) == {"latent", "reference"}
    features = {"fid_clean", "kid_mean", "kid_std", "precision", "recall"}
    weightless = {"mse_nearest", "cycle_mse", "content_kept"}
    varied = {"pixel_color_recall", "pixel_color_recall_ceiling", "pixel_variety", "structure_variety"}
    assert set(values["latent"]) == features | weightless | varied
    assert set(values["reference"]) - set(values["latent"]) == {"references_followed"}


def test_batches_do_not_matter(data: Dataset) -> None:
    whole, parts = measured(data), measured(data, batch_size=2)
    assert parts.directions["scene->labels"]["none"] == pytest.approx(whole.directions["scene->labels"]["none"])
    assert parts.details["scene->labels"]["iou"] == whole.details["scene->labels"]["iou"]


def test_label_maps_without_any_label_have_no_score(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = torch.zeros(COUNT, SIZE, SIZE, dtype=torch.int64)
    monkeypatch.setattr(data, "label_ids", lambda indices: nothing[torch.as_tensor(indices)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measured(data)
    assert set(found.directions["scene->labels"]["none"]) == {"style_independent"}
    assert found.details["scene->labels"]["worst"] == []
