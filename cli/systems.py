"""``m2o-fast systems``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from m2o_fast.cli.texts import examples

EXAMPLES = examples(
    ("m2o-fast systems", "what can be trained"),
    ("m2o-fast systems --json", "the same for scripts"),
)


def systems(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """List the base models: papers, what they need, variants, presets.

    Names of systems are for --system, those of variants for --variant, and
    those of presets for --preset. The settings of one: m2o-fast train
    --system NAME --dry-run.
    """
    from m2o_fast.translators import NAMES

    found = {name: _facts(name) for name in NAMES}
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name, facts in found.items():
        typer.echo(f"{name}: {facts['title']} ({facts['paper']})")
        typer.echo(f"  needs     {facts['domains']}, images {facts['sizes']}; {facts['pairs']}")
        for variant, meaning in facts["variants"].items():
            typer.echo(f"  {variant:<9} {meaning}")
        for variant, reason in facts["refused"].items():
            typer.echo(f"  {variant:<9} not here: {reason}")
        others = [preset for preset in facts["presets"] if preset not in facts["recipes"]]
        of_data = f"; for the data alone: {', '.join(others)}" if others else ""
        typer.echo(f"  presets   {', '.join(facts['recipes'])}{of_data}")


def _facts(name: str) -> dict[str, Any]:
    from m2o_fast.engine.config import presets
    from m2o_fast.m2o import PAIRED, PLAIN, UNPAIRED
    from m2o_fast.translators import system

    facts = system(name)
    meanings = {
        PLAIN: "as published",
        UNPAIRED: "with the many-to-one rules, without pairs",
        PAIRED: "with the rules and known pairs",
    }
    learning = [variant for variant in facts.variants if facts.learns_from_pairs(variant)]
    return {
        "title": facts.title,
        "paper": facts.paper,
        "domains": "two domains" if facts.two_domains else "two domains or more",
        "sizes": facts.sizes.rule,
        "pairs": f"pairs for {', '.join(learning)}" if learning else "no pairs",
        "variants": {variant: meanings.get(variant, "with rules of its own") for variant in facts.variants},
        "refused": dict(facts.refused),
        "presets": list(presets(name)),
        "recipes": sorted(facts.presets),  # presets that hold settings of this system, too
    }
