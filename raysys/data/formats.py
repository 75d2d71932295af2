"""What the files of a log are: their format, the pieces they are read in and the blocks that come out."""

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa

from raysys.config import require
from raysys.errors import DataError
from raysys.storage import Folder

Kind = Literal["parquet", "csv", "json"]
ENDINGS: dict[str, Kind] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
}


@dataclass(frozen=True, kw_only=True)
class TextFormat:
    """How a file is written, where its name does not say it. Parquet needs none of this."""

    kind: Literal["", "parquet", "csv", "json"] = ""
    """csv is any separated text, json one object per line; empty: by the name's ending, .gz or not."""
    separator: str = ""
    """What stands between two fields, one or more characters; empty: a tab for .tsv, else a comma."""
    quote: str = '"'
    """What a field may be enclosed in, doubled inside; empty: quotes are text like any other."""
    header: bool = True
    """The first line names the columns."""
    columns: tuple[str, ...] = ()
    """The columns' names in order: needed without a header, else instead of the header's."""
    encodings: tuple[str, ...] = ("utf-8",)
    """Encodings of the text; a file is read in the first one that fits all of it. A byte order mark wins."""
    multiline: bool = False
    """Quoted fields may hold line breaks; a large file is then read by one task."""

    def __post_init__(self) -> None:
        require(self.header or bool(self.columns), "columns: needed where header = false; name them in order")
        require(all(self.columns), "columns: found an empty name, expected one per field of a line")
        twice = [name for name in self.columns if self.columns.count(name) > 1]
        require(not twice, f"columns: {''.join(twice[:1])!r} is there twice; give each column its own name")
        fits = len(self.quote) <= 1 and self.quote.isascii() and self.quote not in ("\n", "\r")
        require(fits, f"quote: found {self.quote!r}, expected one ASCII character, or nothing")
        broken = {"\n", "\r", self.quote} - {""} & set(self.separator)
        require(not broken, f"separator: found {self.separator!r}, which holds a line break or the quote")
        require(
            not self.multiline or (self.separator.isascii() and len(self.separator) <= 1),
            f"multiline: needs a separator of one ASCII character, found {self.separator!r}",
        )
        require(bool(self.encodings), 'encodings: found none, expected some, such as ["utf-8", "latin-1"]')
        for name in self.encodings:
            require(
                _is_encoding(name), f'encodings: unknown {name!r}; "utf-8", "latin-1", "cp1252", "gb18030"'
            )


def _is_encoding(name: str) -> bool:
    try:
        return codecs.lookup(name)._is_text_encoding  # type: ignore[attr-defined] # bytes.decode asks the same
    except LookupError:
        return False


def file_kind(name: str, format: TextFormat, key: str = "data.format") -> Kind:
    """Return what a file is, by the config or else by its name's ending; DataError where neither says it."""
    if format.kind:
        return format.kind
    lower = name.lower().removesuffix(".gz")
    for ending, kind in ENDINGS.items():
        if lower.endswith(ending):
            return kind
    raise DataError(
        f"{name}: unknown format; expected a name ending in .parquet, .csv, .tsv, .jsonl or .ndjson (text "
        f"also .gz), or set {key}.kind"
    )


@dataclass(frozen=True)
class Source:
    """One file: its folder, its name, its number in the sorted list, its size in bytes, how it is written."""

    folder: Folder
    name: str
    number: int
    size: int
    format: TextFormat = field(default_factory=TextFormat)
    key: str = "data.format"
    """The config key of the format, for messages."""

    @property
    def uri(self) -> str:
        return f"{self.folder.uri}/{self.name}"

    @property
    def kind(self) -> Kind:
        return file_kind(self.name, self.format, self.key)

    @property
    def is_compressed(self) -> bool:
        return self.kind != "parquet" and self.name.lower().endswith(".gz")

    @property
    def separator(self) -> str:
        tabs = self.name.lower().removesuffix(".gz").endswith(".tsv")
        return self.format.separator or ("\t" if tabs else ",")


@dataclass(frozen=True)
class Piece:
    """A part of a file that one task reads.

    Of Parquet the row groups [start, stop); of text the lines that begin in the bytes [start, stop), stop 0
    being the end of the file.
    """

    source: Source
    start: int = 0
    stop: int = 0
    first_row: int = 0
    """Row number of the first row, known for Parquet only."""
    encoding: str = ""
    """Of text: the encoding found for the whole file; empty: not looked for yet."""

    @property
    def first_position(self) -> int:
        """Position in the file of the first row: its row number in Parquet, `start` in text.

        A row of text has at least one byte, so `start` plus the row's number within the piece rises through
        the file, though nobody has counted the rows before the piece.
        """
        return self.first_row if self.source.kind == "parquet" else self.start


@dataclass(frozen=True)
class Block:
    """Some rows of a piece.

    Attributes:
        table: (N, columns) the rows that could be read, the log's own columns.
        positions: (N,) int64 rising positions of these rows in the file, see `Piece.first_position`.
        unreadable: reason -> int64 positions of rows that could not be read.
    """

    table: pa.Table
    positions: np.ndarray
    unreadable: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])

    @property
    def num_rows(self) -> int:
        """Rows of the block, the unreadable ones included."""
        return self.table.num_rows + sum(len(positions) for positions in self.unreadable.values())
