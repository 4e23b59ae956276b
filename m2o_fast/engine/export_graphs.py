"""The functions of a translator as graphs of standard operations, which need nothing of this package to be run.

Graphs are followed by torch.export, through the references of all fused operations, with features and weights in
torch's own memory format.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.experimental import _config as symbolic

from m2o_fast.ops import use_backend
from m2o_fast.translators.base import Translator

if TYPE_CHECKING:
    import onnx_ir

TRANSLATION, MAPPING, ENCODER = "translation", "mapping network", "style encoder"
#: key of the metadata of an .onnx file, and of the further file in a .pt2 file
METADATA = "m2o_fast.json"
ONNX, PT2 = ".onnx", ".pt2"
#: newest set of ONNX operators that is asked for
_OPSET = 20
_AXES = ("batch", "channels", "height", "width")
_EXAMPLES = 2


@dataclass(frozen=True)
class Graph:
    """One function of a translator.

    Attributes:
        kind: ``"translation"``, ``"mapping network"`` or ``"style encoder"``.
        target: Index of the domain translated into, or whose style it is about.
        source: Index of the domain of the images that are translated.
    """

    kind: str
    target: int
    source: int | None = None

    def name(self, translator: Translator) -> str:
        """What its files are called, which no other graph's are: names of domains have no dots."""
        target = translator.domains[self.target].name
        if self.source is not None:
            return f"{translator.domains[self.source].name}.to.{target}"
        return f"{self.kind.replace(' ', '_')}.{target}"

    @property
    def output(self) -> str:
        """Name of what it gives."""
        return "translation" if self.kind == TRANSLATION else "style"

    def inputs(self, translator: Translator) -> dict[str, tuple[int | str, ...]]:
        """Names and shapes of what it takes; sides of any length, and the number of samples, are names."""
        if self.kind == MAPPING:
            return {"latent": (_AXES[0], *(translator.latent_shape(self.target) or ()))}
        found = {"image": self._images(translator, self.target if self.source is None else self.source)}
        if self.kind == TRANSLATION and translator.has_style(self.target):
            found["style"] = (_AXES[0], *translator.style_shape(self.target))
        return found

    def outputs(self, translator: Translator) -> dict[str, tuple[int | str, ...]]:
        """Name and shape of what it gives."""
        if self.kind == TRANSLATION:
            return {self.output: self._images(translator, self.target)}
        return {self.output: (_AXES[0], *translator.style_shape(self.target))}

    def takes_any_size(self, translator: Translator) -> bool:
        """Whether images of any height and width that are multiples of the translator's go in."""
        # A style that is an image has the size of the images that were trained with, and so have they.
        fixed = len(translator.style_shape(self.target)) > 1 and translator.has_style(self.target)
        return self.kind != MAPPING and translator.multiple is not None and not fixed

    def _images(self, translator: Translator, domain: int) -> tuple[int | str, ...]:
        side = translator.image_size
        sides = _AXES[2:] if self.takes_any_size(translator) else (side, side)
        return (_AXES[0], translator.domains[domain].channels, *sides)


def graphs_of(translator: Translator, directions: list[tuple[int, int]]) -> list[Graph]:
    """Those that directions need: translations, and where styles of their targets come from."""
    targets = [b for b in dict.fromkeys(b for _, b in directions) if translator.has_style(b)]
    return [
        *(Graph(TRANSLATION, b, a) for a, b in directions),
        *(Graph(MAPPING, b) for b in targets if translator.latent_shape(b) is not None),
        *(Graph(ENCODER, b) for b in targets if translator.reads_style(b)),
    ]


class Function(nn.Module):
    """A graph's function as a module, whose arguments have the names of its inputs."""

    def __init__(self, translator: Translator, graph: Graph) -> None:
        super().__init__()
        self.translator, self.graph = translator, graph


class _Translation(Function):
    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        assert self.graph.source is not None
        return self.translator.translate(image, self.graph.source, self.graph.target, style=style)


class _Mapping(Function):
    def forward(self, latent: Tensor) -> Tensor:
        return self.translator.map_style(latent, self.graph.target)


class _Encoder(Function):
    def forward(self, image: Tensor) -> Tensor:
        return self.translator.encode_style(image, self.graph.target)


_FUNCTIONS: dict[str, type[Function]] = {TRANSLATION: _Translation, MAPPING: _Mapping, ENCODER: _Encoder}


def function(translator: Translator, graph: Graph) -> Function:
    """What a graph does, as the translator does it."""
    return _FUNCTIONS[graph.kind](translator, graph)


def contiguous(translator: Translator) -> Translator:
    """A copy on the CPU with weights in torch's own memory format."""
    plain = copy.deepcopy(translator).cpu()
    for weight in plain.parameters():
        weight.data = weight.data.contiguous()
    return plain


