"""Exporting a trained run to ONNX and torch.export files, and checking that they do what the run does."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from m2o_fast.engine.build import open_split
from m2o_fast.engine.checkpoint import load_translator
from m2o_fast.engine.config import load_config
from m2o_fast.engine.export_graphs import (
    MAPPING,
    ONNX,
    PT2,
    Graph,
    contiguous,
    followed,
    function,
    graphs_of,
    opened,
    write_onnx,
    write_pt2,
)
from m2o_fast.engine.runs import CONFIG, find_checkpoint, is_run, run_of, warn_of_damage
from m2o_fast.engine.samples import COLUMNS, SampleGrid
from m2o_fast.engine.schema import Config
from m2o_fast.engine.translate import chosen_direction
from m2o_fast.errors import UserError
from m2o_fast.files import appearing, require_new
from m2o_fast.randomness import torch_generator
from m2o_fast.translators.base import Translator
from m2o_fast.version import __version__

FORMAT = 1
INDEX = "export.json"
#: largest difference from the run's own outputs, where those are within [-1, 1]; else times the largest of them
TOLERANCE = 1e-4
GRID, RANDOM = "the run's sample grid", "random images"
_NEEDED = ("onnx", "onnxscript", "onnxruntime")


class _Subject(NamedTuple):
    """What is exported: a translator, where it comes from, and what is known of that."""

    folder: Path
    manifest: dict[str, Any]
    translator: Translator
    config: Config | None


def export_run(
    run: str | Path | None,
    out: str | Path,
    target: str | None = None,
    *,
    source: str | None = None,
    checkpoint: str | None = None,
) -> dict[str, Any]:
    """Writes functions of a trained translator as files that are run without this package.

    Every file is run, and compared with the translator on the images and styles of the run's sample grid.

    Args:
        run: Run, checkpoint or converted weights; ``None``: the newest run below ``runs/``.
        out: ``FILE.onnx`` or ``FILE.pt2``: the translation in one direction. Anything else is a folder, which gets both
            files of every translation, mapping network and style encoder, and ``export.json``. It must not exist.
        target: Domain to translate into. ``None``: for a folder all; for a file the only direction into a domain that
            has a style, or the only one.
        source: Domain of the images, where several lead to ``target``.
        checkpoint: Name of one checkpoint of the run, or ``"best"``.

    Returns:
        What ``export.json`` holds: JSON values, described in docs/export.md.

    Raises:
        UserError: Nothing to load, no such direction, several for a file, something at ``out``, a missing package, or
            no room to write.
        RuntimeError: A file does not do what the translator does; nothing is written then.
    """
    out = Path(out)
    require_new(out)
    formats = (out.suffix,) if out.suffix in (ONNX, PT2) else (ONNX, PT2)
    _check_packages(formats)
    subject = _open(None if run is None else Path(run), checkpoint)
    is_file = len(formats) == 1
    ways = _directions(subject.translator, target, source, one=is_file)
    graphs = [graph for graph in graphs_of(subject.translator, ways) if graph.source is not None or not is_file]
    with appearing(out) as folder:
        facts = _Writer(subject, folder).write(graphs, formats)
        if is_file:
            os.rename(folder / facts["graphs"][0]["files"][0]["name"], out)
            facts["graphs"][0]["files"][0]["name"] = out.name
        else:
            (folder / INDEX).write_text(json.dumps(facts, indent=1) + "\n")
            os.rename(folder, out)
    return facts


def _check_packages(formats: tuple[str, ...]) -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None] if ONNX in formats else []
    if missing:
        raise UserError(
            f"ONNX files are written and checked with {', '.join(missing)}, not installed: pip install "
            "'m2o-fast[export]', or choose --out FILE.pt2, which needs nothing"
        )


def _open(path: Path | None, checkpoint: str | None) -> _Subject:
    folder, manifest, problems = find_checkpoint(path, checkpoint)
    warn_of_damage(problems, folder)
    run = run_of(folder)
    config = load_config(run / CONFIG) if run is not None and is_run(run) else None
    return _Subject(folder, manifest, load_translator(folder, manifest), config)


def _directions(translator: Translator, target: str | None, source: str | None, *, one: bool) -> list[tuple[int, int]]:
    """(source, target): what is asked for; with ``one``, a single one."""
    learned = [(a, b) for a, b in translator.directions() if a != b]
    if target is not None:
        found = [(a, b) for a, b in learned if b == translator.domain_index(target)]
        if one or source is not None or not found:
            asked = chosen_direction(translator, target, source)
            found = [(translator.domain_index(asked[0].name), translator.domain_index(asked[1].name))]
        return found
    if source is not None:
        raise UserError("--from goes with --to: name the domain to translate into, too")
    if not one:
        return learned
    styled = [(a, b) for a, b in learned if translator.has_style(b)]
    found = styled if len(styled) == 1 else learned
    if len(found) != 1:
        ways = ", ".join(f"{translator.domains[a].name} -> {translator.domains[b].name}" for a, b in learned)
        raise UserError(f"a file holds one direction, and there are {ways}; say which with --to, or name a folder")
    return found


class _Writer:
    """Writes and checks the files of a translator into a folder."""

    def __init__(self, subject: _Subject, folder: Path) -> None:
        self._translator, self._folder = subject.translator, folder
        self._plain = contiguous(subject.translator)
        self._facts = _facts(subject)
        self._grid, self._checked_on = _sample_grid(subject)

    def write(self, graphs: list[Graph], formats: tuple[str, ...]) -> dict[str, Any]:
        """All files of graphs; what is to be told of them."""
        return {**self._facts, "graphs": [self._write(graph, formats) for graph in graphs]}

    def _write(self, graph: Graph, formats: tuple[str, ...]) -> dict[str, Any]:
        described = _described(graph, self._translator)
        text = json.dumps({**self._facts, "graphs": [described]})
        program = followed(self._plain, graph)
        files = []
        for suffix in formats:
            file = self._folder / f"{graph.name(self._translator)}{suffix}"
            if suffix == ONNX:
                write_onnx(program, graph, self._plain, file, text)
            else:
                write_pt2(program, file, text)
            found = {"on": self._checked_on, "largest_difference": self._compared(graph, file), "allowed": TOLERANCE}
            files.append({"name": file.name, "checked": found})
        return {**described, "files": files}

    @torch.no_grad()
    def _compared(self, graph: Graph, file: Path) -> float:
        """The largest difference between what a file and the translator make of the sample grid."""
        wanted, exported, largest = function(self._translator, graph), opened(file), 0.0
        for inputs in self._inputs(graph):
            expected = wanted(**inputs)
            found = exported(inputs)
            if found.shape != expected.shape:
                raise RuntimeError(f"{file.name} gives {list(found.shape)}, the translator {list(expected.shape)}")
            error = (found - expected).abs().max().item() / max(1.0, expected.abs().max().item())
            if not error <= TOLERANCE:
                raise RuntimeError(f"{file.name} differs from the translator by {error:.3g}, more than {TOLERANCE:g}")
            largest = max(largest, error)
        return largest

    def _inputs(self, graph: Graph) -> list[dict[str, Tensor]]:
        """The images of the grid with a style, all its styles with one image each, and where any size is taken, one."""
        shapes = graph.inputs(self._translator)
        if graph.kind == MAPPING:
            shape = (COLUMNS, *(self._translator.latent_shape(graph.target) or ()))
            return [{"latent": torch.randn(shape, generator=torch_generator(0, "export"))}]
        images = self._grid.images[graph.target if graph.source is None else graph.source]
        if "style" not in shapes:
            cases = [{"image": images}, {"image": images[:1]}]
        else:
            styles = self._grid.styles(self._translator, graph.target)
            same = {"image": images, "style": styles[:1].expand(len(images), *styles.shape[1:]).contiguous()}
            cases = [same, *({"image": images[:1], "style": style[None]} for style in styles[1:])]
        if graph.takes_any_size(self._translator):
            step = self._translator.multiple or 1
            cases.append({**cases[-1], "image": F.pad(images[:1], (0, step, 0, 2 * step), mode="replicate")})
        return cases


class _RandomImages:
    """Stands in for a sample grid where there are no images."""

    def __init__(self, translator: Translator) -> None:
        generator, side = torch_generator(0, "export", 1), translator.image_size
        self.images = [torch.rand((2, d.channels, side, side), generator=generator) * 2 - 1 for d in translator.domains]

    def styles(self, translator: Translator, target: int) -> Tensor:
        """Two styles of a domain."""
        return translator.sample_style(2, target, torch_generator(0, "export", 2))


def _sample_grid(subject: _Subject) -> tuple[SampleGrid | _RandomImages, str]:
    """The sample grid of the run, or random images where there is no run, or its data is gone."""
    config = subject.config
    if config is not None:
        try:
            return SampleGrid(open_split(config, "test"), subject.translator, config.seed), GRID
        except (UserError, OSError) as error:
            return _RandomImages(subject.translator), f"{RANDOM} ({error})"
    return _RandomImages(subject.translator), RANDOM


# --- what is told ---


def _facts(subject: _Subject) -> dict[str, Any]:
    translator, manifest, config = subject.translator, subject.manifest, subject.config
    return {
        "format": FORMAT,
        "m2o_fast": __version__,
        "system": translator.describe()["system"],
        "variant": None if config is None else config.variant,
        "step": manifest["step"],
        "data": {
            "name": None if config is None else config.data.name,
            "fit": None if config is None else config.data.fit,
            "fingerprint": manifest.get("data"),
        },
        "image_size": translator.image_size,
        "domains": [{**asdict(domain), "range": [-1, 1]} for domain in translator.domains],
    }


def _described(graph: Graph, translator: Translator) -> dict[str, Any]:
    name = {k: domain.name for k, domain in enumerate(translator.domains)}
    inputs: dict[str, dict[str, Any]] = {key: {"shape": list(shape)} for key, shape in graph.inputs(translator).items()}
    if "image" in inputs:
        inputs["image"] |= {"range": [-1, 1]}
        if graph.takes_any_size(translator):
            inputs["image"]["multiple"] = translator.multiple
    for key in ("latent", *(["style"] if translator.normal_styles else [])):
        if key in inputs:
            inputs[key]["law"] = "standard normal"
    outputs: dict[str, dict[str, Any]]
    outputs = {key: {"shape": list(shape)} for key, shape in graph.outputs(translator).items()}
    if graph.source is not None:
        outputs[graph.output] |= {"range": [-1, 1]}
    return {
        "kind": graph.kind,
        **({} if graph.source is None else {"source": name[graph.source]}),
        "target": name[graph.target],
        "inputs": inputs,
        "outputs": outputs,
    }
