"""``m2o-fast convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m2o_fast.cli.texts import examples
from m2o_fast.texts import harmless
from m2o_fast.translators import EXAMPLE_WEIGHTS

EXAMPLES = examples(
    (f"m2o-fast convert {EXAMPLE_WEIGHTS[0]} --out afhq --domains cat,dog,wild", "convert"),
    (f"m2o-fast convert {EXAMPLE_WEIGHTS[1]} --out horses", "a file per net"),
    ("m2o-fast translate cat.png --run afhq --from cat --to dog --out dog.png", "then use"),
    (f"m2o-fast convert {EXAMPLE_WEIGHTS[1].split()[0]} runs/a --to-official --out published", "and back"),
)


def convert(
    layout: Annotated[str, typer.Argument(metavar="SYSTEM", help="Whose layout it has; m2o-fast systems lists them.")],
    files: Annotated[list[str], typer.Argument(metavar="[NET=]FILE...", help="Written by torch.save; never executed.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; must not exist.")],
    domains: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Names of the domains, in order."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(metavar="S", help="Trained with, where the weights do not tell.", min=1, max=2**16)
    ] = None,
    back: Annotated[
        bool, typer.Option("--to-official", help="The other way round: FILE is a run, DIR gets published files.")
    ] = False,
) -> None:
    """Turn published weights into a checkpoint for translate, or back.

    Sizes and the number of domains are read off the weights. Only tensors
    are loaded: a file that holds anything that could run is refused.
    """
    from m2o_fast.engine.convert import convert_checkpoint

    if back:
        _write_published(layout, files, out, (domains, image_size))
        return
    names = None if domains is None else [name.strip() for name in domains.split(",")]
    settings = {} if image_size is None else {"image_size": image_size}
    translator = convert_checkpoint(layout, _files(files), out, names, **settings)
    shown = [domain.name for domain in translator.domains]
    typer.echo(
        f"{harmless(str(out))}: {translator.image_size} x {translator.image_size} pixels, domains {', '.join(shown)}"
    )
    if ways := translator.directions():
        source, target = (shown[k] for k in next((way for way in ways if way[0] != way[1]), ways[0]))
        typer.echo(
            f"Use it: m2o-fast translate IMAGE --run {harmless(str(out))} --from {source} --to {target} --out OUT.png"
        )


def _files(given: list[str]) -> Path | dict[str, Path]:
    """One file for all nets, or one for each."""
    from m2o_fast.errors import UserError

    if len(given) == 1 and ("=" not in given[0] or Path(given[0]).is_file()):
        return Path(given[0])
    files: dict[str, Path] = {}
    for word in given:
        net, equals, file = word.partition("=")
        if not equals or not net or not file:
            raise UserError(f"{word!r}: with several files, say which net each holds: NET=FILE")
        if net in files:
            raise UserError(f"net {net} is given twice: {files[net]} and {file}")
        files[net] = Path(file)
    return files


def _write_published(layout: str, files: list[str], out: Path, others: tuple[object, ...]) -> None:
    from m2o_fast.engine.convert import write_published
    from m2o_fast.errors import UserError

    if len(files) != 1 or any(other is not None for other in others):
        raise UserError("--to-official takes one run, and neither --domains nor --image-size")
    for file in write_published(Path(files[0]), out, layout):
        typer.echo(harmless(str(file)))
