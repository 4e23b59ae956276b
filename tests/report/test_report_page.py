"""The page of one run: complete in itself, the numbers of the files, and something to read whatever is missing."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from reading import Page, decoded
from result_file import evaluation
from tiny import tiny_config

from m2o_fast.errors import UserError
from m2o_fast.report import write_report

MakeRun = Callable[..., Path]
Report = Callable[..., str]
LEAKS = re.compile(r"\b(nan|none|undefined|inf|null)\b", re.IGNORECASE)


def test_it_holds_everything_it_shows(make_run: MakeRun, report: Report) -> None:
    text = report(make_run("first", evaluation()))
    page = Page(text)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text) and "url(" not in text and "@import" not in text
    assert page.addresses and all(re.match(r"data:|#", address) for address in page.addresses)
    assert not {"script", "iframe", "object", "embed", "form"} & set(page.tags)
    links = [address[1:] for address in page.addresses if address.startswith("#")]
    assert set(links) <= set(page.ids) and len(set(page.ids)) == len(page.ids)


def test_images_can_be_decoded_and_have_words(make_run: MakeRun, report: Report) -> None:
    images = Page(report(make_run("first", evaluation()))).images
    for image in images:
        assert decoded(image["src"]).size == (int(image["width"]), int(image["height"]))
    words = [image["alt"] for image in images]
    assert all(words)
    assert "latent 4: 6 color images, gray → color" in words
    assert "#5: MSE 0 (source, translation, truth)" in words and "#0: MSE 0.5 (source, translation, truth)" in words
    kinds = ("fixed styles", "random styles", "from style to style")
    text = Page(report(make_run("second", evaluation()))).text
    assert all(f"gray → color: {kind}" in text for kind in kinds) and "color → gray: random styles" not in text


def test_charts_are_well_formed(make_run: MakeRun, report: Report) -> None:
    charts = re.findall(r"<svg.*?</svg>", report(make_run("first", evaluation())), re.DOTALL)
    titles = [ElementTree.fromstring(chart)[0].text for chart in charts]
    assert {
        "generator: adversarial",
        "discriminator: r1",
        "style effect",
        "images per second",
        "Foreground colours",
    } <= set(titles)


def test_numbers_are_those_of_the_file(make_run: MakeRun, report: Report) -> None:
    result = evaluation()
    page = Page(report(make_run("first", result)))
    tables = {
        "color → gray": ("color->gray", "none"),
        "gray → color, by reference": ("gray->color", "reference"),
    }
    for title, (direction, guidance) in tables.items():
        shown = [row[1][1] for row in page.tables[title] if len(row) > 1 and row[1][1]]
        values = [value for value in result["directions"][direction][guidance].values() if value is not True]
        assert [float(value or "") for value in shown] == values
    assert ("0.01235", "0.0123456789") in [row[1] for row in page.tables["color → gray"]]
    assert "style-independent whether the style changes not one bit of the output yes" in page.text
    assert "Of the 63 cells that real images have, 61 are never generated (dashed)" in page.text
    assert "fewer images than features" in page.text
    assert "m2o-fast train --variant hms --data digits --steps 4" in page.text


def test_no_placeholder_reaches_the_reader(make_run: MakeRun, report: Report) -> None:
    result = evaluation()
    result["directions"]["color->gray"]["none"]["mse"] = float("nan")
    result["directions"]["gray->color"]["latent"]["fid_clean"] = float("inf")
    result["protocol"] |= {"resize": None, "list": [], "nested": {"a": None}}
    result["cost"] = {"images_per_second": 80.5}
    result["details"]["scene->labels"] = {"classes": ["void", "wall"], "iou": [None, float("nan"), None, 0.5]}
    page = Page(report(make_run("first", result)))
    shown = page.text.partition("Settings (config.yaml)")[0]
    assert "not finite" in shown and "a: –" in shown and not LEAKS.findall(shown)
    assert "Cost of the evaluation images per second 80.5" in shown


def test_class_scores_are_bars_and_absent_classes_are_named(make_run: MakeRun, report: Report) -> None:
    names = ["void", *(f"thing{k}" for k in range(1, 71))]
    scores = [None, *(k / 100 if k != 7 else None for k in range(1, 71))]
    scores[9] = 0.0
    details = {"color->gray": {"classes": names, "iou": scores}}
    text = report(make_run("first", evaluation(details=details)))
    assert text.count("IoU of classes") == 2 * 2  # two charts: a title and a description each
    assert "In neither the label maps nor the outputs: thing7." in text and "Never right (IoU 0): thing9." in text
    order = re.findall(r">(thing\d+)</text>", text)
    assert order == [f"thing{k}" for k in range(70, 0, -1) if k not in (7, 9)]


def test_classes_beyond_what_a_page_can_show_are_counted(make_run: MakeRun, report: Report) -> None:
    names = [f"thing{k}" for k in range(100_000)]
    scores = [None if k % 3 == 0 else 0.0 if k % 3 == 1 else k / 100_000 for k in range(100_000)]
    page = report(make_run("a", evaluation(details={"color->gray": {"classes": names, "iou": scores}})))
    assert len(page) < 2_000_000
    assert "thing99998<" in page and "thing97001<" in page and "thing96998<" not in page, "the best thousand"
    assert "32,333 more classes are not drawn" in page
    assert "thing1, thing4, thing7," in page and "thing2998, and 32,333 more." in page, "never right"
    assert "thing3, thing6, thing9," in page and "thing3000, and 32,333 more." in page, "absent; class 0 is void"


def test_hostile_names_are_text(make_run: MakeRun, tmp_path: Path, report: Report) -> None:
    evil = "<script>alert(1)<!--\"'&{{ 7 * 7 }}"
    result = evaluation(warnings=[evil], protocol={evil: evil})
    result["directions"][f"{evil}->gray"] = {evil: {evil: 1.5}}
    result["details"][f"{evil}->x"] = {"classes": [evil], "iou": [0.5]}
    run = make_run(evil.replace("/", ""), result)
    (run / "env.json").write_text(json.dumps({evil: evil}))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5, f"{evil}/{evil}": 2.0}) + "\n")
    text = report(run)
    page = Page(text)
    assert "script" not in page.tags and "<script" not in text
    assert evil in page.text and "{{ 7 * 7 }}" in page.text


def test_the_same_run_gives_the_same_page(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("first", evaluation())
    first = write_report([run], None, "cpu").read_bytes()
    assert write_report([run], tmp_path / "again.html", "cpu").read_bytes() == first
    assert write_report([run], None, "cpu", seed=1).read_bytes() != first
    assert (run / "report.html").is_file()


# --- what is missing ---


def _remove(*names: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        for name in names:
            shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()

    return change


def _overwrite(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: [path.write_bytes(content) for path in run.glob(name)] and None


CHANGES = {
    "no evaluation": (_remove("evaluation"), "m2o-fast eval"),
    "no checkpoint": (_remove("checkpoints"), "no pictures were made: there is no checkpoint"),
    "no checkpoint, no samples": (_remove("checkpoints", "samples"), "neither a checkpoint"),
    "no logs": (_remove("metrics.jsonl", "samples.jsonl", "timings.jsonl"), "HMS on digits"),
    "no environment": (_remove("env.json"), "HMS on digits"),
    "damaged settings": (_overwrite("config.yaml", b"variant: old\n"), "the settings cannot be read"),
    "damaged logs": (_overwrite("*.jsonl", b'{"step": 1\n\xff'), "lines are damaged"),
    "damaged sample": (lambda run: [_remove("checkpoints")(run), _overwrite("samples/*", b"x")(run)], "cannot be read"),
    "damaged newest": (_overwrite("checkpoints/step-00000004/ema.safetensors", b"x"), "the pictures are of step 2"),
    "damaged all": (_overwrite("checkpoints/*/ema.safetensors", b"x"), "every checkpoint of"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_missing_is_said(make_run: MakeRun, report: Report, change: str) -> None:
    run = make_run("first", evaluation())
    act, words = CHANGES[change]
    act(run)
    page = Page(report(run))
    assert words in page.text and not LEAKS.findall(page.text.partition("Settings (config.yaml)")[0])
    for image in page.images:
        decoded(image["src"])


def test_without_a_checkpoint_the_sample_grid_is_shown(make_run: MakeRun, report: Report) -> None:
    run = make_run()
    shutil.rmtree(run / "checkpoints")
    (image,) = Page(report(run)).images
    assert "step-00000004.png" in image["alt"] and decoded(image["src"]).width <= 900


def test_data_that_is_not_there_costs_the_pictures_only(
    make_run: MakeRun, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise UserError("train-images-idx3-ubyte is missing; see m2o-fast data fetch")

    monkeypatch.setattr("m2o_fast.engine.build.open_dataset", missing)
    text = Page(report(make_run("first", evaluation()))).text
    assert "no pictures were made: train-images-idx3-ubyte is missing" in text and "Color Recall" in text


def test_a_case_that_the_data_set_does_not_have_is_left_out(make_run: MakeRun, report: Report) -> None:
    worst = [{"index": index, "measure": "mse", "value": 0.1} for index in (3, 6, 10**12)]
    images = Page(report(make_run("first", evaluation(details={"color->gray": {"worst": worst}})))).images
    assert [image["alt"][:2] for image in images if image["alt"].startswith("#")] == ["#3"]


@pytest.mark.parametrize("variant", ["starganv2", "hmu"])
def test_every_variant_has_a_page(tmp_path: Path, report: Report, variant: str) -> None:
    from m2o_fast.engine.loop import train

    train(tiny_config("steps=1", f"variant={variant}"), tmp_path / variant, quiet=True)
    titles = Page(report(tmp_path / variant)).text
    assert ("color → gray: random styles" in titles) == (variant == "starganv2")
