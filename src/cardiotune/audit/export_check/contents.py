"""What is inside a file: its text, its records, and the files packed into it. By content, whatever
the file is called."""

import bz2
import gzip
import io
import json
import lzma
import re
import sqlite3
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import polars as pl

DEEPEST = 4
"""Archives within archives that are opened."""
LARGEST = 1 << 28
"""Bytes of one file, or of what is unpacked from it, that are looked into."""
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"%PDF")
UNOPENED = (b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")
"""7z, RAR and Zstandard."""
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
MIN_LIST = 10
"""A JSON list of so many items may have one a patient."""


class Content(NamedTuple):
    """A piece of a file: text (all that can be read of it), the records in it, or why it could not
    be looked into."""

    text: str = ""
    records: tuple["Records", ...] = ()
    closed: str | None = None
    binary: bool = False


class Records(NamedTuple):
    """Rows under the same keys (none: a bare list); `rows` is 1 for an object, `under` the key that
    holds them in JSON."""

    keys: frozenset[str]
    rows: int
    under: str = ""


def contents(data: bytes, depth: int = 0) -> Iterator[Content]:
    """Everything that can be read in a file's bytes, unpacked as far as `DEEPEST`."""
    if len(data) > LARGEST:
        yield Content(closed="too large to be looked into")
        return
    packed = _packed(data)
    if packed is None:
        yield from _plain(data)
    elif depth == DEEPEST:
        yield Content(closed="an archive in an archive in an archive: too deep to be looked into")
    else:
        try:
            for name, inner in packed:
                yield Content(text=name)
                yield from contents(inner, depth + 1)
        except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zlib.error, lzma.LZMAError):
            yield Content(closed="a damaged or encrypted archive, which cannot be looked into")
        except (zipfile.BadZipFile, tarfile.TarError):
            yield Content(closed="a damaged archive, which cannot be looked into")


def _packed(data: bytes) -> Iterator[tuple[str, bytes]] | None:
    """Name and bytes of each packed file; None when this is no archive."""
    if data.startswith(b"PK\x03\x04"):
        return _zipped(data)
    for magic, opened in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open)):
        if data.startswith(magic):
            return _unpacked(opened(io.BytesIO(data)))
    if data[257:262] == b"ustar":
        return _tarred(data)
    return None


def _zipped(data: bytes) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as file:
                yield entry.filename, file.read(LARGEST + 1)