# --- following ---


def followed(translator: Translator, graph: Graph) -> ExportedProgram:
    """The graph of a function, with the weights that it needs.

    Args:
        translator: What :func:`contiguous` gave, in evaluation mode.
        graph: Which function.
    """
    shapes = graph.inputs(translator)
    free = {name: {axis: Dim.DYNAMIC for axis, size in enumerate(shape) if isinstance(size, str)}
            for name, shape in shapes.items()}  # fmt: skip
    # Sizes are not compared with 1 wherever torch would do so to tell memory formats apart, so that sizes and numbers
    # of images are taken at which something happens to be 1.
    with (
        torch.no_grad(),
        use_backend("reference"),
        symbolic.patch(backed_size_oblivious=True),  # type: ignore[attr-defined]
    ):
        program = torch.export.export(
            function(translator, graph), (), _examples(translator, shapes), dynamic_shapes=free, strict=False
        )
    return _without_idle_weights(program)


def _examples(translator: Translator, shapes: Mapping[str, tuple[int | str, ...]]) -> dict[str, Tensor]:
    step = translator.multiple or 1
    side = -(-translator.image_size // step) * step
    sizes = {"batch": _EXAMPLES, "height": side + step, "width": side + 2 * step}  # all different
    return {
        name: torch.zeros([size if isinstance(size, int) else sizes[size] for size in shape])
        for name, shape in shapes.items()
    }


def _without_idle_weights(program: ExportedProgram) -> ExportedProgram:
    """The same program without weights that no operation reads, such as those of other directions."""
    signature, nodes = program.graph_signature, program.graph_module.graph.find_nodes(op="placeholder")
    kept = []
    for node, spec in zip(nodes, signature.input_specs, strict=True):
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and not node.users:
            program.graph_module.graph.erase_node(node)
            program.state_dict.pop(spec.target, None)
        else:
            kept.append(spec)
    signature.input_specs[:] = kept
    program.graph_module.recompile()
    return program


# --- files ---


def write_pt2(program: ExportedProgram, file: Path, facts: str) -> None:
    """Writes a file of ``torch.export``, with the metadata as a further file in it."""
    content = io.BytesIO()  # where torch writes the file itself, a full disk ends the process
    torch.export.save(program, content, extra_files={METADATA: facts})
    file.write_bytes(content.getbuffer())


def write_onnx(program: ExportedProgram, graph: Graph, translator: Translator, file: Path, facts: str) -> None:
    """Writes an ONNX file with the metadata among its properties; weights are in it."""
    shapes = {name: {k: size for k, size in enumerate(shape) if isinstance(size, str)}
              for name, shape in graph.inputs(translator).items()}  # fmt: skip
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it tells of packages that nobody asked for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                program, dynamo=True, opset_version=_OPSET, output_names=[graph.output], dynamic_shapes=shapes,
                verbose=False,
            )  # fmt: skip
            assert made is not None
            if graph.takes_any_size(translator) and translator.multiple not in (None, 1):
                refuse_other_sizes(made.model, translator.multiple)
            made.model.metadata_props[METADATA] = facts
            made.save(str(file), external_data=False)
    finally:
        log.setLevel(level)


def refuse_other_sizes(model: onnx_ir.Model, multiple: int) -> None:
    """Puts in front of a graph what fails where height or width of ``image`` is no multiple, and says so by its name.

    ONNX has no assertions; this one splits a side into parts and joins them again, which moves no pixel.
    """
    import onnx_ir as ir

    graph = model.graph
    image = next(value for value in graph.inputs if value.name == "image")
    uses = tuple(image.uses())
    shape = ir.node("Shape", [image])
    nodes, checked = [shape], image
    for side, parts in {"height": [0, 0, -1, 0, multiple], "width": [0, 0, 0, -1, multiple]}.items():
        numbers = ir.node("Constant", [], {"value_ints": parts})  # 0: as it is; -1: the quotient
        name = f"{side} must be a multiple of {multiple}"
        split = ir.node("Reshape", [checked, numbers.outputs[0]], name=name)
        joined = ir.node("Reshape", [split.outputs[0], shape.outputs[0]])
        nodes += [numbers, split, joined]
        checked = joined.outputs[0]
    for use in uses:
        use.node.replace_input_with(use.idx, checked)
    graph.insert_before(graph[0], nodes)


def opened(file: Path) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """What an exported file makes of inputs."""
    if file.suffix == PT2:
        module = torch.export.load(file).module()
        return lambda inputs: module(**inputs)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {name: x.numpy() for name, x in inputs.items()})[0])
