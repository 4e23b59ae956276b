"""torchrun looks at the whole command line, ours included: what it takes for options of its own never reaches us."""

import re
import shlex

import pytest
import typer
from source_tree import ROOT
from torch.distributed.run import get_args_parser

from m2o_fast.cli.app import app

COMMANDS = typer.main.get_command(app).commands
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def reached(words: list[str]) -> list[str]:
    """What torchrun hands on of a command line behind the module; raises ``SystemExit`` where it refuses."""
    parsed = get_args_parser().parse_args(words)
    assert parsed.module and parsed.training_script == "m2o_fast.cli"
    return parsed.training_script_args


def options(command: str) -> list[list[str]]:
    """Every option of a command, in all of its spellings."""
    return [found.opts for found in COMMANDS[command].params if found.opts[0].startswith("-")]


def gets_through(command: str, spelling: str) -> bool:
    words = [command, spelling, "value"]
    try:
        return reached(["--nproc-per-node", "2", "-m", "m2o_fast.cli", *words]) == words
    except SystemExit:
        return False


@pytest.mark.parametrize("command", ["train", "eval"])
def test_every_option_has_a_spelling_that_torchrun_leaves_alone(command: str) -> None:
    known = options(command)
    assert ["--device"] in known
    assert [names for names in known if not any(gets_through(command, name) for name in names)] == []


def test_the_commands_of_the_documents_pass_torchrun_as_they_stand() -> None:
    texts = [page.read_text() for page in PAGES] + [COMMANDS["train"].help or ""]
    found = [words for text in texts for words in re.findall(r"torchrun (.* -m m2o_fast\.cli [^`\n]*)", text)]
    assert len(found) >= 4
    for words in found:
        launched, _, ours = words.partition("m2o_fast.cli ")
        command, *rest = expected = shlex.split(ours, comments=True)
        assert reached(shlex.split(launched) + ["m2o_fast.cli", *expected]) == expected
        spellings = {name for names in options(command) for name in names}
        assert {word for word in rest if word.startswith("-")} <= spellings


def test_two_dashes_make_all_options_safe() -> None:
    assert reached(["-m", "m2o_fast.cli", "--", "train", "--run", "a"])[-3:] == ["train", "--run", "a"]
