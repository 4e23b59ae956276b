"""The lists of mutants follow the code; running them takes long, see mutants/README.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from source_tree import ROOT

LISTS = sorted((Path(__file__).parent / "mutants").glob("*.json"))


@pytest.mark.parametrize("family", LISTS, ids=lambda path: path.stem)
def test_every_mutant_changes_one_place(family: Path) -> None:
    for mutant in json.loads(family.read_text()):
        assert (ROOT / mutant["file"]).read_text().count(mutant["old"]) == 1, mutant
        assert mutant["new"] != mutant["old"], mutant
