"""What ``m2o-fast eval`` prints."""

from __future__ import annotations

from typing import Any

import pytest

from m2o_fast.cli.tables import print_evaluation


def evaluation(directions: dict[str, Any]) -> dict[str, Any]:
    return {"run": "runs/a", "step": 7, "directions": directions, "means": {}, "warnings": [], "protocol": {}}


def test_what_is_measured_against_the_looks_has_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    looks = {"mse_nearest": 0.0125, "mse_looks_covered": 0.625, "lpips_nearest": 0.25, "lpips_looks_covered": 0.375}
    print_evaluation(evaluation({"photo->map": {"none": {"mse": 0.5}}, "map->photo": {"latent": looks}}))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    start = lines.index("against the looks of each content")
    (row,) = [line for line in lines[start:] if "map -> photo" in line]
    assert row.replace("│", " ").split() == ["map", "->", "photo", "latent", "0.0125", "0.625", "0.25", "0.375"]
    assert max(map(len, lines)) <= 100


def test_the_protocol_and_what_the_images_cost_stand_below(capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluation({}) | {"protocol": {"style_seed": 7}}
    for cost, said in (({"cost": {"images_per_second": 80.0}}, ", images per second 80"), ({}, "")):
        print_evaluation(result | cost)
        assert capsys.readouterr().out.splitlines()[-1].strip() == f"style seed 7{said}"


def test_what_needs_no_weights_has_two_tables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    varied = {"pixel_variety": 0.5, "pixel_variety_of_looks": 0.75, "structure_variety": 0.25}
    varied["structure_variety_of_looks"] = 0.375
    rest = {"pixel_color_recall": 0.125, "pixel_color_recall_ceiling": 0.9, "content_kept": 0.625}
    print_evaluation(evaluation({"map->photo": {"latent": {**varied, **rest, "references_followed": 0.8}}}))
    out = capsys.readouterr().out
    assert out.count("true by pixels") == out.count("true by structure") == 1
    rows = [line.replace("│", " ").split()[4:] for line in out.splitlines() if "map -> photo" in line]
    assert rows == [["0.5", "0.75", "0.25", "0.375"], ["0.125", "0.9", "0.8", "0.625"]]
    assert max(map(len, out.splitlines())) <= 100
