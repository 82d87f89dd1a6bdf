"""An export, one file or a folder of them -> the few fields that are needed, participants in the
first file's order.

Files are scanned, never read whole: of 3,000 columns only those needed are ever parsed, and records
(hundreds of columns) are reduced to one date while they stream by.
"""

import csv
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from cardiotune.data.table import SEPARATORS, column_names, is_parquet, sniff
from cardiotune.data.ukb.columns import BASELINE, Place, Style, detect_style, id_column, locate_columns
from cardiotune.data.ukb.fields import fields
from cardiotune.errors import DataError

log = logging.getLogger(__name__)

EID = "eid"
TABLES = (".csv", ".tsv", ".tab", ".txt", ".parquet")
WITHDRAWALS = re.compile(r"(w\d+.*|.*withdr.*)\.(csv|txt)", re.IGNORECASE)
KINSHIP = re.compile(r".*rel.*\.dat", re.IGNORECASE)
SHOWCASE = "Data_Dictionary_Showcase.tsv"
EMPTY_CELLS = ["NA", ""]
SHARED = 0.5
"""Share of participants that two files of one application have in common at least."""
TAIL_BYTES = 1 << 22


@dataclass(frozen=True)
class Table:
    """One file of an export."""

    file: Path
    style: Style
    eid: str
    columns: dict[Place, str]
    separator: str = ","

    def scan(self) -> pl.LazyFrame:
        """All columns as text."""
        if is_parquet(self.file):
            return pl.scan_parquet(self.file, glob=False)
        return pl.scan_csv(
            self.file,
            separator=self.separator,
            infer_schema=False,
            null_values=EMPTY_CELLS,
            glob=False,
            encoding="utf8",
        )

    def pick(self, places: Iterable[Place]) -> pl.LazyFrame:
        """`eid` and the asked columns, as text under canonical names."""
        columns = [pl.col(self.columns[place]).cast(pl.String).alias(canonical(place)) for place in places]
        return self.scan().select(
            pl.col(self.eid).cast(pl.String).str.strip_chars().str.replace(r"\.0$", "").alias(EID), *columns
        )


def canonical(place: Place) -> str:
    """`21003-0.0`, whatever the style was."""
    return f"{place.field}-{place.instance}.{place.array}"


@dataclass
class Export:
    """The files of one application, opened."""

    path: Path
    tables: list[Table]
    eids: pl.Series
    """Participants of the file with the visit's date, in its order."""
    incomplete: pl.Series
    """Those of them that another file lacks."""
    ignored: list[str] = field(default_factory=list)

    def places(self, number: int, instances: Iterable[int] = (BASELINE,)) -> list[Place]:
        """Columns of a field at these visits, arrays in order. DataError when it is there, but at
        other visits only."""
        every = sorted({place for table in self.tables for place in table.columns if place.field == number})
        found = [place for place in every if place.instance in set(instances)]
        if every and not found:
            title = fields()[number].title if number in fields() else "?"
            there = sorted({str(place.instance) for place in every})
            raise DataError(
                f"{self.path}: field {number} ({title}) is there for instance {', '.join(there)} only; the baseline is "
                "instance 0: export that one too, or give its column role ignore"
            )
        return found

    def scan(self, places: Iterable[Place]) -> pl.LazyFrame:
        """`eid` and these columns; files are joined only where more than one has some of them."""
        wanted = list(places)
        parts = []
        for table in self.tables:
            here = [place for place in wanted if place in table.columns]
            if here:
                parts.append(table.pick(here))
        joined = parts[0]
        for part in parts[1:]:
            joined = joined.join(part, on=EID, how="left")
        return joined

    def baseline(self, numbers: Iterable[int]) -> pl.DataFrame:
        """A row a participant, a column a field named by its number: text, or a list of text where
        it has arrays.

        Lists of readings keep empty arrays as null; those of answers do not, and none is null:
        classic exports have them in an array each, the platform in one cell. A field that is not in
        the export is not in the frame.
        """
        frame = pl.DataFrame({EID: self.eids})
        asked = {number: places for number in numbers if (places := self.places(number))}
        for table in self.tables:
            here = {n: p for n, p in asked.items() if p[0] in table.columns}
            if not here:
                continue
            picked = table.pick(place for places in here.values() for place in places)
            expressions = [gathered(number, places).alias(str(number)) for number, places in here.items()]
            frame = frame.join(
                picked.select(EID, *expressions).collect(engine="streaming"), on=EID, how="left", maintain_order="left"
            )
        return frame


def gathered(number: int, places: list[Place]) -> pl.Expr:
    """The values of one field at one visit: text, or a list of text for a field with arrays."""
    known = fields().get(number)
    if known is None or not known.is_list:
        return pl.col(canonical(places[0])).str.strip_chars()
    if known.type == "multi" and len(places) == 1:
        return answers(pl.col(canonical(places[0])))
    values = pl.concat_list([pl.col(canonical(place)).str.strip_chars() for place in places])
    if known.type == "multi":
        values = values.list.drop_nulls()
        return pl.when(values.list.len() > 0).then(values)
    return values


def answers(cell: pl.Expr) -> pl.Expr:
    """`1|2`, `[1,2]` or `["I210","I251"]` -> a list of text; null stays null."""
    return cell.str.replace_all(r'[\[\]"\s]', "").str.replace_all(",", "|").replace("", None).str.split("|")


