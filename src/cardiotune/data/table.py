"""A file on disk -> a table of text cells. Format, separator, encoding and compression are detected
and said."""

import codecs
import csv
import gzip
import io
import json
import logging
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import polars as pl

from cardiotune.errors import DataError

log = logging.getLogger(__name__)

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
HEAD_BYTES = 1 << 20
NANOSECONDS_A_DAY = 86_400e9
SAMPLE_ROWS = 50
"""Rows looked at to tell whether all end in a separator."""
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.I)
LINE_BREAK = re.compile(r"\s*[\r\n]+\s*")


@dataclass(frozen=True)
class Layout:
    """How a text table is written."""

    columns: list[str]
    """By place; empty where one has no name."""
    separator: str
    encoding: str
    skipped_lines: int
    """Above the header: blank lines, comments, `sep=;`."""
    has_header: bool

    @property
    def names(self) -> list[str]:
        """Of the columns that are read: those with a name and the first, which may be a row number
        without one."""
        return [name for place, name in enumerate(self.columns) if name or place == 0]

    @property
    def in_bytes(self) -> bool:
        """Whether rows can be told apart before the text is decoded."""
        return not self.encoding.upper().startswith(("UTF-16", "UTF-32"))


def builtin(name: str) -> Path:
    """A table shipped with the package."""
    path = Path(__file__).parent / "tables" / f"{name}.csv"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.csv")))
        raise DataError(f"builtin:{name}: no such table; shipped are: {known}")
    return path


def locate(path: str, folder: bool = False) -> Path:
    """The file behind `data.path`; DataError when it is not there or is not a table. With `folder`
    it may be a folder."""
    if path.startswith("builtin:"):
        return builtin(path.removeprefix("builtin:"))
    file = Path(path).expanduser()
    if file.is_dir() and folder:
        return file
    if file.is_dir():
        raise DataError(f"{path}: is a folder; expected a CSV, TSV, Parquet, JSON or JSONL file")
    if not file.is_file():
        near = sorted(
            p.name
            for p in file.parent.glob("*")
            if p.suffix in (".csv", ".tsv", ".parquet", ".gz", ".txt", ".json", ".jsonl")
        )
        hint = f"; tables in that folder: {', '.join(near[:5])}" if near else ""
        raise DataError(f"{path}: no such file{hint}")
    if file.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; expected a table with a header line")
    return file


def is_parquet(file: Path) -> bool:
    """By content, not by name."""
    with file.open("rb") as stream:
        return stream.read(4) == b"PAR1"


def is_json(file: Path) -> bool:
    """By content: a list of objects, or an object a line (JSONL)."""
    return _first_sign(file) in (b"{", b"[")


def is_json_list(file: Path) -> bool:
    """A list of objects, which is one piece: it cannot be read row by row."""
    return _first_sign(file) == b"["


def _first_sign(file: Path) -> bytes:
    with open_unpacked(file) as stream:
        return stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def column_names(
    file: Path, separator: str | None = None, encoding: str | None = None, header: list[str] | None = None
) -> list[str]:
    """The columns of a table; of CSV and Parquet, without reading its rows."""
    if is_parquet(file):
        with parquet_errors(file):
            return pl.scan_parquet(file, glob=False).collect_schema().names()
    if is_json(file):
        with open_unpacked(file) as stream:
            return list(dict.fromkeys(name for row in _json_rows(file, stream) for name in row))
    return sniff(file, separator, encoding, header).names


def keys_of_all(file: Path) -> set[str]:
    """Keys that every object of a JSON or JSONL table has."""
    with open_unpacked(file) as stream:
        rows = _json_rows(file, stream)
        return set(next(rows, {})).intersection(*rows)


