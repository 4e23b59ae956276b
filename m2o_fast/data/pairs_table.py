"""``pairs.csv``: a table beside ``train`` and ``val`` that says which images show the same content.

Its columns are named after domains, its cells are paths below the domain's folder; images of one row show one content,
and so do those of two rows with an image in common.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from m2o_fast.data.layout import Images, Split
from m2o_fast.errors import UserError
from m2o_fast.files import composed

#: Name of the table.
TABLE = "pairs.csv"

_LARGEST = 1 << 26  # bytes
_SHOWN = 80  # characters of a cell
_SEVERAL = -1  # the number of an image that may be one of several

Listing = Mapping[Split, Mapping[str, Images]]
_Place = tuple[Split, str, int]  # an image: its split, domain and number


def contents_by_table(path: Path, listing: Listing, uni: Collection[str]) -> dict[Split, dict[str, list[str]]]:
    """Split -> domain -> the content of each image.

    Args:
        path: The table.
        listing: Split -> domain -> its image files.
        uni: Names of the uni-modal domains.

    Raises:
        UserError: The table cannot be read, or does not fit the images; names the line.
    """
    found = _Contents()
    finder = _Finder(path, listing)
    for line, cells in _rows(path, list(next(iter(listing.values())))):
        for split in finder.splits(line, cells):
            found.join([(split, d, finder.number(line, split, d, cell)) for d, cell in cells.items()], line)
    found.require_single(path, listing, uni)
    return {
        split: {
            domain: [found.content((split, domain, number), listing) for number in range(len(images.names))]
            for domain, images in domains.items()
        }
        for split, domains in listing.items()
    }


class _Contents:
    """Images that are joined by rows; of those that show one content the least one stands for all."""

    def __init__(self) -> None:
        self._above: dict[_Place, _Place] = {}
        self._lines: dict[_Place, int] = {}

    def join(self, places: Sequence[_Place], line: int) -> None:
        """Images that show one content, as a line says."""
        for place in places:
            self._lines.setdefault(place, line)
        least, *others = sorted({self.root(place) for place in places})
        for other in others:
            self._above[other] = least

    def root(self, place: _Place) -> _Place:
        """The image that stands for the content of another one."""
        way = []
        while (above := self._above.get(place)) is not None:
            way.append(place)
            place = above
        for passed in way[:-1]:
            self._above[passed] = place
        return place

    def content(self, place: _Place, listing: Listing) -> str:
        """The name of the content that an image shows; a domain comes first, so no other image has it."""
        split, domain, number = self.root(place)
        return f"{domain}/{_below(listing[split][domain], number)}"

    def require_single(self, path: Path, listing: Listing, uni: Collection[str]) -> None:
        """Raises ``UserError`` where a content has two images in a uni-modal domain."""
        first: dict[tuple[_Place, str], _Place] = {}
        for place in self._lines:
            split, domain, number = place
            other = first.setdefault((self.root(place), domain), place)
            if domain in uni and other != place:
                names = [_shown(_below(listing[split][domain], image[2])) for image in (other, place)]
                raise UserError(
                    f"{path}, line {self._lines[place]}: {names[0]} (line {self._lines[other]}) and {names[1]} of the "
                    f"uni-modal domain {domain!r} would show one content, and of each it has one image; mend the rows, "
                    "or leave it out of --uni"
                )


class _Finder:
    """Finds the images that cells name."""

    def __init__(self, path: Path, listing: Listing) -> None:
        self._path, self._listing = path, listing
        self._numbers = {
            (split, domain): _numbered(images)
            for split, domains in listing.items()
            for domain, images in domains.items()
        }

    def splits(self, line: int, cells: Mapping[str, str]) -> list[Split]:
        """The splits that have all images of a row. Raises ``UserError`` if there is none."""
        where = {d: [split for split in self._listing if cell in self._numbers[split, d]] for d, cell in cells.items()}
        if found := [split for split in self._listing if all(split in splits for splits in where.values())]:
            return found
        for domain, splits in where.items():
            if not splits:
                folders = " or ".join(str(domains[domain].folder) for domains in self._listing.values())
                raise UserError(f"{self._path}, line {line}: no image {_shown(cells[domain])} in {folders}")
        places = ", ".join(f"{_shown(cells[d])} in {self._listing[splits[0]][d].folder}" for d, splits in where.items())
        raise UserError(f"{self._path}, line {line}: a pair lies in one split, but here is {places}")

    def number(self, line: int, split: Split, domain: str, cell: str) -> int:
        """The number of an image that is there. Raises ``UserError`` if several have the name."""
        number = self._numbers[split, domain][cell]
        if number == _SEVERAL:
            folder = self._listing[split][domain].folder
            raise UserError(
                f"{self._path}, line {line}: several images are called {_shown(cell)} in {folder}; write the suffix"
            )
        return number


def _numbered(images: Images) -> dict[str, int]:
    """The numbers of images by their paths below the folder, with and without suffix."""
    by_stem: dict[str, int] = {}
    for number, key in enumerate(images.keys()):
        by_stem[key] = _SEVERAL if key in by_stem else number
    return by_stem | {_below(images, number): number for number in range(len(images.names))}


def _below(images: Images, number: int) -> str:
    return composed(images.names[number])


def _rows(path: Path, domains: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and domain -> cell of each row; empty cells are left out, and rows without a cell."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    columns: list[str] | None = None
    has_rows = False
    while True:
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: no comma-separated values ({error})") from None
        cells = [composed(cell.strip()) for cell in row]
        if not any(cells):
            continue
        if columns is None:
            columns = _columns(path, reader.line_num, cells, domains)
            continue
        if len(cells) != len(columns):
            raise UserError(
                f"{path}, line {reader.line_num}: cells: {len(cells)}, columns: {len(columns)} "
                f"({', '.join(columns)}); leave cells empty that have no image"
            )
        named = {
            domain: _legal(path, reader.line_num, cell) for domain, cell in zip(columns, cells, strict=True) if cell
        }
        has_rows = True
        yield reader.line_num, named
    if columns is None:
        raise UserError(f"{path}: the table is empty; its first line names domains, such as {','.join(domains[:2])}")
    if not has_rows:
        raise UserError(
            f"{path}: no rows below the names of the domains, and names of images pair nothing where there is a table; "
            "add rows, or remove it"
        )


def _columns(path: Path, line: int, cells: Sequence[str], domains: Sequence[str]) -> list[str]:
    for cell in cells:
        if cell not in domains:
            near = difflib.get_close_matches(cell[:_SHOWN], domains, 1)
            hint = f"; nearest: {near[0]!r}" if near else ""
            if len(cells) == 1 and any(sign in cell for sign in ";\t"):
                hint = "; separate the columns by commas"
            raise UserError(
                f"{path}, line {line}: no domain is called {_shown(cell)}{hint} (domains: {', '.join(domains)})"
            )
    for number, cell in enumerate(cells):
        if cell in cells[:number]:
            raise UserError(f"{path}, line {line}: two columns are called {cell!r}; keep one")
    if len(cells) < 2:
        raise UserError(f"{path}, line {line}: the table needs a column for each of at least two domains")
    return list(cells)


def _legal(path: Path, line: int, cell: str) -> str:
    """A path below a folder. Raises ``UserError`` where it leads out of it."""
    if cell.startswith(("/", "\\")) or cell[1:3] == ":\\":
        raise UserError(
            f"{path}, line {line}: {_shown(cell)} is an absolute path; write it from the domain's folder on"
        )
    if ".." in PurePosixPath(cell).parts:
        raise UserError(f"{path}, line {line}: {_shown(cell)} leads out of the domain's folder")
    return PurePosixPath(cell).as_posix()


def _text(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path} is not a file; the table of pairs is one, or leave it away")
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); make it readable, or remove it") from None
    if len(content) > _LARGEST:
        raise UserError(f"{path}: larger than {_LARGEST >> 20} MiB, which no table of pairs is")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 text; save the table as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}, line {line}: a NUL byte; save the table as UTF-8 text")
    return text


def _shown(cell: str) -> str:
    return repr(cell if len(cell) <= _SHOWN else f"{cell[:_SHOWN]}...")
