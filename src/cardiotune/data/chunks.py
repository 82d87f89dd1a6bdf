"""A table to be scored, of any size: found good as a whole first, then read a chunk of rows at a
time."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import IO, Any

import polars as pl

from cardiotune.data import schema
from cardiotune.data.cohort import (
    Tally,
    check_present,
    check_readable,
    read_rows,
    row_ids,
    tell_writings,
    typed_rows,
)
from cardiotune.data.row_ids import row_key
from cardiotune.data.table import (
    Layout,
    as_text,
    body_start,
    column_names,
    is_json,
    is_json_list,
    is_parquet,
    locate,
    open_unpacked,
    parquet_errors,
    parse_json,
    parse_text,
    read_cells,
    row_ends,
    sniff,
    tell_blank,
)
from cardiotune.data.writing import Signs, Writings
from cardiotune.errors import DataError
from cardiotune.settings import DataConfig

CHUNK_ROWS = 16_384
"""Rows that are in memory at a time. A risk may differ in its last digits with the rows that it is
computed beside, so chunks are always the same ones, however many processes share them."""


@dataclass(frozen=True)
class Chunk:
    """Where some rows stand: row numbers from 0 and, in a text file, bytes of the unpacked file."""

    first: int
    rows: int
    offset: int = 0
    size: int = 0


class TableChunks:
    """The rows of one table. CSV, JSONL and Parquet are read in pieces; a JSON list and an export
    of UK Biobank are not."""

    def __init__(
        self,
        path: str,
        data: DataConfig,
        keep_row_ids: bool,
        known: dict[str, Any] | None = None,
        rows: int = CHUNK_ROWS,
        allow_unknown: bool = False,
    ) -> None:
        """`known`: what `as_json` gave, if the table has been checked before.

        Raises DataError, before a row is given out, when columns are absent, cells are not of their
        column's type or, without `allow_unknown`, most values of a column in the whole table are
        unknown codes or out of range.
        """
        self.file = locate(path, folder=data.format == "ukb")
        # The layout of the training table (separator, header) need not be that of this one.
        self.data = data.model_copy(update={"path": path, "separator": None, "encoding": None})
        self._whole: pl.DataFrame | None = None
        """Of a file that cannot be read in pieces: typed rows with ids (UK Biobank), or cells."""
        self._layout: Layout | None = None
        self._open = ExitStack()
        self._stream: IO[bytes] | None = None
        self._blank = 0
        if data.format == "ukb":
            self._whole = read_rows(path, data, keep_row_ids, allow_unknown).frame
        elif not is_parquet(self.file) and not is_json(self.file):
            self._layout = sniff(self.file, header=data.column_names)
        if data.format != "ukb":
            self._key = None if keep_row_ids else row_key(self.file)
            present = self._layout.names if self._layout else column_names(self.file)
            needed = check_present(self.file, present, data)
            identity = data.name_of("id")
            self._columns = [*needed, *([identity] if identity in present else [])]
            in_pieces = self._layout.in_bytes if self._layout else is_parquet(self.file) or not is_json_list(self.file)
            if not in_pieces:
                self._whole = read_cells(self.file, self._columns, header=data.column_names)
        self._writings = Writings({}, data.columns)
        if known is None:
            self.chunks = self._checked(rows, allow_unknown)
        else:
            self.chunks = [Chunk(**chunk) for chunk in known["chunks"]]
            signs = {name: frozenset(found) for name, found in known["signs"].items()}
            self._writings = Writings(signs, data.columns)

    def __len__(self) -> int:
        return len(self.chunks)

    @property
    def rows(self) -> int:
        """Rows of the whole table."""
        return sum(chunk.rows for chunk in self.chunks)

    def frame(self, number: int) -> pl.DataFrame:
        """The typed rows of a chunk: the dictionary's columns and `ROW_ID`. Implausible values are
        missing."""
        chunk = self.chunks[number]
        if self.data.format == "ukb":
            assert self._whole is not None
            return self._whole[chunk.first : chunk.first + chunk.rows]
        cells = self._cells(chunk)
        frame, _ = typed_rows(self.file, cells, self.data, self._writings)
        if (identity := self.data.name_of("id")) in cells.columns:
            cells = cells.with_columns(schema.parse(cells[identity], self.data.columns[identity])[0])
        return frame.with_columns(row_ids(cells, self.data, self._key, chunk.first))

    def as_json(self) -> dict[str, Any]:
        """Where the chunks are and how they are written, for the next process that reads the same
        table."""
        signs = {name: sorted(found) for name, found in self._writings.found.items()}
        return {"chunks": [asdict(chunk) for chunk in self.chunks], "signs": signs}

    # ----------------------------------------------------------------------------------------------
    # the file

    def _checked(self, rows: int, allow_unknown: bool) -> list[Chunk]:
        """All chunks, each looked at twice: how a cell is written is told by those of all
        chunks."""
        if self.data.format == "ukb":
            return list(self._places(rows))
        chunks: list[Chunk] = []
        signs: dict[str, Signs] = {}
        for _, cells in self._pieces(rows):
            for name, found in schema.table_signs(cells.select(self._columns), self.data.columns).items():
                signs[name] = signs.get(name, frozenset()) | found
        self._writings = Writings(signs, self.data.columns)
        tell_writings(self.file, self._writings)
        tell_blank(self.file, self._blank)
        unreadable: Counter[str] = Counter()
        tally = Tally()
        for chunk, cells in self._pieces(rows):
            bad = {
                name: schema.unreadable(cells[name], self.data.columns[name], self._writings[name])
                for name in self._columns
            }
            unreadable.update({name: int(rows_of.sum()) for name, rows_of in bad.items()})
            readable = cells.with_columns(
                pl.when(~rows_of).then(pl.col(name)).alias(name) for name, rows_of in bad.items()
            )
            tally.add(*typed_rows(self.file, readable, self.data, self._writings))
            chunks.append(chunk)
        check_readable(self.file, dict(unreadable), self.data, self._writings)
        if not chunks:
            raise DataError(f"{self.file}: the table has a header but no rows")
        tally.check(self.file, self.data, allow_unknown)
        return chunks

    def _pieces(self, rows: int) -> Iterator[tuple[Chunk, pl.DataFrame]]:
        """Chunks of a table that is not cut yet, and their cells; none without rows."""
        first = 0
        for place in self._places(rows):
            cells = self._cells(replace(place, first=first))
            if cells.height:
                yield Chunk(first, cells.height, place.offset, place.size), cells
            first += cells.height

    def _places(self, rows: int) -> Iterator[Chunk]:
        """Where `rows` rows at a time stand. Of a text file, rows are what the parser makes of
        them, so not counted here."""
        if not self._in_bytes:
            height = self._whole.height if self._whole is not None else self._parquet_height()
            yield from (Chunk(first, min(rows, height - first)) for first in range(0, height, rows))
            return
        with open_unpacked(self.file) as stream:
            start = body_start(stream, self._layout) if self._layout else 0
            ends = row_ends(stream, quoted=self._layout is not None)
            offset = start
            while some := list(islice(ends, rows)):
                yield Chunk(0, 0, offset, start + some[-1] - offset)
                offset = start + some[-1]

    @property
    def _in_bytes(self) -> bool:
        """Whether chunks are bytes of a text file, not rows of a table."""
        return self._whole is None and not is_parquet(self.file)

    def _parquet_height(self) -> int:
        with parquet_errors(self.file):
            return int(pl.scan_parquet(self.file, glob=False).select(pl.len()).collect().item())

    def _cells(self, chunk: Chunk) -> pl.DataFrame:
        if self._whole is not None:
            return self._whole[chunk.first : chunk.first + chunk.rows]
        if is_parquet(self.file):
            with parquet_errors(self.file):
                scan = pl.scan_parquet(self.file, glob=False).select(self._columns)
                return as_text(self.file, scan.slice(chunk.first, chunk.rows).collect())
        if self._stream is None:  # left open: in a packed file only a step forward is cheap
            self._stream = self._open.enter_context(open_unpacked(self.file))
        self._stream.seek(chunk.offset)
        raw = self._stream.read(chunk.size)
        if self._layout is None:
            return parse_json(self.file, raw, self._columns, chunk.first)
        frame, blank = parse_text(self.file, raw, self._layout, self._columns)
        self._blank += blank
        return frame
