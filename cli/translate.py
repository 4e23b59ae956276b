"""``m2o-fast translate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m2o_fast.cli.texts import examples, printable
from m2o_fast.texts import harmless

EXAMPLES = examples(
    ("m2o-fast translate digit.png --to color --out out.png", "a random look, from the newest run"),
    ("m2o-fast translate digit.png --to color --reference red.png --out out.png", "the look of red.png"),
    ("m2o-fast translate digit.png --to color --styles 8 --out grid.png", "eight looks side by side"),
    ("m2o-fast translate photos/ --to gray --out gray/", "a whole folder, one file each"),
)


def translate(
    images: Annotated[Path, typer.Argument(metavar="IMAGE|FOLDER", help="An image, or a folder of images.")],
    target: Annotated[str, typer.Option("--to", metavar="DOMAIN", help="Domain to translate into.")],
    out: Annotated[Path, typer.Option(metavar="PATH", help="File to write; for a folder of images, a folder.")],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="DOMAIN", help="Domain of the images; not needed where there are only two."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Run, checkpoint, RUN/checkpoints/best or converted weights. "
            "[dim]\\[default: the newest run below runs/][/dim]",
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Checkpoint of the run, or best, which --validate-every keeps; without --run also the path of one. "
            "[dim]\\[default: its newest good one][/dim]",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of the style; the same number, the same look.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(metavar="IMAGE", help="Take the style from this image of the target domain.")
    ] = None,
    styles: Annotated[
        int | None, typer.Option(metavar="K", min=1, max=1024, help="Write a grid: the image, then K looks of it.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:<number>.")] = "auto",
) -> int:
    """Translate an image, or all images of a folder, into another domain.

    The results are PNG files. An image of a folder that cannot be read is
    named, the others are still translated, and the exit code is 2.
    """
    from m2o_fast.engine.runs import fit_of, load_translator
    from m2o_fast.engine.translate import Request, translate_path

    if run is None and checkpoint is not None and _is_path(checkpoint):
        run, checkpoint = Path(checkpoint), None
    translator = load_translator(run, device, checkpoint)
    fits = translator.multiple is None or reference is not None  # a checkpoint alone need not know of any
    fit = fit_of(run) if fits else "stretch"
    request = Request(target, source, seed=seed, reference=reference, styles=styles, fit=fit)
    written, failures = translate_path(translator, images, out, request)
    for failure in failures:
        typer.echo(f"m2o-fast: error: {printable(failure)}", err=True)
    typer.echo(f"{written} of {written + len(failures)} images written to {harmless(str(out))}")
    return 2 if failures else 0


def _is_path(checkpoint: str) -> bool:
    """Whether this is where a checkpoint lies, not the name of one."""
    return Path(checkpoint).name != checkpoint or Path(checkpoint).is_dir()
