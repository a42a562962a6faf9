"""TSV files with a header line, read with row numbers so that a wrong cell can be named, and written whole."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from sedflow.files import write_text


class LabelError(ValueError):
    """A label file says something impossible; the message names file, row, value and cure."""


def read_text(path) -> str:
    """Read UTF-8 with or without a byte-order mark, lines ended in any way; ``LabelError`` for another encoding."""
    content = Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise LabelError(
            f"{path}:{row}: byte 0x{content[error.start]:02x} is not UTF-8; save the file with the encoding UTF-8"
        ) from None


def read_header(path) -> list[str]:
    """Column names: the cells of the first line."""
    return [_bare(cell) for cell in read_text(path).split("\n", 1)[0].split("\t")]


def compose(text: str) -> str:
    """The same text with its accents in its letters: macOS writes them apart."""
    return unicodedata.normalize("NFC", text)


def parse_name(path, number: int, name: str) -> str:
    """A label or file name of row ``number``, composed; ``LabelError`` for a quotation mark without a partner."""
    if name.count('"') % 2:
        raise LabelError(f"{path}:{number}: {name!r} contains a quotation mark without a partner; delete it")
    return compose(name)


def _bare(cell: str) -> str:
    """A cell without spaces around it, and without the quotation marks that Excel and R put there."""
    cell = cell.strip()
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"'
    return cell[1:-1].replace('""', '"').strip() if quoted else cell


def read_table(path, columns: Iterable[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a TSV with a header; CRLF, a byte-order mark and quoted cells are accepted.

    Returns
    -------
    list of (row number, row)
        Row numbers count from 1 and include the header, as an editor shows them.

    Raises
    ------
    LabelError    empty file, another encoding than UTF-8, a column missing (commas for tabs are named) or duplicated,
                  a row with too many cells
    """
    columns = list(columns)
    lines = list(csv.reader(io.StringIO(read_text(path)), delimiter="\t", quoting=csv.QUOTE_NONE))
    if not lines or not any(lines[0]):
        raise LabelError(f"{path}: the file is empty; expected a header line with {columns} separated by tabs")
    header = [_bare(cell) for cell in lines[0]]
    missing = [column for column in columns if column not in header]
    if missing:
        hint = "; it looks comma-separated, save it with tabs" if "," in lines[0][0] and len(header) == 1 else ""
        raise LabelError(f"{path}:1: no column {missing[0]!r}, the header has {header}{hint}")
    if twice := [column for column in columns if header.count(column) > 1]:
        raise LabelError(f"{path}:1: column {twice[0]!r} appears twice in the header; delete one of them")
    rows = []
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(header):
            raise LabelError(f"{path}:{number}: {len(cells)} cells but {len(header)} columns {header}")
        cells = cells + [""] * (len(header) - len(cells))
        rows.append((number, dict(zip(header, map(_bare, cells), strict=True))))
    return rows


def write_table(path, columns: Iterable[str], rows: Iterable[Iterable]) -> None:
    """Write a TSV with a header through a temporary name, so that a reader never sees half a file."""
    lines = ["\t".join(columns)] + ["\t".join(str(cell) for cell in row) for row in rows]
    write_text(path, "\n".join(lines) + "\n")
