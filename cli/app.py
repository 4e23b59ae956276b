"""The commands of ``m2o-fast`` together, and what every one does with an error."""

from __future__ import annotations

import codecs
import io
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from m2o_fast import __version__
from m2o_fast.cli import (
    PROGRAM,
    bench,
    convert,
    data,
    doctor,
    evaluate,
    export,
    play,
    publish,
    report,
    sim_scale,
    systems,
    train,
    translate,
)
from m2o_fast.cli.texts import examples, printable
from m2o_fast.errors import UserError
from m2o_fast.translators import DEFAULT, full_name

app = typer.Typer(
    name=PROGRAM,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback(
    epilog=examples(
        ("m2o-fast train", f"{full_name(*DEFAULT)} on real 8x8 digits; minutes on a CPU"),
        ("m2o-fast eval", "measure the newest run on the test split"),
        ("m2o-fast translate digit.png --to color --out digit-color.png", "draw a gray digit in colour"),
        ("m2o-fast train --help", "every command explains itself"),
    )
)
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="On an error, print the whole traceback. Works after a command too.")
    ] = False,
) -> None:
    """Train, evaluate and use many-to-one image translators (arXiv 2402.12531)."""


app.command("train", epilog=train.EXAMPLES)(train.train)
app.command("eval", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command("report", epilog=report.EXAMPLES)(report.report)
app.command("systems", epilog=systems.EXAMPLES)(systems.systems)
app.command("translate", epilog=translate.EXAMPLES)(translate.translate)
app.command("play", epilog=play.EXAMPLES)(play.play)
app.command("publish", epilog=publish.EXAMPLES)(publish.publish)
app.command("export", epilog=export.EXAMPLES)(export.export)
app.command("convert", epilog=convert.EXAMPLES)(convert.convert)
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.command("sim-scale", epilog=sim_scale.EXAMPLES)(sim_scale.sim_scale)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)


def run(arguments: Sequence[str], interrupted: object = False) -> int:
    """What :func:`m2o_fast.cli.main` does, once all is imported.

    Args:
        arguments: The words of the command line.
        interrupted: True once Ctrl-C was pressed, whatever became of it.
    """
    words = list(arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"] or ["--help"]
    _print_any_name()
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # Pillow's; we refuse them by name
    warnings.showwarning = lambda message, *_: print(f"{PROGRAM}: warning: {printable(str(message))}", file=sys.stderr)
    command = typer.main.get_command(app)
    try:
        _refuse_empty(words)
        return command.main(words, prog_name=PROGRAM, standalone_mode=False) or 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        if interrupted:
            return 130
        message, code = _explain(error)
        print(f"{PROGRAM}: error: {printable(message)}", file=sys.stderr)
        return code


def _refuse_empty(words: Sequence[str]) -> None:
    """Raises ``UserError`` for an empty word: as a path it would be the current folder."""
    for word, before in zip(words, ["", *words], strict=False):
        name, equals, value = word.partition("=")
        is_option = name.startswith("--") and equals
        if not word or (is_option and not value):
            option = name or (before if before.startswith("-") else "")
            where = f"{option} is given an empty word" if option else "an empty word is given"
            raise UserError(f"{where}; leave it out, or look whether a variable of the shell is not set")


def _print_any_name() -> None:
    """File names are bytes: one that is no text is printed as it is, rather than ending the command."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        is_utf8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")


def _explain(error: Exception) -> tuple[str, int]:
    """What to print for ``error``, and the exit code."""
    if hasattr(error, "format_message"):  # a wrong command line; the class depends on typer's version
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context else ""
        return error.format_message().rstrip(".") + hint, 2
    if isinstance(error, ImportError) and not (error.name or "").startswith("m2o_fast"):
        hint = "; install m2o-fast and its requirements anew" if isinstance(error, ModuleNotFoundError) else ""
        return str(error) + hint, 2
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror, 2
    if isinstance(error, ValueError | OSError):
        return str(error), 2
    signs = ("can't allocate memory", "CUDA out of memory", "std::bad_alloc")
    if isinstance(error, MemoryError) or isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs):
        return "out of memory: lower batch_size or data.image_size", 2
    return f"unexpected {type(error).__name__}: {error} (run again with --debug for the traceback)", 1