def open_export(path: Path) -> Export:
    """Find the tables of an export and what is in them.

    DataError when there is none, a file is cut short, ids repeat, files share few participants
    (they are of different applications, whose ids mean other people), or a needed column stands in
    two files.
    """
    tables, ignored = [], []
    for file in table_files(path):
        table = _open_table(file)
        if table is None:
            ignored.append(file.name)
        else:
            tables.append(table)
    if not tables:
        raise DataError(f"{path}: no table with UK Biobank's columns (such as 53-0.0, f.53.0.0 or p53_i0) and eid")
    _check_twice(tables)
    if len({table.style for table in tables}) > 1:
        styles = ", ".join(f"{table.file.name}: {table.style}" for table in tables)
        raise DataError(f"{path}: the files name columns in different ways ({styles}); export them in one")
    tables.sort(key=lambda table: (Place(53, BASELINE, 0) not in table.columns, table.file.name))
    ids = [_participants(table) for table in tables]
    incomplete = pl.Series(EID, [], pl.String)
    for table, other in zip(tables[1:], ids[1:], strict=True):
        lacking = ids[0].filter(~ids[0].is_in(other.implode()))
        shared = len(ids[0]) - len(lacking)
        if shared < SHARED * min(len(ids[0]), len(other)):
            raise DataError(
                f"{tables[0].file.name} and {table.file.name} share {shared} of {min(len(ids[0]), len(other))} participants: "
                "they are of different applications, whose eids are other people; take files of one application"
            )
        incomplete = pl.concat([incomplete, lacking])
    for table in tables:
        log.info("%s: %d columns of UK Biobank fields, named as %s", table.file.name, len(table.columns), table.style)
    return Export(path, tables, ids[0], incomplete.unique(), ignored)


def table_files(path: Path) -> list[Path]:
    """The file, or those of a folder that may be tables: not the lists of withdrawals, relatives,
    and fields."""
    if not path.is_dir():
        return [path]
    return [
        file
        for file in sorted(path.iterdir())
        if file.suffix.lower() in TABLES and not WITHDRAWALS.fullmatch(file.name) and file.name != SHOWCASE
        if not file.name.lower().startswith("readme")
    ]


def companion(path: Path, name: re.Pattern[str]) -> Path | None:
    """The one file of the export's folder with such a name; DataError when there are several."""
    found = [file for file in sorted(path.iterdir()) if name.fullmatch(file.name)] if path.is_dir() else []
    if len(found) > 1:
        raise DataError(f"{path}: {', '.join(f.name for f in found)}: name the one to use in data.ukb")
    return found[0] if found else None


def _open_table(file: Path) -> Table | None:
    """None for a table that is not an export's."""
    parquet = is_parquet(file)
    layout = None if parquet else sniff(file, _separator(file), encoding="UTF-8")
    names = column_names(file) if layout is None else layout.columns
    style = detect_style(names, file)
    if style is None:
        log.warning("%s: no column is a UK Biobank field; not used", file.name)
        return None
    if layout is not None:
        _check_end(file, layout.separator, len(names))
    places = locate_columns(names, style, file)
    return Table(file, style, id_column(names, file), places, layout.separator if layout else ",")


def _separator(file: Path) -> str:
    """Tab or comma: titles hold bars, which a guess among all separators would take."""
    with file.open("rb") as stream:
        first = stream.readline(TAIL_BYTES)
    if first.startswith(b"\x1f\x8b"):
        raise DataError(f"{file}: is compressed; unpack it first: an export is read piece by piece")
    return "\t" if b"\t" in first else ","


def _check_end(file: Path, separator: str, width: int) -> None:
    """A copy that was cut short ends within a line, whose missing cells would pass as empty
    ones."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - TAIL_BYTES))
        lines = stream.read().decode("utf-8", "replace").splitlines()
    fields_there = len(next(csv.reader(lines[-1:], delimiter=separator), []))
    if fields_there != width:
        raise DataError(
            f"{file}: the last line has {fields_there} fields {SEPARATORS.get(separator, separator)}-separated, the header "
            f"{width}; the file was cut short: copy it again"
        )


def _check_twice(tables: list[Table]) -> None:
    seen: dict[Place, Path] = {}
    twice: dict[str, str] = {}
    for table in tables:
        for place in table.columns:
            if place in seen and place.field in fields():
                twice[table.columns[place]] = f"{seen[place].name} and {table.file.name}"
            seen.setdefault(place, table.file)
    if twice:
        named = ", ".join(f"{name} ({files})" for name, files in list(twice.items())[:5])
        raise DataError(f"columns that stand in two files: {named}; keep each in one")


def _participants(table: Table) -> pl.Series:
    try:
        ids = table.pick([]).collect(engine="streaming")[EID]
    except pl.exceptions.PolarsError:
        raise DataError(f"{table.file}: rows do not fit the header, or the file is damaged; export it again") from None
    if ids.null_count() or ids.is_duplicated().any():
        without, repeated = ids.null_count(), int(ids.drop_nulls().is_duplicated().sum())
        raise DataError(f"{table.file}: {without} rows have no eid, {repeated} share one; expected a row a participant")
    return ids
