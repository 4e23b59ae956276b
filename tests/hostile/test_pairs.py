"""Door: pairs.csv, the table that says what belongs together."""

from __future__ import annotations

from pathlib import Path

import pytest
from folder_files import write_places
from no_files import KINDS, put_no_file


@pytest.fixture
def table(tmp_path: Path) -> Path:
    root = tmp_path / "places"
    write_places(root / "train")
    write_places(root / "val", {"place8": 2, "place9": 1}, first=20)
    return root / "pairs.csv"


def refused(refuses) -> str:
    words = ["--data", "folder:places", "--uni", "map", "--preset", "digits", "--no-cache"]
    return refuses("train", *words, "--run", "new", "--quiet", names="pairs.csv")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "pairs.csv: the table is empty; its first line names domains, such as map,photo"),
        ("\n\n", "the table is empty"),
        ("map,photo\n", "pairs.csv: no rows below the names of the domains, and names of images pair nothing"),
        ("map,photo\n\n,\n", "no rows below the names of the domains"),
        ("map\nplace1\n", "line 1: the table needs a column for each of at least two domains"),
        ("map;photo\nplace1;place1/0\n", "line 1: no domain is called 'map;photo'; separate the columns by commas"),
        ("map,foto\n", "line 1: no domain is called 'foto'; nearest: 'photo' (domains: map, photo)"),
        ("map,photo,\n", "line 1: no domain is called ''"),
        ("map,map\n", "line 1: two columns are called 'map'; keep one"),
        ("map,photo\nplace1\n", "line 2: cells: 1, columns: 2 (map, photo); leave cells empty"),
        ("map,photo\nplace1,place2,x\n", "line 2: cells: 3, columns: 2"),
        ("map,photo\n\nplace7,place2\n", "line 3: no image 'place7' in "),
        ("map,photo\nplace1,nothing/here.png\n", "line 2: no image 'nothing/here.png' in "),
        ("map,photo\nplace1,place8/0\n", "line 2: a pair lies in one split, but here is 'place1' in "),
        ("map,photo\nplace1,/etc/passwd\n", "line 2: '/etc/passwd' is an absolute path"),
        ("map,photo\nplace1,C:\\x.png\n", "line 2: 'C:\\\\x.png' is an absolute path"),
        ("map,photo\nplace1,../photo/place2\n", "line 2: '../photo/place2' leads out of the domain's folder"),
        ("map,photo\nplace1,place1/../place2\n", "leads out of the domain's folder"),
        ("map,photo\nplace1,\x1b[31mplace2\n", "line 2: no image '\\x1b[31mplace2' in "),
        ('map,photo\nplace1,"a\nb"\n', "line 3: no image 'a\\nb' in "),
        ('map,photo\nplace1,"a', "line 2: no comma-separated values (unexpected end of data)"),
        ("map,photo\nplace1," + "a" * 200_000 + "\n", "line 2: no comma-separated values (field larger than"),
        ("map,photo\nplace1," + "a" * 100_000 + "\n", "line 2: no image 'aaaa"),
        (b"map,photo\nplace1,a\0b\n", "line 2: a NUL byte"),
        (b"\0" * 1000, "line 1: a NUL byte"),
        ("map,photo\nplace1,place1/0\n".encode("utf-16"), "line 1: not UTF-8 text; save the table as UTF-8"),
        ("map,photo\nplace1,caf\u00e9\n".encode("latin-1"), "line 2: not UTF-8 text"),
        ("map,photo\nplace1,place1/0\nplace3,place3/0\nplace3,place1/0\n", "line 3: 'place1.png' (line 2) and "),
    ],
)
def test_tables(text: str | bytes, told: str, table: Path, refuses) -> None:
    table.write_bytes(text.encode() if isinstance(text, str) else text)
    message = refused(refuses)
    assert told in message and len(message) < 1000


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "missing"])
def test_no_files(kind: str, table: Path, refuses) -> None:
    put_no_file(kind, table)
    assert "pairs.csv is not a file; " in refused(refuses)


def test_a_table_larger_than_any(table: Path, refuses) -> None:
    with table.open("wb") as file:
        file.truncate(1 << 33)  # a hole, which takes no room
    assert refused(refuses).endswith("larger than 64 MiB, which no table of pairs is")


def test_a_table_of_a_million_rows_of_nothing(table: Path, refuses) -> None:
    table.write_bytes(b"map,photo\n" + b"\n" * 1_000_000 + b"place7,\n")
    assert "line 1000002: no image 'place7'" in refused(refuses)
