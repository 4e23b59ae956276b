"""Exported files do what the run does, for every system, in a process that has no m2o_fast."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import SMALLER, small_config
from source_tree import ROOT

import m2o_fast
from m2o_fast.cli import main
from m2o_fast.engine import export
from m2o_fast.engine.build import build_translator
from m2o_fast.engine.checkpoint import save_translator
from m2o_fast.engine.export import TOLERANCE, export_run
from m2o_fast.engine.export_graphs import METADATA, Graph, contiguous, followed, graphs_of, opened, refuse_other_sizes
from m2o_fast.engine.loop import train
from m2o_fast.engine.runs import load_translator
from m2o_fast.errors import UserError
from m2o_fast.m2o import Domain
from m2o_fast.translators import NAMES, system
from m2o_fast.translators.base import Translator

DOMAINS = (Domain("gray", 1, multimodal=False), Domain("color", 3))
#: takes images of any size, has a style, and is the cheapest to follow
SMALL = "simgan"

#: runs a file on inputs where nothing of this package can be imported
ALONE = """
import sys
sys.modules["m2o_fast"] = None
import json
import numpy as np
programs = {}
for file, inputs, out in json.loads(sys.argv[1]):
    given = dict(np.load(inputs))
    if file.endswith(".onnx"):
        import onnxruntime
        if file not in programs:
            programs[file] = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        found = programs[file].run(None, given)[0]
        assert "torch" not in sys.modules
    else:
        import torch
        if file not in programs:
            programs[file] = torch.export.load(file).module()
        found = programs[file](**{name: torch.from_numpy(value) for name, value in given.items()}).detach().numpy()
    np.save(out, found)
"""


def words_of(name: str) -> list[str]:
    variant = list(system(name).variants)[-1]
    return [f"system={name}", f"variant={variant}", *SMALLER.get(name, [])]


def styled_way(translator: Translator) -> tuple[int, int]:
    ways = [(a, b) for a, b in translator.directions() if a != b]
    return next(((a, b) for a, b in ways if translator.has_style(b)), ways[0])


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Fresh nets of every system."""
    folder = tmp_path_factory.mktemp("nets")
    return {
        name: save_translator(build_translator(small_config(words_of(name)), DOMAINS), folder / name) for name in NAMES
    }


def cases(translator: Translator, graph: Graph, count: int, longer: int) -> dict[str, torch.Tensor]:
    """Inputs of a graph, of another height and width where it takes any."""
    generator = torch.Generator().manual_seed(count)
    step, side = translator.multiple or 0, translator.image_size
    sizes = {"batch": count, "height": side + 2 * longer * step, "width": side + longer * step}
    shapes = {name: [sizes.get(size, size) for size in shape] for name, shape in graph.inputs(translator).items()}
    inputs = {name: torch.rand(shape, generator=generator) * 2 - 1 for name, shape in shapes.items()}
    if "style" in inputs:
        inputs["style"] = translator.sample_style(count, graph.target, generator)
    return inputs


