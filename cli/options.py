"""The options that every command on settings has, and how they become settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2o_fast.m2o import PLAIN, VARIANTS
from m2o_fast.translators import DEFAULT, EXAMPLE_SETTING

if TYPE_CHECKING:
    from m2o_fast.engine.config import Config

WHAT, HOW = "What to train", "How to train"

System = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Base model; m2o-fast systems lists them. [dim]\\[default: {DEFAULT[0]}][/dim]",
        rich_help_panel=WHAT,
    ),
]
Variant = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Rules on it: {', '.join(VARIANTS)}. [dim]\\[default: {DEFAULT[1]}; with --system: {PLAIN}][/dim]",
        rich_help_panel=WHAT,
    ),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="digits, mnist, ade20k:DIR or folder:DIR; several folder:DIR are data sets with labels of their own. "
        "[dim]\\[default: digits][/dim]",
        rich_help_panel=WHAT,
    ),
]
DataDir = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DIR",
        help="Folder of the MNIST files. [dim]\\[default: $M2O_DATA_DIR, then where data fetch puts them][/dim]",
        rich_help_panel=WHAT,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Recipe to start from. [dim]\\[default: that of the data set][/dim]",
        rich_help_panel=WHAT,
    ),
]
Uni = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DOMAIN",
        help="A uni-modal domain of folder:DIR: one image for each content. May be repeated.",
        rich_help_panel=WHAT,
    ),
]
NoCache = Annotated[
    bool,
    typer.Option("--no-cache", help="Do not keep decoded images in the cache folder.", rich_help_panel=WHAT),
]
VerifyData = Annotated[
    bool,
    typer.Option("--verify-data", help="Read all image files again, whatever their dates say.", rich_help_panel=WHAT),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="YAML file with settings; options win over it.", rich_help_panel=HOW),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help=f"Any setting, such as {EXAMPLE_SETTING}; wins over everything; may be repeated. "
        "[dim]m2o-fast train --dry-run lists the keys.[/dim]",
        rich_help_panel=HOW,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:<number>.", rich_help_panel=HOW),
]


def one_or_more(given: list[str] | None) -> str | list[str] | None:
    """What an option that may be repeated says: its value where it was given once, ``None`` where it was not."""
    return given[0] if given and len(given) == 1 else given or None


def one_folder(data_dir: list[str] | None) -> str | None:
    """The folder that ``--data-dir`` names. Raises ``UserError`` where there are several."""
    from m2o_fast.errors import UserError

    if data_dir and len(data_dir) > 1:
        raise UserError("--data-dir is given twice; name several data sets by --data folder:DIR for each")
    return data_dir[0] if data_dir else None


def settings_from(
    config: Path | None, assignments: list[str] | None, options: Mapping[str, object], preset: str | None = None
) -> Config:
    """The settings that a command line asks for; an option that is ``None`` was not given."""
    from m2o_fast.engine.config import load_config

    given = {key: value for key, value in options.items() if value is not None}
    return load_config(config, given, assignments or [], preset)
