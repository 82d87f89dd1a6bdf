"""A file on disk -> a table of text cells. Format, separator, encoding and compression are detected and said."""

import csv
import gzip
import io
import json
import logging
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

import polars as pl

from cardiotune.errors import DataError

log = logging.getLogger(__name__)

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
HEAD_BYTES = 1 << 20


@dataclass(frozen=True)
class Layout:
    """How a text table is written."""

    columns: list[str]
    separator: str
    encoding: str
    comment_lines: int
    has_header: bool


def builtin(name: str) -> Path:
    """A table shipped with the package."""
    path = Path(__file__).parent / "tables" / f"{name}.csv"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.csv")))
        raise DataError(f"builtin:{name}: no such table; shipped are: {known}")
    return path


def locate(path: str, folder: bool = False) -> Path:
    """The file behind `data.path`; DataError when it is not there or is not a table. With `folder` it may be a folder."""
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
    with _open(file) as stream:
        return stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def column_names(
    file: Path, separator: str | None = None, encoding: str | None = None, header: list[str] | None = None
) -> list[str]:
    """The columns of a table; of CSV and Parquet, without reading its rows."""
    if is_parquet(file):
        with _parquet_errors(file):
            return pl.scan_parquet(file, glob=False).collect_schema().names()
    if is_json(file):
        return list(dict.fromkeys(name for row in _json_rows(file) for name in row))
    return sniff(file, separator, encoding, header).columns


def spoken(columns: Sequence[str]) -> str:
    """Column names for a message. Only their number where one is a number: the first line may be a patient's."""
    if any(_is_number(name) for name in columns):
        return f"{len(columns)} columns"
    more = f" and {len(columns) - 20} more" if len(columns) > 20 else ""
    return ", ".join(columns[:20]) + more


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True


def cells_of(rows: Any) -> pl.DataFrame:
    """Rows that come from Python, as the text cells that a file would have.

    rows: a polars or pandas frame, an Arrow table, or a list of `{column: value}`, in which an absent key is an empty cell.
    DataError for anything else, and for values that are lists or objects.
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
    return _as_text("rows", pl.DataFrame(rows))


def _cell(value: Any) -> str | None:
    """One value as the text that a file would hold; numbers with all their digits."""
    value = value.item() if hasattr(value, "item") else value  # numpy's scalars
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, list | tuple | set | Mapping | bytes):
        raise DataError("rows: cells that hold lists, objects or bytes, not values; flatten them")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_text(source: object, frame: pl.DataFrame) -> pl.DataFrame:
    nested = [name for name, kind in frame.schema.items() if kind.is_nested() or kind in (pl.Binary, pl.Object)]
    if nested:
        raise DataError(f"{source}: columns that hold lists or bytes, not values: {', '.join(nested)}; leave them out")
    return frame.select(pl.all().cast(pl.String, strict=False))


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
            len(layout.columns),
            SEPARATORS.get(layout.separator, repr(layout.separator)),
            layout.encoding,
        )
        frame = _read_text(file, layout, columns)
    if frame.height == 0:
        raise DataError(f"{file}: the table has a header but no rows")
    return frame


def _read_parquet(file: Path, columns: list[str] | None) -> pl.DataFrame:
    with _parquet_errors(file):
        frame = pl.read_parquet(file, columns=columns, glob=False)
    return _as_text(file, frame)


def _read_json(file: Path, columns: list[str] | None) -> pl.DataFrame:
    cells: dict[str, list[str | None]] = {name: [] for name in columns or column_names(file)}
    nested: set[str] = set()
    for row in _json_rows(file):
        for name, column in cells.items():
            value = row.get(name)
            if isinstance(value, dict | list):
                nested.add(name)
            column.append(str(value).lower() if isinstance(value, bool) else value)
    if nested:
        named = ", ".join(name for name in cells if name in nested)
        raise DataError(f"{file}: keys that hold lists or objects, not values: {named}; flatten them")
    return pl.DataFrame(cells, schema=dict.fromkeys(cells, pl.String))


def _json_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list or, read line by line, of JSONL; numbers stay text, as they were written."""
    read = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str).decode
    listed, count = False, 0
    try:
        with _open(file) as stream:
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
def _parquet_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError):
        raise DataError(f"{file}: cannot be read as Parquet; the file is damaged or cut short") from None


