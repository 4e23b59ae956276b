"""``m2o-fast translate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from m2o_fast.cli.texts import examples, printable
from m2o_fast.texts import harmless

_PATIENCE = 10.0  # seconds

EXAMPLES = examples(
    ("m2o-fast translate digit.png --to color --out out.png", "a random look, from the newest run"),
    ("m2o-fast translate digit.png --to color --reference red.png --out out.png", "the look of red.png"),
    ("m2o-fast translate digit.png --to color --styles 8 --out grid.png", "eight looks side by side"),
    ("m2o-fast translate photos/ --to gray --out gray/", "a whole folder, one file each"),
    ("m2o-fast translate photos/ --to gray --out gray/ --resume", "go on after a stop"),
    (
        "m2o-fast translate digit.png --to color --interpolate 1 red.png --out a.gif",
        "from the look of seed 1 to that of red.png",
    ),
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
    psi: Annotated[
        float | None,
        typer.Option(metavar="P", min=0, help="Styles nearer to the mean style: 1 is as drawn, 0 the mean itself."),
    ] = None,
    interpolate: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="From one look to another; each a seed or an image of the target domain. A strip with the image, or "
            "for one image a moving picture, where --out ends in .gif or .mp4 (which needs ffmpeg).",
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            max=1024,
            help="Looks of --interpolate, both ends included. [dim]\\[default: 8 in a strip, else 60][/dim]",
        ),
    ] = None,
    keep_size: Annotated[
        bool,
        typer.Option("--keep-size", help="Results as large as their images, where a system is bound to one size."),
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Translations to make at a time; changes them by rounding only. "
            "[dim]\\[default: as many as suit the device][/dim]",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Of a folder, leave what the same weights and options have made already."),
    ] = False,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:<number>.")] = "auto",
) -> int:
    """Translate an image, or all images of a folder, into another domain.

    The results are PNG files, each written whole or not at all. An image
    of a folder that cannot be read is named, the others are still
    translated, and the exit code is 2.
    """
    from m2o_fast.engine.evaluation.progress import Meter
    from m2o_fast.engine.runs import fit_of, load_translator, local, newest_run
    from m2o_fast.engine.signals import Stopped
    from m2o_fast.engine.translate import Request, translate_path

    if run is None and checkpoint is not None and _is_path(checkpoint):
        run, checkpoint = Path(checkpoint), None
    run = local(run) or newest_run()  # looked for once: another one may be begun meanwhile
    translator = load_translator(run, device, checkpoint)
    request = Request(
        target,
        source,
        seed=seed,
        reference=reference,
        styles=styles,
        psi=psi,
        interpolate=interpolate,
        frames=frames,
        keep_size=keep_size,
        batch_size=batch_size,
        resume=resume,
    )
    if translator.multiple is None or request.references():  # a checkpoint alone need not know of any
        request = replace(request, fit=fit_of(run))
    try:
        done = translate_path(translator, images, out, request, Meter(images.is_dir(), _PATIENCE))
    except Stopped as stopped:
        typer.echo("m2o-fast: interrupted", err=True)
        return stopped.exit_code
    for failure in done.failures:
        typer.echo(f"m2o-fast: error: {printable(failure)}", err=True)
    kept = f"; {done.kept} were there already" if done.kept else ""
    total = done.written + len(done.failures)
    typer.echo(f"{done.written} of {total} images written to {harmless(str(out))}{kept}")
    return 2 if done.failures else 0


def _is_path(checkpoint: str) -> bool:
    """Whether this is where a checkpoint lies, not the name of one."""
    return Path(checkpoint).name != checkpoint or Path(checkpoint).is_dir()
