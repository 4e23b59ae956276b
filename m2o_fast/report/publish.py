"""A run as a published model: nets, weights, a model card and a picture, in a folder as model hubs expect it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from m2o_fast.data.images import read_image, to_pillow
from m2o_fast.engine.checkpoint import load_translator
from m2o_fast.engine.model_folder import write_model
from m2o_fast.engine.runs import find_checkpoint, fit_of, run_of, warn_of_damage
from m2o_fast.errors import UserError
from m2o_fast.files import appearing, require_new
from m2o_fast.report.card import SAMPLES, model_card

CARD = "README.md"
_LICENSE = re.compile(r"[a-z][a-z0-9.+-]*")


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
    require_new(out)
    folder, manifest, problems = find_checkpoint(run, checkpoint)
    warn_of_damage(problems, folder)
    translator = load_translator(folder, manifest)
    facts = {"fit": fit_of(folder), "step": manifest["step"], "data_fingerprint": manifest.get("data")}
    card, picture = model_card(translator, manifest, run_of(folder), license_id, repository or _example(out.name))
    with appearing(out) as part:
        write_model(translator, part, facts)
        (part / CARD).write_text(card)
        if picture is not None:
            to_pillow(read_image(picture, 3, None)).save(part / SAMPLES)  # an image, and nothing else that lies there
        os.rename(part, out)
    return out


def _example(name: str) -> str:
    """What the card calls the repository until it has a name."""
    return f"ORG/{name}" if re.fullmatch(r"[\w.-]+", name, re.ASCII) else "ORG/NAME"