def _tarred(data: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for entry in archive:
            file = archive.extractfile(entry) if entry.isfile() else None
            yield entry.name, file.read(LARGEST + 1) if file else b""


def _unpacked(file: Any) -> Iterator[tuple[str, bytes]]:
    yield "", file.read(LARGEST + 1)


# --------------------------------------------------------------------------------------------------
# what is not packed


def _plain(data: bytes) -> Iterator[Content]:
    if data.startswith(b"PAR1") or data.startswith(b"ARROW1"):
        yield _table(data)
    elif data.startswith(b"SQLite format 3"):
        yield from _database(data)
    elif data.startswith(b"\x93NUMPY"):
        yield _array(data)
    elif (parted := _safetensors(data)) is not None:
        header, tensors = parted
        yield Content(text=header + "\n" + _printable(tensors), binary=True)
    elif data.startswith(UNOPENED):
        yield Content(closed="an archive of a kind that is not opened here")
    elif data.startswith(PICTURES):
        yield Content(text=_printable(data), closed="a picture or PDF, whose content a program cannot judge")
    elif data.startswith(PICKLES):
        yield Content(text=_printable(data), closed="a pickle, which is not safe to open")
    elif (text := _decoded(data)) is None:
        yield Content(text=_printable(data), binary=True)
    else:
        yield Content(text, tuple(records_of(text)))


def _table(data: bytes) -> Content:
    try:
        read = pl.read_parquet if data.startswith(b"PAR1") else pl.read_ipc
        frame = read(io.BytesIO(data))
    except (pl.exceptions.PolarsError, OSError):
        return Content(closed="a damaged Parquet or Arrow file, which cannot be looked into")
    return Content(_said(frame.iter_rows()), (Records(frozenset(frame.columns), frame.height),))


def _said(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as lines; an empty cell says nothing, as in a delimited text."""
    return "\n".join(" ".join("" if value is None else str(value) for value in row) for row in rows)


def _array(data: bytes) -> Content:
    """A NumPy array, of numbers or text; one of objects is a pickle."""
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError):
        return Content(
            text=_printable(data), closed="a damaged NumPy file, or one with a pickle, which is not safe to open"
        )
    rows = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
    return Content(_said(rows.tolist()), (Records(frozenset(array.dtype.names or ()), len(rows)),))


def _database(data: bytes) -> Iterator[Content]:
    """The tables of an SQLite file, as MLflow writes one."""
    try:
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(data)
            names = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
            for name in names:
                found = database.execute('select * from "{}"'.format(name.replace('"', '""')))
                keys, rows = frozenset(column[0] for column in found.description), found.fetchall()
                yield Content(_said(rows), (Records(keys, len(rows)),))
    except sqlite3.Error:
        yield Content(closed="a damaged SQLite file, which cannot be looked into")


def _safetensors(data: bytes) -> tuple[str, bytes] | None:
    """Names and metadata of a safetensors file, and the bytes of its tensors; None when it is not
    one.

    Where a tensor begins and ends is left out: among so many whole numbers some are a participant's
    by chance.
    """
    size = int.from_bytes(data[:8], "little")
    if not (len(data) > 8 and 2 <= size <= len(data) - 8 and data[8:9] == b"{"):
        return None
    try:
        header = json.loads(data[8 : 8 + size])
    except ValueError:
        return None
    for tensor in header.values():
        if isinstance(tensor, dict):
            tensor.pop("data_offsets", None)
    return json.dumps(header), data[8 + size :]


def _decoded(data: bytes) -> str | None:
    """The text, by its byte order mark or as UTF-8; None for binary data."""
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig")):
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    if b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _printable(data: bytes) -> str:
    """Runs of printable characters in binary data, in one byte or two a character."""
    runs = re.findall(rb"[\t\n\r\x20-\x7e\xa0-\xff]{4,}", data)
    wide = re.findall(rb"(?:[\x20-\x7e]\0){4,}", data)
    return "\n".join([run.decode("latin-1") for run in runs] + [run.decode("utf-16-le") for run in wide])


def records_of(text: str) -> list[Records]:
    """Records in JSON, JSON lines or delimited text."""
    try:
        return list(_in_json(json.loads(text)))
    except ValueError:
        pass
    lines = [line for line in text.splitlines() if line.strip()]
    objects = [found for line in lines if line.lstrip().startswith("{") and (found := _object(line)) is not None]
    if objects:
        # As rows one below the other, even when other lines stand between them: a log may hold
        # them.
        keys = frozenset().union(*objects)
        return [Records(keys, len(objects)), *(each for found in objects[:100] for each in _in_json(found))]
    return _delimited(lines)


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _in_json(value: Any, under: str = "") -> Iterator[Records]:
    """Every list of objects, every object of long lists and every object of plain values, however
    deep."""
    if isinstance(value, dict):
        lists = {key for key, item in value.items() if isinstance(item, list) and len(item) >= MIN_LIST and _flat(item)}
        if lists:
            yield Records(frozenset(lists), max(len(value[key]) for key in lists), under)
        plain = {key for key, item in value.items() if not isinstance(item, dict | list)}
        if plain:
            yield Records(frozenset(plain), 1, under)
        for key, item in value.items():
            yield from _in_json(item, key)
    elif isinstance(value, list):
        objects = [item for item in value if isinstance(item, dict)]
        if objects or len(value) >= MIN_LIST:
            yield Records(frozenset().union(*objects), len(value), under)
        for item in value:
            if isinstance(item, dict | list):
                yield from _in_json(item, under)


def _flat(items: list[Any]) -> bool:
    return not any(isinstance(item, dict | list) for item in items)


def _delimited(lines: list[str]) -> list[Records]:
    """The header of a delimited table, by what two lines or more share; quotes are taken off its
    names."""
    lines = [line for line in lines if set(line) - set("|-: ")]  # the rule below the header of a Markdown table
    for separator in (",", "\t", ";", "|"):
        parts = lines[0].count(separator) if lines else 0
        if parts and len(lines) > 1 and lines[1].count(separator) >= parts:
            names = frozenset(name.strip().strip("\"'") for name in lines[0].split(separator))
            return [Records(names, len(lines) - 1)]
    return []
