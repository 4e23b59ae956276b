"""A model card: what a published model is, how good it was measured to be, how it is used, and what it is not for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2o_fast.engine.checkpoint import load_translator
from m2o_fast.engine.config import load_config
from m2o_fast.engine.model_folder import write_model
from m2o_fast.engine.runs import CONFIG, find_checkpoint, fit_of, run_of, warn_of_damage
from m2o_fast.errors import UserError
from m2o_fast.m2o import PLAIN
from m2o_fast.report.evaluation import Evaluation, Row, newest_evaluation
from m2o_fast.report.measures import measure
from m2o_fast.translators import full_name, system
from m2o_fast.translators.base import Translator
from m2o_fast.version import __version__

CARD, SAMPLES = "README.md", "samples.png"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def publish(run: Path | None, out: Path, license_id: str, checkpoint: str | None = None, repository: str = "") -> Path:
    """Writes a run as a published model: ``config.json``, ``model.safetensors``, ``README.md`` and its sample grid.

    Args:
        run: A run, a checkpoint or converted weights; ``None``: the newest run.
        out: The folder to write; must not exist.
        license_id: Under what licence, as the hub names it: ``mit``, ``cc-by-4.0``, ``other``, ... Never guessed.
        checkpoint: Name of one checkpoint of the run, or ``"best"``; ``None``: its newest good one.
        repository: ``ORG/NAME`` on the hub, for the example in the card.

    Returns:
        The folder.

    Raises:
        UserError: Nothing to load, no licence, or a folder that exists.
    """
    if not _LICENSE.fullmatch(license_id):
        raise UserError(f"licence {license_id!r:.60}: give its name as the hub has it, such as mit, cc-by-4.0 or other")
    if out.exists():
        raise UserError(f"{out} exists already; choose another folder or remove it")
    folder, manifest, problems = find_checkpoint(run, checkpoint)
    warn_of_damage(problems, folder)
    translator, place = load_translator(folder, manifest), run_of(folder)
    facts = {"fit": fit_of(folder), "step": manifest["step"], "data_fingerprint": manifest.get("data")}
    card, picture = _card(translator, facts, place, license_id, repository or f"ORG/{out.name}")
    out.mkdir(parents=True)
    try:
        write_model(translator, out, facts)
        (out / CARD).write_text(card)
        if picture is not None:
            shutil.copyfile(picture, out / SAMPLES)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return out


def _card(
    translator: Translator, facts: Mapping[str, Any], run: Path | None, license_id: str, repository: str
) -> tuple[str, Path | None]:
    """The card, and the picture that it shows."""
    described = translator.describe()
    config = None if run is None else load_config(run / CONFIG)
    variant = PLAIN if config is None else config.variant
    title = full_name(described["system"], variant)
    picture = None if run is None else next(iter(sorted(run.glob("samples/step-*.png"), reverse=True)), None)
    names = ", ".join(f"`{d.name}` ({'many' if d.multimodal else 'one'} for each content)" for d in translator.domains)
    ways = [(translator.domain(a).name, translator.domain(b).name) for a, b in translator.directions() if a != b]
    lines = [
        "---",
        "library_name: m2o_fast",
        "pipeline_tag: image-to-image",
        f"license: {license_id}",
        f"tags: [image-to-image, many-to-one, {described['system']}, {variant}]",
        "---\n",
        f"# {title}: {' and '.join(dict.fromkeys(name for way in ways for name in way))}\n",
        f"A many-to-one image translator ([arXiv 2402.12531](https://arxiv.org/abs/2402.12531)) on {title} "
        f"({system(described['system']).paper}), trained with m2o_fast {__version__}.\n",
        f"- **Domains**: {names}",
        f"- **Directions**: {', '.join(f'{a} to {b}' for a, b in ways)}",
        f"- **Images**: {translator.image_size} x {translator.image_size} pixels"
        + ("" if translator.multiple is None else f", or any multiple of {translator.multiple}"),
        *([] if config is None else [f"- **Data**: {config.data.name}, fingerprint `{facts['data_fingerprint']}`"]),
        f"- **Trained**: {facts['step']:,} steps" + ("" if config is None else f", seed {config.seed}"),
    ]
    if picture is not None:
        lines += ["", f"![Test images, and what the model makes of them]({SAMPLES})"]
    lines += ["", "## Use\n", "```python", *_example(ways[0], translator, repository), "```\n", "## Measures\n"]
    lines += _measures(run, facts["step"])
    lines += ["## Limits\n", *_limits(translator, config is not None)]
    return "\n".join(lines) + "\n", picture


def _example(way: tuple[str, str], translator: Translator, repository: str) -> list[str]:
    source, target = way
    style = f", style=model.sample_style(1, {target!r})" if translator.has_style(target) else ""
    channels = translator.domain(source).channels
    return [
        "import m2o_fast  # pip install 'm2o-fast[hub]'\n",
        f'model = m2o_fast.load("hf:{repository}")',
        f'image = m2o_fast.read_image("image.png", channels={channels}, size=model.image_size)',
        f'm2o_fast.save_image(model.translate(image, {source!r}, {target!r}{style}), "out.png")',
    ]


def _measures(run: Path | None, step: int) -> list[str]:
    """A table for each kind of direction, with its protocol; or that nothing was measured."""
    evaluation = None if run is None else newest_evaluation(run)[0]
    if evaluation is None or evaluation.step != step:
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


def _limits(translator: Translator, is_trained_here: bool) -> list[str]:
    lines = [
        "- It translates what looks like its training images. Of others it makes something, and does not say so.",
        "- Colours, textures and faults of the training images are those of the outputs.",
    ]
    if any(translator.has_style(k) for k in range(len(translator.domains))):
        lines.append("- A look is one of many that fit; it is no measurement of what an image really looked like.")
    if not is_trained_here:
        lines.append("- The weights were converted from elsewhere; their licence and their limits hold.")
    return lines