def _read_text(file: Path, layout: Layout, columns: list[str] | None) -> pl.DataFrame:
    plain_utf8 = layout.encoding.startswith("UTF-8") and not _gzipped(file)
    source: Path | io.BytesIO = file if plain_utf8 else io.BytesIO(_decoded(file, layout.encoding))
    try:
        frame = pl.read_csv(
            source,
            separator=layout.separator,
            has_header=layout.has_header,
            skip_lines=layout.comment_lines,
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
    # All columns are read, for with fewer the library lets a row with too many fields pass, and its values shift.
    # By place, for it gives a column without a name one of its own, and keeps blanks around names.
    frame.columns = layout.columns
    return frame if columns is None else frame.select(columns)


def _gzipped(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


@contextmanager
def _open(file: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked."""
    try:
        with cast(IO[bytes], gzip.open(file)) if _gzipped(file) else file.open("rb") as stream:
            yield stream
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(f"{file}: cannot be unpacked; the gzip file is damaged or cut short") from None


def _decoded(file: Path, encoding: str) -> bytes:
    """The whole file as UTF-8 bytes without a byte-order mark."""
    with _open(file) as stream:
        raw = stream.read()
    return _decode(file, raw, encoding).encode()


def _decode(file: Path, raw: bytes, encoding: str) -> str:
    codec = {"UTF-8": "utf-8-sig", "UTF-8 with byte-order mark": "utf-8-sig", "Windows-1252": "cp1252"}.get(
        encoding, encoding
    )
    try:
        return raw.decode(codec)
    except (UnicodeDecodeError, LookupError):
        raise DataError(f"{file}: is not {encoding} text; set data.encoding to the right one") from None


def sniff(
    file: Path, separator: str | None = None, encoding: str | None = None, header: list[str] | None = None
) -> Layout:
    """Detect how a text table is written, from its first MiB."""
    with _open(file) as stream:
        head = stream.read(HEAD_BYTES)
    if b"\0" in head:
        kind = "UTF-16 text: save it as UTF-8" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "a binary file"
        raise DataError(f"{file}: holds NUL bytes, so it is {kind}; expected CSV, TSV or Parquet")
    if not encoding:
        encoding = _detect_encoding(file, head)
    lines = _decode(file, head[: head.rfind(b"\n") + 1] or head, encoding).splitlines()
    comments = 0
    while comments < len(lines) and lines[comments].startswith("# "):
        comments += 1
    if comments == len(lines) or not lines[comments].strip():
        raise DataError(f"{file}: no header line found; expected column names on the first line")
    first = lines[comments]
    try:
        separator = separator or max(SEPARATORS, key=lambda mark: len(_fields(first, mark)))
        fields = [name.strip() for name in _fields(first, separator)]
    except csv.Error:
        raise DataError(f"{file}: the first line cannot be read as column names; is it a CSV or TSV file?") from None
    has_header = header is None or bool(set(header) & set(fields))
    if has_header:
        _check_header(file, fields)
    elif len(header or []) != len(fields):
        raise DataError(
            f"{file}: {len(fields)} fields on the first line, but data.column_names has {len(header or [])}"
        )
    return Layout(fields if has_header else list(header or []), separator, encoding, comments, has_header)


def _check_header(file: Path, names: list[str]) -> None:
    """A first line of values is a patient: it must not be taken, or shown, as column names."""
    if 2 * sum(_is_number(name) for name in names) >= len(names):
        raise DataError(
            f"{file}: the first line looks like values, not column names; add a header line, or name the "
            f"{len(names)} columns in data.column_names"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        which = spoken(twice) if spoken(names) != f"{len(names)} columns" else "names not shown"
        raise DataError(f"{file}: {len(twice)} column names stand twice in the header ({which}); rename them")


def _fields(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator), [])


def _detect_encoding(file: Path, head: bytes) -> str:
    if head.startswith(b"\xef\xbb\xbf"):
        return "UTF-8 with byte-order mark"
    with _open(file) as stream:
        try:
            reader = io.TextIOWrapper(stream, "utf-8")
            while reader.read(HEAD_BYTES):
                pass
            return "UTF-8"
        except UnicodeDecodeError:
            return "Windows-1252"
