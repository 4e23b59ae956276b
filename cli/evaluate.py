"""``m2o-fast eval``."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from m2o_fast.cli.options import one_or_more
from m2o_fast.cli.texts import examples
from m2o_fast.texts import harmless
from m2o_fast.translators import DEFAULT, short_name

EXAMPLES = examples(
    ("m2o-fast eval", "the newest run below runs/"),
    (f"m2o-fast eval runs/{short_name(*DEFAULT)}-digits-001 --json", "one JSON object, for scripts"),
    ("m2o-fast eval runs/a --checkpoint step-00000400", "an earlier state of it"),
    ("m2o-fast eval runs/a --extractor inception:FILE", "FID, KID, precision and recall of photographs"),
    ("m2o-fast eval out/ --truth right/", "MSE, PSNR and SSIM of image files against files of the same names"),
)

_WHAT, _HOW = "What to measure", "How to measure"
_IMAGES_ONLY = ("--real", "--truth", "--size")
_RUNS_ONLY = (
    "--checkpoint",
    "--data",
    "--data-dir",
    "--uni",
    "--outputs-per-source",
    "--guidance",
    "--sources",
    "--lpips",
    "--verify-data",
)


def evaluate(
    subject: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN|IMAGES",
            help="Run or checkpoint folder; with --real or --truth, a folder of images. "
            "[dim]\\[default: the newest run below runs/][/dim]",
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Checkpoint of the run, or best, which --validate-every keeps. "
            "[dim]\\[default: its newest good one][/dim]",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Real images to compare images with, by features.", rich_help_panel=_WHAT),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="True images, one for each image, by name.", rich_help_panel=_WHAT),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            metavar="S", min=1, help="Read image files at S x S pixels, if they differ.", rich_help_panel=_WHAT
        ),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="With --size: stretch, crop or pad image files that are not square, as data.fit does. "
            "[dim]\\[default: stretch][/dim]",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Data to measure on, if not the run's: digits, mnist, ade20k:DIR or folder:DIR (of several, each).",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    data_dir: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the data, if it is not the run's; of several data sets one for each.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    uni: Annotated[
        list[str] | None,
        typer.Option(metavar="DOMAIN", help="A uni-modal domain of --data folder:DIR.", rich_help_panel=_WHAT),
    ] = None,
    verify_data: Annotated[
        bool,
        typer.Option(
            "--verify-data",
            help="Read all image files again, whatever their dates say.",
            rich_help_panel=_WHAT,
        ),
    ] = False,
    extractor: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Features of FID, KID, precision and recall: own (trained on the run's real images), digits-cnn, "
            "inception:FILE, torchscript:FILE, module:pkg.fn or none. "
            "[dim]\\[default: digits-cnn for digits, else none][/dim]",
            rich_help_panel=_HOW,
        ),
    ] = None,
    fid: Annotated[
        str,
        typer.Option(
            metavar="PROTOCOL", help="How images are resized for it: clean or stargan2.", rich_help_panel=_HOW
        ),
    ] = "clean",
    lpips: Annotated[
        str | None,
        typer.Option(
            metavar="FILE[,FILE]", help="Weights of LPIPS: AlexNet's, and the learned ones.", rich_help_panel=_HOW
        ),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch missing weights that are published.", rich_help_panel=_HOW)
    ] = False,
    outputs_per_source: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1000,
            help="Translations of each image into a multi-modal domain. [dim]\\[default: 10][/dim]",
            rich_help_panel=_HOW,
        ),
    ] = None,
    guidance: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Styles of random latents, of reference images, or both. [dim]\\[default: both][/dim]",
            rich_help_panel=_HOW,
        ),
    ] = None,
    sources: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Translate only N images of each domain, a fixed choice. [dim]\\[default: all][/dim]",
            rich_help_panel=_HOW,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Images at a time; changes numbers by rounding only.", rich_help_panel=_HOW
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:<number>.", rich_help_panel=_HOW)
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the tables.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Measure a run on its test split, or images against other images.

    Of a run, every direction is measured with the moving averages (EMA) of
    the networks, where they are kept. Into a uni-modal domain: the error
    against the true image. Into a multi-modal one: how true and how varied
    the translations are. The result is kept in RUN/evaluation/, and
    RUN/report.html shows it. docs/metrics.md explains the measures.
    """
    from m2o_fast.engine.evaluation.options import Options

    given = {
        "outputs_per_source": outputs_per_source,
        "guidance": guidance,
        "sources": sources,
        "batch_size": batch_size,
    }
    options = Options(
        extractor=extractor,
        fid=fid,  # type: ignore[arg-type]  # checked there
        lpips=lpips,
        download=download,
        **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
    )
    of_run = (checkpoint, data, data_dir, uni, outputs_per_source, guidance, sources, lpips, verify_data)
    if real is None and truth is None and size is None and fit is None:
        result = _run(subject, options, checkpoint, data, data_dir, uni, verify_data, device, quiet)
    else:
        _refuse([name for name, value in zip(_RUNS_ONLY, of_run, strict=True) if value])
        result = _images(subject, options, real, truth, size, fit, device, quiet)
    if as_json and result:
        typer.echo(json.dumps(result))
    elif result:
        from m2o_fast.cli.tables import print_evaluation

        print_evaluation(result)


def _refuse(options: list[str]) -> None:
    if options:
        from m2o_fast.errors import UserError

        raise UserError(f"{', '.join(options)}: for runs; images have --real, --truth, --size and --fit")


def _run(
    run: Path | None,
    options: Any,
    checkpoint: str | None,
    data: list[str] | None,
    data_dir: list[str] | None,
    uni: list[str] | None,
    verify: bool,
    device: str,
    quiet: bool,
) -> dict[str, Any]:
    from m2o_fast.engine.evaluate import evaluate_run

    result = evaluate_run(
        run,
        options,
        checkpoint=checkpoint,
        data=one_or_more(data),
        data_dir=one_or_more(data_dir),
        uni=tuple(uni or ()),
        verify=verify,
        device=device,
        quiet=quiet,
    )
    if result and not data:
        _report(Path(result["run"]), device, data_dir, quiet)
    return result


def _report(run: Path, device: str, data_dir: list[str] | None, quiet: bool) -> None:
    """Writes the report of a run; what keeps it from being written must not cost the measures just made."""
    from m2o_fast.engine.runs import is_run
    from m2o_fast.report import write_report

    if not is_run(run):  # weights that were converted, say
        return
    try:
        written = write_report([run], device=device, data_dir=one_or_more(data_dir))
        if not quiet:
            typer.echo(f"report written to {harmless(str(written))}", err=True)
    except Exception as error:  # of all kinds: a full memory, a file that nobody foresaw
        warnings.warn(f"no report: {error or type(error).__name__}", RuntimeWarning, stacklevel=2)


def _images(
    images: Path | None,
    options: Any,
    real: Path | None,
    truth: Path | None,
    size: int | None,
    fit: str | None,
    device: str,
    quiet: bool,
) -> dict[str, Any]:
    from m2o_fast.engine.evaluate_images import evaluate_images
    from m2o_fast.errors import UserError

    if images is None:
        raise UserError(
            "--real, --truth, --size and --fit are for images: name their folder, m2o-fast eval IMAGES --real DIR"
        )
    return evaluate_images(
        images,
        real=real,
        truth=truth,
        size=size,
        fit=fit or "stretch",  # type: ignore[arg-type]  # checked there
        options=options,
        device=device,
        quiet=quiet,
    )
