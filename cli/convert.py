"""``m2o-fast convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m2o_fast.cli.texts import examples
from m2o_fast.translators import NAMES

EXAMPLES = examples(
    (f"m2o-fast convert {NAMES[0]} nets_ema.ckpt --out afhq --domains cat,dog,wild", "convert"),
    ("m2o-fast translate cat.png --run afhq --from cat --to dog --out dog.png", "then use"),
)


def convert(
    layout: Annotated[str, typer.Argument(metavar="SYSTEM", help="Whose layout it has; m2o-fast systems lists them.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Checkpoint written by torch.save; never executed.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; must not exist.")],
    domains: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Names of the domains, in order."),
    ] = None,
) -> None:
    """Turn published weights into a checkpoint for translate.

    Sizes and the number of domains are read off the weights. Only tensors
    are loaded: a file that holds anything that could run is refused.
    """
    from m2o_fast.engine.convert import convert_checkpoint

    names = None if domains is None else [name.strip() for name in domains.split(",")]
    translator = convert_checkpoint(layout, file, out, names)
    shown = [domain.name for domain in translator.domains]
    typer.echo(f"{out}: {translator.image_size} x {translator.image_size} pixels, domains {', '.join(shown)}")
    typer.echo(f"Use it: m2o-fast translate IMAGE --run {out} --from {shown[0]} --to {shown[1]} --out OUT.png")