def wanted(translator: Translator, graph: Graph, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the translator makes of them."""
    if graph.source is not None:
        return translator.translate(inputs["image"], graph.source, graph.target, style=inputs.get("style"))
    if "latent" in inputs:
        return translator.map_style(inputs["latent"], graph.target)
    return translator.encode_style(inputs["image"], graph.target)


def run_alone(tasks: list[tuple[Path, dict[str, torch.Tensor]]], folder: Path) -> list[np.ndarray]:
    """What a process without m2o_fast makes of inputs."""
    words = []
    for number, (file, inputs) in enumerate(tasks):
        np.savez(folder / f"{number}.npz", **{name: value.numpy() for name, value in inputs.items()})
        words.append([str(file), str(folder / f"{number}.npz"), str(folder / f"{number}.npy")])
    subprocess.run([sys.executable, "-c", ALONE, json.dumps(words)], check=True, cwd=folder, timeout=300)
    return [np.load(out) for _, _, out in words]


def check(translator: Translator, files: list[tuple[Graph, Path]], folder: Path) -> None:
    tasks = [(graph, file, cases(translator, graph, *how)) for graph, file in files for how in ((1, 0), (3, 1))]
    found = run_alone([(file, inputs) for _, file, inputs in tasks], folder)
    for (graph, file, inputs), made in zip(tasks, found, strict=True):
        with torch.no_grad():
            expected = wanted(translator, graph, inputs)
        assert made.shape == expected.shape, file
        assert np.abs(made - expected.numpy()).max() <= TOLERANCE * max(1.0, expected.abs().max().item()), file


def check_refusals(translator: Translator, graph: Graph, file: Path) -> None:
    """A height or a width that is no multiple is an error, of an .onnx file one that says so."""
    inputs = cases(translator, graph, 1, 0)
    for side, pad in (("height", (0, 0, 0, 1)), ("width", (0, 1))):
        says = f"{side} must be a multiple of {translator.multiple}" if file.suffix == ".onnx" else "Guard failed"
        with pytest.raises(Exception, match=says):
            opened(file)(inputs | {"image": torch.nn.functional.pad(inputs["image"], pad)})


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_translation_for_torch_alone(name: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    translator = load_translator(checkpoints[name], "cpu")
    source, target = styled_way(translator)
    a, b = (translator.domains[k].name for k in (source, target))
    facts = export_run(checkpoints[name], tmp_path / "a.pt2", b, source=a)
    assert facts["system"] == name and facts["graphs"][0]["target"] == b
    assert facts["graphs"][0]["files"][0]["checked"]["on"] == "random images"
    check(translator, [(Graph("translation", target, source), tmp_path / "a.pt2")], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_everything_in_both_formats(name: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    translator = load_translator(checkpoints[name], "cpu")
    facts = export_run(checkpoints[name], tmp_path / "all")
    ways = [(a, b) for a, b in translator.directions() if a != b]
    styled = [b for b in range(2) if translator.has_style(b) and any(to == b for _, to in ways)]
    kinds = [graph["kind"] for graph in facts["graphs"]]
    assert kinds.count("translation") == len(ways)
    assert kinds.count("mapping network") == sum(translator.latent_shape(b) is not None for b in styled)
    assert kinds.count("style encoder") == sum(translator.reads_style(b) for b in styled)
    files = [
        (graph, tmp_path / "all" / f"{graph.name(translator)}{suffix}")
        for suffix in (".onnx", ".pt2")  # before torch is imported there
        for graph in graphs_of(translator, ways)
    ]
    names = [file["name"] for graph in facts["graphs"] for file in graph["files"]]
    assert sorted(file.name for _, file in files) == sorted(names)
    check(translator, files, tmp_path)
    for graph, file in files:
        if graph.takes_any_size(translator) and translator.multiple != 1:
            check_refusals(translator, graph, file)


@pytest.mark.slow
def test_a_style_is_read_off_one_image_where_all_domains_have_styles() -> None:
    """Flow reads it through a translation, whose style must not be one for all images."""
    words = ["system=flow", "variant=plain", *SMALLER["flow"]]
    translator = build_translator(small_config(words), DOMAINS).eval()
    graph = Graph("style encoder", 1)
    module = followed(contiguous(translator), graph).module()
    for count in (1, 3):
        inputs = cases(translator, graph, count, 0)
        with torch.no_grad():
            assert torch.allclose(module(**inputs), wanted(translator, graph, inputs), atol=TOLERANCE)


def test_other_sizes_are_refused_by_name(tmp_path: Path) -> None:
    """What stands in front of a graph, here one that gives the image back."""
    import onnx_ir as ir

    sides = ir.Shape(["batch", 1, "height", "width"])
    image = ir.Value(name="image", shape=sides, type=ir.TensorType(ir.DataType.FLOAT))
    same = ir.node("Identity", [image])
    same.outputs[0].name = "translation"
    made = ir.Model(ir.Graph([image], same.outputs, nodes=[same], opset_imports={"": 20}), ir_version=10)
    refuse_other_sizes(made, 4)
    ir.save(made, tmp_path / "same.onnx")
    run = opened(tmp_path / "same.onnx")
    images = torch.rand(2, 1, 8, 12)
    assert torch.equal(run({"image": images}), images)
    for side, odd in (("height", images[:, :, 1:]), ("width", images[..., :10])):
        with pytest.raises(Exception, match=f"{side} must be a multiple of 4"):
            run({"image": odd.contiguous()})


# --- one run ---


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step on real digits."""
    folder = tmp_path_factory.mktemp("run") / "run"
    config = small_config(words_of(SMALL), "steps=1", "checkpoint_every=1", "sample_every=1")
    assert train(config, folder, quiet=True).exit_code == 0
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """What the command writes of it into a folder, and what it says."""
    folder, said = tmp_path_factory.mktemp("exported") / "all", io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["export", str(run), "--to", "color", "--out", str(folder)]) == 0
    yield folder, said.getvalue()