def cells_of(rows: Any) -> pl.DataFrame:
    """Rows that come from Python, as the text cells that a file would have.

    rows: a polars or pandas frame, an Arrow table, or a list of `{column: value}`, in which an
    absent key is an empty cell. DataError for anything else, and for values that are lists or
    objects.
    """
    if isinstance(rows, pl.LazyFrame):
        rows = rows.collect()
    if not isinstance(rows, pl.DataFrame) and hasattr(rows, "iloc"):  # pandas; its own way to Arrow needs pyarrow
        names = list(map(str, rows.columns))
        if len(set(names)) < len(names):
            raise DataError(f"rows: {len(names) - len(set(names))} column names stand twice; rename them")
        columns = (rows.iloc[:, place].astype(object) for place in range(len(names)))
        cells = [column.where(column.notna(), None).tolist() for column in columns]
        return pl.DataFrame(
            {name: pl.Series(name, map(_cell, c), pl.String) for name, c in zip(names, cells, strict=True)}
        )
    if isinstance(rows, list | tuple) and all(isinstance(row, Mapping) for row in rows):
        names = list(dict.fromkeys(str(name) for row in rows for name in row))
        return pl.DataFrame({n: pl.Series(n, [_cell(row.get(n)) for row in rows], pl.String) for n in names})
    if not isinstance(rows, pl.DataFrame) and not hasattr(rows, "__arrow_c_stream__"):
        raise DataError(
            f"rows: a {type(rows).__name__} has no column names; expected a polars or pandas frame, an Arrow table or a "
            "list of {column: value}"
        )
    return as_text("rows", pl.DataFrame(rows))


def _cell(value: Any) -> str | None:
    """One value as the text that a file would hold; numbers with all their digits."""
    if isinstance(value, np.timedelta64):
        value = None if np.isnat(value) else value / np.timedelta64(1, "D")
    elif hasattr(value, "item") and not isinstance(value, np.datetime64 | np.ndarray):  # numpy's scalars
        value = value.item()
    if value is None or type(value).__name__ in ("NAType", "NaTType") or str(value) == "NaT":
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, timedelta):
        value = value / timedelta(days=1)
    if isinstance(value, list | tuple | set | frozenset | Mapping | bytes | bytearray | np.ndarray):
        raise DataError("rows: cells that hold lists, objects or bytes, not values; flatten them")
    if isinstance(value, bool):
        return str(value).lower()
    return _number_text(str(value)) if isinstance(value, float | Decimal) else str(value)


def _number_text(text: str) -> str:
    """A number that came as one, so that no reader takes its point for a thousands mark: 1.125
    becomes 1.1250."""
    return f"{text}0" if re.fullmatch(r"[+-]?[1-9]\d{0,2}\.\d{3}", text, re.ASCII) else text


def as_text(source: object, frame: pl.DataFrame) -> pl.DataFrame:
    """A typed frame as text cells; durations in days. DataError for columns of lists or bytes."""
    nested = [name for name, kind in frame.schema.items() if kind.is_nested() or kind in (pl.Binary, pl.Object)]
    if nested:
        named = ", ".join(nested) if isinstance(source, Path) else f"{len(nested)} of {frame.width}"
        raise DataError(f"{source}: columns that hold lists or bytes, not values: {named}; leave them out")
    if isinstance(source, Path) and (lasting := [name for name, kind in frame.schema.items() if kind == pl.Duration]):
        log.info("read %s: durations as numbers of days: %s", source.name, ", ".join(lasting))
    return frame.select(_as_text(name, kind) for name, kind in frame.schema.items())


