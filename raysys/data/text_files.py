"""Text files as blocks of whole lines in UTF-8: encodings, byte order marks, compression, byte ranges."""

import codecs
import gzip
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from raysys.data.formats import Piece, Source
from raysys.errors import DataError

BLOCK_BYTES = 8 << 20
"""Bytes of text that are read and parsed at once."""
HEAD_BYTES = 1 << 16
"""Bytes that are read at once where only the first line is wanted."""
MAX_LINE_BYTES = 64 << 20
"""A line longer than this is taken for a file that is no text."""

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8"),
)


@contextmanager
def open_text(source: Source) -> Generator[Any]:
    """Open a file for reading, decompressed."""
    with source.folder.open_input(source.name) as file:
        if source.is_compressed:
            with gzip.GzipFile(fileobj=file) as stream:
                yield stream
        else:
            yield file


def is_wide(encoding: str) -> bool:
    """Return whether a line break is not the single byte 10, as in UTF-16; such a file cannot be cut."""
    return "a\n".encode(encoding).removeprefix(codecs.BOM_UTF8) != b"a\n"


def encoding_of(source: Source) -> str:
    """Return the encoding of a file: by its mark, or the first configured one that fits all of it.

    The last one configured is not tried here: reading fails where it does not fit.
    """
    names = _candidates(source)
    return next((name for name in names[:-1] if _fits(source, name)), names[-1])


def _candidates(source: Source) -> tuple[str, ...]:
    with open_text(source) as stream:
        head = stream.read(4)
    marked = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)
    return (marked,) if marked else source.format.encodings


def _fits(source: Source, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    with open_text(source) as stream:
        try:
            while chunk := stream.read(BLOCK_BYTES):
                decoder.decode(chunk)
            decoder.decode(b"", True)
        except UnicodeDecodeError:
            return False
    return True


def first_line(source: Source, encoding: str = "") -> str | None:
    """Return the first line that is not empty, None where there is none.

    Raises:
        DataError: no configured encoding fits its surroundings, or there is no line end.
    """
    problem: DataError | None = None
    for name in (encoding,) if encoding else _candidates(source):
        try:
            with open_text(source) as stream:
                return _first_line(stream, source, name)
        except DataError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _first_line(stream: Any, source: Source, encoding: str) -> str | None:
    recoded = _Recoded(stream, source, encoding)
    text = b""
    while chunk := recoded.read(HEAD_BYTES):
        text = (text + chunk).removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n")
        line = re.split(rb"[\r\n]", text, maxsplit=1)
        if len(line) > 1:
            return line[0].decode()
        if len(text) > MAX_LINE_BYTES:
            raise _no_line_end(source, 0)
    return text.decode() or None


def text_blocks(piece: Piece, stream: Any) -> Iterator[tuple[int, bytes]]:
    """Yield (offset in the file, whole lines in UTF-8) of a piece, in order, in bounded memory.

    Offsets count bytes as stored, those of a compressed file decompressed.

    Raises:
        DataError: bytes that the encoding does not know, or a line without an end.
    """
    source, encoding = piece.source, piece.encoding or encoding_of(piece.source)
    wide = is_wide(encoding)
    stream = _Recoded(stream, source, encoding) if wide else stream
    for offset, data in _line_blocks(stream, piece):
        block = data
        if not wide and not data.isascii():
            try:
                text = data.decode(encoding)
            except UnicodeDecodeError as error:
                raise undecodable(source, encoding, offset + error.start, data[error.start]) from None
            block = data if codecs.lookup(encoding).name == "utf-8" else text.encode()
        yield offset, block.removeprefix(codecs.BOM_UTF8) if offset == 0 else block


def _line_blocks(stream: Any, piece: Piece) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of the whole lines that begin in the piece's range of bytes."""
    stop, skip = piece.stop, piece.start > 0
    offset, rest = max(piece.start - 1, 0), b""  # a line begins after the line end before it
    if skip:
        stream.seek(offset)
    ended = False
    while not ended:
        chunk = stream.read(BLOCK_BYTES)
        rest += chunk
        if skip:
            cut = rest.find(b"\n") + 1 or len(rest)
            skip = chunk != b"" and not rest[:cut].endswith(b"\n")
            offset, rest = offset + cut, rest[cut:]
            if stop and offset >= stop:
                return
            if skip:
                continue
        if stop and offset + len(rest) >= stop:
            end = rest.find(b"\n", max(stop - 1 - offset, 0)) + 1
            if end:
                rest, ended = rest[:end], True
        ended = ended or not chunk
        cut = len(rest) if ended else rest.rfind(b"\n") + 1
        if cut:
            yield offset, rest[:cut]
            offset, rest = offset + cut, rest[cut:]
        elif len(rest) > MAX_LINE_BYTES:
            raise _no_line_end(piece.source, offset)


def count_lines(data: bytes) -> int:
    """Return the number of lines, the empty ones and a last one without an end included."""
    ends = np.count_nonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n"))
    return int(ends) + (not data.endswith(b"\n"))


class _Recoded:
    """A stream in any encoding, read as UTF-8."""

    def __init__(self, stream: Any, source: Source, encoding: str) -> None:
        self.stream, self.source, self.encoding = stream, source, encoding
        self.decoder = codecs.getincrementaldecoder(encoding)()
        self.taken = 0

    def read(self, size: int) -> bytes:
        while True:
            chunk = self.stream.read(size)
            self.taken += len(chunk)
            try:
                text = self.decoder.decode(chunk, not chunk)
            except UnicodeDecodeError as error:
                start = self.taken - len(error.object) + error.start
                raise undecodable(self.source, self.encoding, start, error.object[error.start]) from None
            if text or not chunk:
                return text.encode()


def undecodable(source: Source, encoding: str, offset: int, byte: int) -> DataError:
    """Return the error of a byte that the encoding does not know."""
    return DataError(
        f"{source.uri}: cannot be read as {source.kind}: byte {offset} (0x{byte:02x}) is not {encoding}; "
        f'damaged? else name its encoding: {source.key}.encodings = ["utf-8", "latin-1"], for example'
    )


def _no_line_end(source: Source, offset: int) -> DataError:
    return DataError(
        f"{source.uri}: cannot be read as {source.kind}: no line ends in the {MAX_LINE_BYTES >> 20} MB after "
        f"byte {offset}; is it text? {source.key}.kind says how a file is read"
    )