def test_a_run_in_all_formats(run: Path, exported: tuple[Path, str], tmp_path: Path) -> None:
    """Checked on its sample grid, and described in the files and beside them."""
    folder, said = exported
    assert re.search(r"gray.to.color.onnx: translation, image, style to translation; .* on the run's sample grid", said)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["export.json", "gray.to.color.onnx", "gray.to.color.pt2"]
    facts = json.loads((folder / "export.json").read_text())
    translator = load_translator(run, "cpu")
    source, target = styled_way(translator)
    graph = Graph("translation", target, source)
    check(translator, [(graph, folder / name) for name in names[1:]], tmp_path)
    assert (facts["system"], facts["variant"], facts["image_size"], facts["step"]) == (SMALL, "hms", 32, 1)
    assert len(facts["data"]["fingerprint"]) == 64 and facts["data"]["name"] == "digits"
    assert [domain["name"] for domain in facts["domains"]] == [domain.name for domain in translator.domains]
    described = facts["graphs"][0]
    assert described["inputs"]["image"] == {"shape": ["batch", 1, "height", "width"], "range": [-1, 1], "multiple": 1}
    assert described["inputs"]["style"]["law"] == "standard normal"
    assert all(file["checked"]["on"] == "the run's sample grid" for file in described["files"])
    assert stored(folder / "gray.to.color.onnx")["data"] == facts["data"]
    text = {METADATA: ""}
    program = torch.export.load(folder / "gray.to.color.pt2", extra_files=text)
    assert json.loads(text[METADATA])["graphs"][0]["inputs"] == described["inputs"]
    weights = sum(weight.numel() for weight in program.state_dict.values())
    assert weights < sum(weight.numel() for weight in translator.parameters()) / 2  # no discriminator, no way back


def test_the_examples_of_the_docs(exported: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (40, 24), 128).save("digit.png")
    for suffix in ("onnx", "pt2"):
        Path(f"color.{suffix}").write_bytes((exported[0] / f"gray.to.color.{suffix}").read_bytes())
    codes = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
    assert len(codes) == 2
    for code in codes:
        exec(code, {})
        with Image.open("color.png") as image:
            assert (image.mode, image.size) == ("RGB", (40, 24))
        Path("color.png").unlink()


def stored(file: Path) -> dict[str, Any]:
    """The metadata of an ONNX file, and the names of its inputs' sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 1, "height", "width"]
    assert [output.name for output in session.get_outputs()] == ["translation"]
    return json.loads(session.get_modelmeta().custom_metadata_map[METADATA])


def test_a_file_that_does_something_else_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "opened", lambda file: lambda inputs: opened(file)(inputs) + 2 * TOLERANCE)
    with pytest.raises(RuntimeError, match="color.pt2 differs from the translator by 0.0002"):
        m2o_fast.export(run, tmp_path / "a.pt2", "color")
    assert list(tmp_path.iterdir()) == []


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["export", *map(str, words)]) == 2
    out, error = capsys.readouterr()
    assert out == "" and len(error.splitlines()) == 1
    return error


def test_what_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.pt2"
    monkeypatch.setattr(export, "followed", lambda *_: pytest.fail("something was exported"))
    assert "unknown domain 'blue'; the domains are color, gray" in refused(capsys, run, "--to", "blue", "--out", out)
    assert "--from goes with --to" in refused(capsys, run, "--from", "gray", "--out", out)
    assert "no checkpoint 'step-9'" in refused(capsys, run, "--checkpoint", "step-9", "--out", out)
    assert "no such folder" in refused(capsys, tmp_path / "none", "--out", out)
    out.write_text("mine")
    assert "exists already" in refused(capsys, run, "--out", out)
    assert out.read_text() == "mine"


def test_a_damaged_checkpoint_is_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "nets"
    copy.mkdir()
    for file in checkpoints[SMALL].iterdir():
        (copy / file.name).write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        export_run(copy, tmp_path / "a.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["nets"]


def test_a_file_holds_one_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(words_of(NAMES[0])[:1] + words_of(NAMES[0])[2:] + ["variant=plain"])
    translator = build_translator(config, (Domain("a"), Domain("b"), Domain("c")))
    with pytest.raises(UserError, match="a file holds one direction, and there are a -> b, a -> c, .*--to"):
        export._directions(translator, None, None, one=True)
    with pytest.raises(UserError, match="say with --from"):
        export._directions(translator, "a", None, one=True)
    assert export._directions(translator, "a", "c", one=True) == [(2, 0)]
    assert export._directions(translator, "a", None, one=False) == [(1, 0), (2, 0)]
    assert len(export._directions(translator, None, None, one=False)) == 6


def test_missing_packages_are_named_with_the_remedy(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(UserError, match=r"with onnxruntime, not installed: pip install 'm2o-fast\[export\]'"):
        export_run(run, tmp_path / "a.onnx")