def _as_text(name: str, kind: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(kind, pl.Duration):
        column, kind = column.dt.total_nanoseconds() / NANOSECONDS_A_DAY, pl.Float64()
    text = column.cast(pl.String, strict=False)
    if kind.is_float() or kind.is_decimal():
        text = text.str.replace(r"^([+-]?[1-9][0-9]{0,2}\.[0-9]{3})$", "${1}0")  # as `_number_text` does
    return text


def read_cells(
    file: Path,
    columns: list[str] | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    header: list[str] | None = None,
) -> pl.DataFrame:
    """All rows of the named columns (default: all) as text cells; null where a cell is empty.

    Raises DataError for an empty table, a broken file, or columns that are named twice.
    """
    if is_parquet(file):
        frame = _read_parquet(file, columns)
    elif is_json(file):
        frame = _read_json(file, columns)
    else:
        layout = sniff(file, separator, encoding, header)
        log.info(
            "read %s: %d columns separated by %s, %s",
            file.name,
            len(layout.names),
            SEPARATORS.get(layout.separator, repr(layout.separator)),
            layout.encoding,
        )
        frame = _read_text(file, layout, columns)
    if frame.height == 0:
        raise DataError(f"{file}: the table has a header but no rows")
    return frame


def _read_parquet(file: Path, columns: list[str] | None) -> pl.DataFrame:
    with parquet_errors(file):
        frame = pl.read_parquet(file, columns=columns, glob=False)
    return as_text(file, frame)


def _read_json(file: Path, columns: list[str] | None) -> pl.DataFrame:
    with open_unpacked(file) as stream:
        return _json_cells(file, stream, columns or column_names(file), told=columns is not None)


def _json_cells(file: Path, stream: IO[bytes], columns: list[str], before: int = 0, told: bool = True) -> pl.DataFrame:
    """`told`: whether the columns are those of a dictionary; keys may be the names of patients."""
    cells: dict[str, list[str | None]] = {name: [] for name in columns}
    nested: set[str] = set()
    for row in _json_rows(file, stream, before):
        for name, column in cells.items():
            value = row.get(name)
            if isinstance(value, dict | list):
                nested.add(name)
            column.append(str(value).lower() if isinstance(value, bool) else value)
    if nested:
        named = ", ".join(name for name in cells if name in nested) if told else f"{len(nested)} of {len(cells)}"
        raise DataError(
            f"{file}: keys that hold lists or objects, not values: {named}; flatten them (expected a list of objects, each a "
            "row: no object of patients or of columns)"
        )
    return pl.DataFrame(cells, schema=dict.fromkeys(cells, pl.String))


def _json_rows(file: Path, stream: IO[bytes], before: int = 0) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list or, read line by line, of JSONL; numbers stay text, as they were
    written."""
    read = json.JSONDecoder(parse_int=str, parse_float=_number_text, parse_constant=str).decode
    listed, count = False, before
    try:
        lines = io.TextIOWrapper(stream, "utf-8-sig", newline="\n")
        first = next((line for line in lines if line.strip()), "")
        listed = first.lstrip().startswith("[")
        one_by_one = (read(line.strip()) for line in chain([first], lines) if line.strip())
        for row in read((first + lines.read()).strip()) if listed else one_by_one:
            if not isinstance(row, dict):
                raise DataError(f"{file}: expected a list of JSON objects, or one object a line, each a row")
            count += 1
            yield row
    except UnicodeDecodeError:
        raise DataError(f"{file}: is not UTF-8 text; set data.encoding to the right one") from None
    except json.JSONDecodeError as error:
        # The library's own message is not passed on, for it quotes a wrong constant.
        where = f"line {error.lineno}" if listed else f"object {count + 1}"
        raise DataError(f"{file}: not valid JSON at {where}; expected a list of objects, or one a line") from None


@contextmanager
def parquet_errors(file: Path) -> Iterator[None]:
    """A damaged file becomes a DataError; the library's message may quote cells."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError):
        raise DataError(f"{file}: cannot be read as Parquet; the file is damaged or cut short") from None


def row_ends(stream: IO[bytes], quoted: bool) -> Iterator[int]:
    """Bytes from here to the end of each row; with `quoted`, a line end within quotes ends no
    row."""
    size = quotes = 0
    for line in stream:
        size += len(line)
        quotes += line.count(b'"') if quoted else 0
        if quotes % 2 == 0:
            yield size
    if quotes % 2:
        yield size


def body_start(stream: IO[bytes], layout: Layout) -> int:
    """Bytes from here to the first row."""
    size = sum(len(stream.readline()) for _ in range(layout.skipped_lines))
    return size + (next(row_ends(stream, quoted=True), 0) if layout.has_header else 0)


def parse_text(file: Path, raw: bytes, layout: Layout, columns: list[str] | None) -> tuple[pl.DataFrame, int]:
    """Whole rows of a text table, as they stand in the file, without its header -> text cells, and
    lines without any value."""
    names = layout.separator.join(f"c{place}" for place in range(len(layout.columns)))
    plain = replace(layout, encoding="UTF-8", skipped_lines=0, has_header=True)
    return _parse(file, io.BytesIO(f"{names}\n{_decode(file, raw, layout.encoding)}".encode()), plain, columns)


def parse_json(file: Path, raw: bytes, columns: list[str], before: int) -> pl.DataFrame:
    """Whole lines of a JSONL table, `before` objects from its beginning -> text cells."""
    return _json_cells(file, io.BytesIO(raw), columns, before)


def _read_text(file: Path, layout: Layout, columns: list[str] | None) -> pl.DataFrame:
    if layout.encoding.startswith("UTF-8") and not is_gzipped(file) and layout.columns == layout.names:
        frame, blank = _parse(file, file, layout, columns)
    else:
        text = io.BytesIO(_decoded(file, layout.encoding))
        text.seek(body_start(text, layout))
        frame, blank = parse_text(file, text.read(), replace(layout, encoding="UTF-8"), columns)
    tell_blank(file, blank)
    return frame


def tell_blank(file: Path, lines: int) -> None:
    """Say that lines without any value were left out."""
    if lines:
        log.warning("%s: %d lines hold no value in any column, so they are not read as rows", file.name, lines)


def _parse(
    file: Path, source: Path | io.BytesIO, layout: Layout, columns: list[str] | None
) -> tuple[pl.DataFrame, int]:
    try:
        frame = pl.read_csv(
            source,
            separator=layout.separator,
            has_header=layout.has_header,
            skip_lines=layout.skipped_lines,
            infer_schema=False,
            glob=False,
        )
    except pl.exceptions.PolarsError:
        # The library's message may quote cells, so it is not passed on.
        raise DataError(
            f"{file}: rows do not fit the header ({len(layout.columns)} columns); "
            "look for unquoted separators or an unclosed quote, or set data.separator"
        ) from None
    if frame.width != len(layout.columns):
        raise DataError(f"{file}: {frame.width} fields a row, but {len(layout.columns)} columns in the header")
    # All columns are read, for with fewer the library lets a row with too many fields pass, and its
    # values shift. By place, for it gives a column without a name one of its own, and keeps blanks
    # around names.
    places = [name if name or place == 0 else f"\0{place}" for place, name in enumerate(layout.columns)]
    frame.columns = places
    frame, blank = _without_blank_rows(frame)
    nameless = [place for place, name in enumerate(places, 1) if name.startswith("\0")]
    if filled := [place for place in nameless if not _is_blank(frame.to_series(place - 1)).all()]:
        named = ", ".join(map(str, filled[:20]))
        raise DataError(
            f"{file}: columns without a name that hold values: {named} (by place, from 1); name them in the header"
        )
    return frame.select(columns if columns is not None else layout.names), blank


def _without_blank_rows(frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Without blank lines and lines of separators alone. A table of one column keeps them: there
    they are missing cells."""
    if frame.width == 1:
        return frame, 0
    blank = _is_blank(frame.to_series(0))
    if blank.any():
        others = frame.filter(blank).select(pl.all_horizontal(pl.all().str.strip_chars().fill_null("") == ""))
        blank = blank.scatter(blank.arg_true(), others.to_series())
    return frame.filter(~blank), int(blank.sum())


def _is_blank(cells: pl.Series) -> pl.Series:
    return cells.str.strip_chars().fill_null("") == ""


def is_gzipped(file: Path) -> bool:
    """By content."""
    with file.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


@contextmanager
def open_unpacked(file: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked."""
    try:
        with cast(IO[bytes], gzip.open(file)) if is_gzipped(file) else file.open("rb") as stream:
            yield stream
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(f"{file}: cannot be unpacked; the gzip file is damaged or cut short") from None


def _decoded(file: Path, encoding: str) -> bytes:
    """The whole file as UTF-8 bytes without a byte-order mark."""
    with open_unpacked(file) as stream:
        raw = stream.read()
    return _decode(file, raw, encoding).encode()


def _decode(file: Path, raw: bytes, encoding: str) -> str:
    codec = {"UTF-8": "utf-8-sig", "UTF-8 with byte-order mark": "utf-8-sig", "Windows-1252": "cp1252"}.get(
        encoding, encoding
    )
    try:
        return raw.decode(codec).removeprefix("\ufeff")
    except (UnicodeDecodeError, LookupError):
        raise DataError(f"{file}: is not {encoding} text; set data.encoding to the right one") from None


def sniff(
    file: Path, separator: str | None = None, encoding: str | None = None, header: list[str] | None = None
) -> Layout:
    """Detect how a text table is written, from its first MiB."""
    with open_unpacked(file) as stream:
        head = stream.read(HEAD_BYTES)
    encoding = encoding or _detect_encoding(file, head)
    lines = io.StringIO(_decode_head(file, head, encoding), newline="\n").readlines()
    if lines and "\r" in lines[0] and not any(line.endswith("\n") for line in lines):
        raise DataError(f"{file}: its lines end in only carriage returns (an old Mac's); save it with line feeds")
    skipped = 0
    while skipped < len(lines) and _is_above_header(lines[skipped]):
        stated = SEPARATOR_LINE.fullmatch(lines[skipped].rstrip("\r\n"))
        separator = separator or (stated[1] if stated else None)
        skipped += 1
    if skipped == len(lines):
        raise DataError(f"{file}: no header line found; expected column names on the first line")
    try:
        first = {mark: _records(lines[skipped:], mark, 1)[0] for mark in SEPARATORS}
        marks = [separator] if separator else list(SEPARATORS)
        separator = separator or max(SEPARATORS, key=lambda mark: len(first[mark]))
        fields, *rows = _records(lines[skipped:], separator, 1 + SAMPLE_ROWS)
    except csv.Error:
        raise DataError(f"{file}: the first line cannot be read as column names; is it a CSV or TSV file?") from None
    fields = [LINE_BREAK.sub(" ", name).strip() for name in fields]
    has_header = header is None or bool(set(header) & set(fields))
    if has_header:
        # With decimal commas a line of values may have as many commas as semicolons.
        as_many = [names for names in first.values() if len(names) == len(fields) > 1]
        _check_header(file, fields, as_many, lines[skipped:], marks)
        # Every row may end in a separator that the header does not have.
        wider = min((len(row) for row in rows), default=0) - len(fields)
        if wider > 0 and not any(any(row[len(fields) :]) for row in rows):
            fields += [""] * wider
    elif len(header or []) != len(fields):
        raise DataError(
            f"{file}: {len(fields)} fields on the first line, but data.column_names has {len(header or [])}"
        )
    return Layout(fields if has_header else list(header or []), separator, encoding, skipped, has_header)


def _is_above_header(line: str) -> bool:
    """A blank line, a comment, or Excel's `sep=;`."""
    return not line.strip() or line.startswith("# ") or bool(SEPARATOR_LINE.fullmatch(line.rstrip("\r\n")))


def _check_header(file: Path, names: list[str], otherwise: list[list[str]], lines: list[str], marks: list[str]) -> None:
    """A first line of values is a patient: it must not be taken, or shown, as column names."""
    named = [name for name in names if name]
    values = [name for name in named if is_value(name)]
    many = any(2 * sum(is_value(name.strip()) for name in some) >= len(some) for some in otherwise)
    if (many or 2 * len(values) >= len(named)) and not _are_names(values, len(named), lines):
        raise DataError(
            f"{file}: the first line looks like values, not column names; add a header line, or name the "
            f"{len(names)} columns in data.column_names"
        )
    if len(named) == 1 and (widest := _title_above(lines, marks)):
        raise DataError(
            f"{file}: the first line has one field and the next has {widest}, so it looks like a title above the column "
            "names; delete it"
        )
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names, 1):
        places.setdefault(name, []).append(place)
    twice = [f"columns {' and '.join(map(str, place))}" for name, place in places.items() if name and len(place) > 1]
    if twice:
        raise DataError(
            f"{file}: {len(twice)} column names stand twice in the header ({'; '.join(twice)}); rename them"
        )


def is_value(name: str) -> bool:
    """A number or a date."""
    return bool(re.fullmatch(r"[<>]?\s*[+-]?\d[\d.,]*([eE][+-]?\d+)?|(\d{4})([-/.])\d{1,2}\3\d{1,2}\b.*|"
                             r"\d{1,2}([-/.])\d{1,2}\4\d{2,4}\b.*", name))  # fmt: skip


def _are_names(values: list[str], named: int, lines: list[str]) -> bool:
    """Whether numbers in the first line are names: years one after another, or quoted where those
    below them are not."""
    years = [int(name) for name in values if re.fullmatch(r"(19|20)\d\d", name)]
    in_order = len(years) == len(values) < named and years == list(range(years[0], years[0] + len(years)))
    below = next((line for line in lines[1:] if line.strip()), "")
    quoted = all(f'"{name}"' in lines[0] for name in values) and not re.search(r'"[+-]?\d+([.,]\d+)?"', below)
    return (in_order and len(years) > 1) or (quoted and bool(re.search(r"\d", below)))


def _title_above(lines: list[str], marks: list[str]) -> int:
    """Fields of the second line if they are names and the first is a title; otherwise 0."""
    below = [line for line in lines[1:] if line.strip()]
    widest = max((_records(below, mark, 1)[0] for mark in marks), key=len)
    fields = [name.strip() for name in widest if name.strip()]
    is_header = len(fields) > 1 and len(set(fields)) == len(fields) and not any(is_value(name) for name in fields)
    return len(fields) if is_header else 0


def _records(lines: list[str], separator: str, most: int) -> list[list[str]]:
    """The first rows, blank lines passed over; the last line of a head that was cut off may be part
    of one."""
    rows = csv.reader(lines, delimiter=separator)
    return list(islice((row for row in rows if any(field.strip() for field in row)), most)) or [[]]


def _decode_head(file: Path, head: bytes, encoding: str) -> str:
    if encoding.upper().startswith(("UTF-16", "UTF-32")):
        text = codecs.getincrementaldecoder(encoding)(errors="replace").decode(head).removeprefix("\ufeff")
    else:
        text = _decode(file, head[: head.rfind(b"\n") + 1] or head, encoding)
    if "\0" in text:
        raise DataError(f"{file}: holds NUL bytes, so it is a binary file; expected CSV, TSV or Parquet")
    return text


def _detect_encoding(file: Path, head: bytes) -> str:
    if head.startswith(b"\xef\xbb\xbf"):
        return "UTF-8 with byte-order mark"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    for place, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if b"\0" in head and not head[place:200:2].strip(b"\0") and head[1 - place : 200 : 2].strip(b"\0"):
            return name
    with open_unpacked(file) as stream:
        try:
            reader = io.TextIOWrapper(stream, "utf-8")
            while reader.read(HEAD_BYTES):
                pass
            return "UTF-8"
        except UnicodeDecodeError:
            return "Windows-1252"
