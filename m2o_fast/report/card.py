"""A model card: what a published model is, how good it was measured to be, how it is used, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2o_fast.data.settings import DataConfig
from m2o_fast.engine.config import load_config
from m2o_fast.engine.convert import CONVERTED
from m2o_fast.engine.runs import CONFIG
from m2o_fast.m2o import PLAIN
from m2o_fast.report.evaluation import Evaluation, Row, evaluation_of
from m2o_fast.report.measures import measure
from m2o_fast.translators import full_name, system
from m2o_fast.translators.base import Translator
from m2o_fast.version import __version__

SAMPLES = "samples.png"


def model_card(
    translator: Translator, manifest: Mapping[str, Any], run: Path | None, license_id: str, repository: str
) -> tuple[str, Path | None]:
    """The card of a checkpoint, and the picture that it shows: both of its own step.

    Args:
        translator: What is published.
        manifest: That of the checkpoint.
        run: The run that it lies in, if any.
        license_id: Licence, as the hub names it.
        repository: ``ORG/NAME``, for the example.
    """
    name, step = translator.describe()["system"], manifest["step"]
    config = None if run is None else load_config(run / CONFIG)
    variant = system(name).variant_of(translator.rules)
    title = full_name(name, variant or PLAIN)
    picture = None if run is None else run / "samples" / f"step-{step:08d}.png"
    picture = picture if picture is not None and picture.is_file() else None
    names = ", ".join(f"`{d.name}` ({'many' if d.multimodal else 'one'} for each content)" for d in translator.domains)
    ways = [(translator.domain(a).name, translator.domain(b).name) for a, b in translator.directions() if a != b]
    converted = manifest.get(CONVERTED)
    lines = [
        "---",
        "library_name: m2o_fast",
        "pipeline_tag: image-to-image",
        f'license: "{license_id}"',  # YAML would take "no" for a truth value
        f"tags: [{', '.join(['image-to-image', 'many-to-one', name] + ([variant] if variant else []))}]",
        "---\n",
        f"# {title}: {' and '.join(dict.fromkeys(name for way in ways for name in way))}\n",
        f"A many-to-one image translator ([arXiv 2402.12531](https://arxiv.org/abs/2402.12531)) on {title} "
        f"({system(name).paper}), of m2o_fast {__version__}.\n",
        f"- **Domains**: {names}",
        f"- **Directions**: {', '.join(f'{a} to {b}' for a, b in ways)}",
        f"- **Images**: {translator.image_size} x {translator.image_size} pixels"
        + ("" if translator.multiple is None else f", or any multiple of {translator.multiple}"),
        *([] if config is None else [f"- **Data**: {_data(config.data)}, fingerprint `{manifest.get('data')}`"]),
        f"- **Weights**: converted from published ones of layout {converted}"
        if converted
        else f"- **Trained**: {step:,} steps" + ("" if config is None else f", seed {config.seed}"),
    ]
    if picture is not None:
        lines += ["", f"![Test images, and what the model makes of them]({SAMPLES})"]
    lines += ["", "## Use\n", "```python", *_example(translator, repository), "```\n", "## Measures\n"]
    lines += _measures(run, step)
    lines += ["## Limits\n", *_limits(translator, bool(converted))]
    return "\n".join(lines) + "\n", picture


def _data(data: DataConfig) -> str:
    """Without the names of folders, which are of the machine that it was trained on."""
    count = len(data.named)
    return data.name if count == 1 else f"{count} data sets of the kind {data.name}"


def _example(translator: Translator, repository: str) -> list[str]:
    a, b = next((a, b) for a, b in translator.directions() if a != b)
    source, target = translator.domain(a).name, translator.domain(b).name
    origin = f', source="{source}"' if len({x for x, y in translator.directions() if y == b and x != b}) > 1 else ""
    seed = ", seed=0" if translator.has_style(b) else ""
    return [
        "import m2o_fast  # pip install 'm2o-fast[hub]'\n",
        f'picture = m2o_fast.translate("hf:{repository}", "image.png", to="{target}"{origin}{seed})',
        'picture.save("out.png")',
    ]


def _measures(run: Path | None, step: int) -> list[str]:
    """A table for each kind of direction, with its protocol; or that nothing was measured."""
    evaluation = None if run is None else evaluation_of(run, step)
    if evaluation is None:
        return ["Not measured.\n"]
    lines = []
    for one_answer in (True, False):
        rows = [row for row in evaluation.rows() if row.one_answer == one_answer]
        lines += _table(rows)
    return [*lines, f"Protocol: {_protocol(evaluation)}.\n"]


def _table(rows: list[Row]) -> list[str]:
    names = list(
        dict.fromkeys(name for row in rows for name, value in row.measures.items() if not isinstance(value, str))
    )
    if not names:
        return []
    titles = [
        f"{measure(name).label}{f' ({measure(name).better} is better)' if measure(name).better else ''}"
        for name in names
    ]
    lines = [f"| | {' | '.join(titles)} |", f"|---|{'---|' * len(names)}"]
    for row in rows:
        cells = [_shown(row.measures.get(name)) for name in names]
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return [*lines, ""]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def _protocol(evaluation: Evaluation) -> str:
    plain = {key: value for key, value in evaluation.protocol.items() if isinstance(value, bool | int | float | str)}
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in plain.items())


def _limits(translator: Translator, is_converted: bool) -> list[str]:
    lines = [
        "- It translates what looks like its training images. Of others it makes something, and does not say so.",
        "- Colours, textures and faults of the training images are those of the outputs.",
    ]
    if any(translator.has_style(k) for k in range(len(translator.domains))):
        lines.append("- A look is one of many that fit; it is no measurement of what an image really looked like.")
    if is_converted:
        lines.append("- The weights were converted from elsewhere; their licence and their limits hold.")
    return lines
