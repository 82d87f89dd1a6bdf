"""Raw table -> checked cohort. Every row that is left out is counted under the reason for it."""

import difflib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.model_selection import train_test_split

from cardiotune.data import copies, identifiers, schema
from cardiotune.data.counts import Notes, Repeats, Step, UkbNotes
from cardiotune.data.row_ids import hashed_id, row_key
from cardiotune.data.small_counts import HIDDEN, tell_flow, told
from cardiotune.data.table import column_names, is_json, keys_of_all, locate, read_cells
from cardiotune.data.ukb import build as ukb
from cardiotune.data.ukb.followup import LOST
from cardiotune.data.writing import Writings
from cardiotune.errors import ConfigError, DataError
from cardiotune.settings import Column, DataConfig

log = logging.getLogger(__name__)

ROW_ID = "__row_id__"
EVENT = "__event__"
LINE = "__line__"
FEWEST_NUMBERS = 3
"""Numbers that a column must hold before most of them out of range are another unit, and not an
unusual patient or two."""
PART = "__part__"
LEFT = "__left__"
MOST_UNUSED = 200
TIME, STATUS, WEIGHT = "__time__", "__status__", "__weight__"
"""Of a cohort with follow-up (UK Biobank): days from baseline to its end, above 0; what ended it: 0
nothing that is known (censored, or the horizon), 1 the event, 2 death from another cause;
inverse-probability-of-censoring weight."""


@dataclass(frozen=True)
class Cohort:
    """Checked rows in the table's order.

    `frame` holds the columns of the dictionary, typed, beside `ROW_ID` (String), `EVENT` (1 = the
    outcome happened, 0 = not, null = unknown) and, in a training table, `PART` (the key in
    `data.files` of the row's file). A UK Biobank cohort also has `TIME`, `STATUS` and, with
    `data.ukb.censored: ipcw`, `WEIGHT`. It lives in memory only: a run folder never holds it.
    """

    frame: pl.DataFrame
    flow: list[Step]
    """Exclusions in order, the first with the rows read."""
    notes: Notes = field(default_factory=Notes)
    """Counts that are not exclusions: ignored columns, blanked values, missing values a feature."""
    censored: pl.DataFrame | None = None
    """With weights: those whose outcome is not known because their follow-up ended early, columns
    as in `frame`, `EVENT` null. No model learns from them; they are scored, for what judges times
    rather than outcomes."""
    columns: dict[str, Column] = field(default_factory=dict)
    """The dictionary, with how the table writes numbers and dates where that was learned from
    it."""

    @property
    def events(self) -> np.ndarray:
        """(rows,) int array of 0 and 1."""
        return self.frame[EVENT].to_numpy().astype(int)

    @property
    def weights(self) -> np.ndarray | None:
        """(rows,) inverse-probability-of-censoring weights, of mean about 1; None when every row
        counts the same."""
        return self.frame[WEIGHT].to_numpy() if WEIGHT in self.frame.columns else None


def read_cohort(data: DataConfig, seed: int, keep_row_ids: bool = False) -> Cohort:
    """Read the training table, and those of other parts if there are any: parse, check, exclude and
    count.

    Raises DataError when the table cannot give a cohort with both outcomes.
    """
    file = locate(data.path, folder=data.format == "ukb")
    read = _read_files(data, keep_row_ids)
    blanked = read.blanked
    if data.out_of_range == "missing":
        tally = Tally()
        tally.add(read.frame, blanked)
        check_meant(file, tally.present, tally.outside, data, "or correct codes, range or type in data.columns")
    rows = _Exclusions(file, read.frame)
    censored = None
    for reason in read.steps:
        if reason == LOST and WEIGHT in rows.frame.columns:
            censored = rows.frame.filter(pl.col(LEFT) == LOST).drop(LEFT)
        rows.exclude(reason, rows.frame[LEFT].ne_missing(reason))
    rows.frame = rows.frame.drop(LEFT, strict=False)
    rows.exclude("target missing", rows.frame[EVENT].is_not_null())
    if ready := data.name_of("text"):
        rows.exclude("text missing", rows.frame[ready].is_not_null())
    if data.out_of_range == "exclude":
        for name, lines in blanked.items():
            rows.exclude(f"{name} out of range", ~rows.frame[LINE].is_in(list(lines)))
            if censored is not None:
                censored = censored.filter(~pl.col(LINE).is_in(list(lines)))
    elif data.out_of_range == "error" and blanked:
        raise DataError(
            f"{file}: values out of range: {counted({name: len(lines) for name, lines in blanked.items()})}; "
            "correct them, or set data.out_of_range to missing or exclude"
        )
    _check_duplicates(rows, data)
    _check_missing(rows, data)
    _check_outcomes(rows, data)
    if data.max_rows and rows.frame.height > data.max_rows:
        drawn = _stratified_sample(rows.frame[EVENT].to_numpy(), data.max_rows, seed)
        if censored is not None:
            censored = censored.sample(fraction=data.max_rows / rows.frame.height, seed=seed)
        rows.exclude(f"not in the random sample of data.max_rows = {data.max_rows}", pl.Series(drawn))
    outside = None
    if data.out_of_range == "missing":
        kept = {name: int(rows.frame[LINE].is_in(list(lines)).sum()) for name, lines in blanked.items()}
        outside = {name: count for name, count in kept.items() if count}
        if outside:
            log.warning("%s: values out of range are taken as missing: %s", file.name, counted(outside))
    missing = {name: rows.frame[name].null_count() for name in data.features}
    notes = Notes(read.ignored, read.ukb, missing, outside, _equal_rows(rows, data))
    for step in tell_flow(rows.flow)[1:]:
        log.info("excluded %s rows: %s", "some" if step.excluded == HIDDEN else step.excluded, step.step)
    left = None if censored is None else censored.drop(LINE)
    return Cohort(rows.frame.drop(LINE), rows.flow, notes, left, read.columns)


@dataclass(frozen=True)
class _Read:
    """Typed rows, before any of them left."""

    frame: pl.DataFrame
    """The dictionary's columns, `LINE`, `ROW_ID` and, of a UK Biobank export, `TIME`, `STATUS`,
    `WEIGHT` and `LEFT`."""
    ignored: list[str]
    """Columns of the table that the dictionary does not use."""
    blanked: dict[str, set[int]]
    """Lines with a value out of range, by column."""
    steps: tuple[str, ...] = ()
    """Reasons in `LEFT`, in order."""
    ukb: UkbNotes | None = None
    columns: dict[str, Column] = field(default_factory=dict)
    """As in `Cohort`."""


def _read_files(data: DataConfig, keep_row_ids: bool) -> _Read:
    """Rows of all files under each other."""
    frames: list[pl.DataFrame] = []
    ignored: set[str] = set()
    blanked: dict[str, set[int]] = {}
    lines = 0
    for part, path in data.files.items():
        file = locate(path, folder=data.format == "ukb")
        read = _read_rows(file, data, keep_row_ids, first_line=lines)
        # What the first file tells holds for the others too.
        data = data.model_copy(update={"columns": read.columns})
        frame = read.frame
        if keep_row_ids and len(data.files) > 1 and data.name_of("id") is None:
            frame = frame.with_columns((f"{part} line " + pl.col(ROW_ID)).alias(ROW_ID))
        frames.append(frame.with_columns(_events(frame, data), pl.lit(part).alias(PART)))
        ignored |= set(read.ignored)
        for name, numbers in read.blanked.items():
            blanked[name] = blanked.get(name, set()) | numbers
        lines += frame.height
    return _Read(pl.concat(frames), sorted(ignored), blanked, read.steps, read.ukb, data.columns)


class _Exclusions:
    """The rows still in, and how many left for which reason."""

    def __init__(self, file: Path, frame: pl.DataFrame) -> None:
        self.file = file
        self.frame = frame
        self.flow = [Step("rows in the table", 0, frame.height)]

    def exclude(self, step: str, keep: pl.Series) -> None:
        if not keep.all():
            self.frame = self.frame.filter(keep)
            self.flow.append(Step(step, int((~keep).sum()), self.frame.height))
        if self.frame.height == 0:
            raise DataError(f"{self.file}: no row is left after the exclusion: {step}")


def read_rows(path: str, data: DataConfig, keep_row_ids: bool = False, allow_unknown: bool = False) -> Cohort:
    """Read a table to be scored: every row is kept.

    An implausible value becomes a missing one and is counted; so is a missing feature value. The
    target may be absent. A column of which most values would go that way is a DataError
    (`check_meant`), unless `allow_unknown`.
    """
    file = locate(path, folder=data.format == "ukb")
    # The layout of the training table (separator, header) need not be that of this one.
    data = data.model_copy(update={"path": path, "separator": None, "encoding": None, "out_of_range": "missing"})
    read = _read_rows(file, data, keep_row_ids, target_needed=False)
    frame = read.frame.with_columns(_events(read.frame, data))
    height = frame.height
    tally = Tally()
    tally.add(frame, read.blanked)
    outside = tally.check(file, data, allow_unknown)
    flow = [Step("rows in the table", 0, height)]
    if read.steps:
        frame = _only_known_outcomes(frame, flow)
    return Cohort(frame.drop(LINE), flow, Notes(read.ignored, read.ukb, values_out_of_range=outside))


def typed_rows(
    source: object, cells: pl.DataFrame, data: DataConfig, writings: Writings | None = None
) -> tuple[pl.DataFrame, dict[str, set[int]]]:
    """Rows to be scored, from text cells: the dictionary's columns, typed, a row each; row numbers
    blanked, by column.

    As `read_rows` does, an implausible value becomes a missing one. `source` is what an error
    names. Ids, outcome and columns that the dictionary does not know are passed over. `writings`:
    how the table's columns are written, where it is known from more rows than these. Raises
    DataError for absent columns and cells of another type.
    """
    data = data.model_copy(update={"out_of_range": "missing"})
    needed = check_present(source, cells.columns, data)
    cells = cells.select(needed)
    frame, blanked = _typed(source, cells, data, 0, writings or schema.writings(cells, data.columns))
    return frame.drop(LINE), blanked


def plausible_rows(values: list[pl.Series], data: DataConfig) -> tuple[pl.DataFrame, dict[str, set[int]]]:
    """`typed_rows` of columns that have been typed before, as `schema.texts_and_values` gives
    them."""
    data = data.model_copy(update={"out_of_range": "missing"})
    frame, blanked = _plausible(pl.DataFrame(values).with_row_index(LINE), data)
    return frame.drop(LINE), blanked


@dataclass(frozen=True)
class Tally:
    """Of a table to be scored, read whole or in pieces: how many values a column has, and how many
    are out of range or unknown codes."""

    present: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)

    def add(self, frame: pl.DataFrame, blanked: dict[str, set[int]]) -> None:
        """Rows, and the lines whose values have been blanked, by column."""
        for name, missing in zip(frame.columns, frame.null_count().row(0), strict=True):
            strange = len(blanked.get(name, ()))
            self.present[name] += frame.height - missing + strange
            if strange:
                self.outside[name] += strange

    def check(self, source: Path, data: DataConfig, allow_unknown: bool) -> dict[str, int]:
        """Values out of range, by column, said in the log as columns without any value are.
        DataError as `check_meant`."""
        if not allow_unknown:
            check_meant(source, self.present, self.outside, data)
        if self.outside:
            log.warning("%s: values out of range are taken as missing: %s", source.name, counted(dict(self.outside)))
        if empty := [name for name in data.inputs if not self.present[name]]:
            more = f" and {len(empty) - 20} more" if len(empty) > 20 else ""
            told_names = ", ".join(empty[:20]) + more
            log.warning("%s: no value in any row: %s; they count as not recorded", source.name, told_names)
        return dict(self.outside)


def check_meant(
    source: object,
    present: Mapping[str, int],
    outside: Mapping[str, int],
    data: DataConfig,
    remedy: str = "or let them count as missing with --allow-unknown (in Python, allow_unknown=True)",
) -> None:
    """DataError when half of a column's values or more are unknown codes or out of range: they were
    written another way.

    Of two or fewer numbers this may be so by chance: those are only counted.
    """
    found = []
    for name, strange in outside.items():
        column = data.columns[name]
        coded = bool(schema.codes_of(column))
        if 2 * strange >= present[name] and (coded or present[name] >= FEWEST_NUMBERS):
            kind = "are none of its codes" if coded else f"are not {schema.expected(column)}"
            found.append(f"{name} ({told(strange)} of {told(present[name])} values {kind})")
    if found:
        more = f" and {len(found) - 20} more" if len(found) > 20 else ""
        raise DataError(
            f"{source}: columns whose values are not those of the data dictionary: {', '.join(found[:20])}{more}; are they in "
            f"other codes or units? Write them as the dictionary does, {remedy}"
        )


def check_present(source: object, present: list[str], data: DataConfig) -> list[str]:
    """The columns that a table to be scored needs; DataError when some of them are not among those
    `present`."""
    needed = needed_columns(data, target_needed=False)
    there = set(present)
    if absent := [name for name in needed if name not in there]:
        raise DataError(_absent(source, absent, needed, present))
    return needed


def present_only(source: object, present: list[str], data: DataConfig) -> DataConfig:
    """The dictionary without the inputs that are not among the columns `present`, and without what
    is derived from them. DataError when none is left."""
    there, needed = set(present), needed_columns(data, target_needed=False)
    absent = {name for name in needed if name not in there}
    absent |= {name for name, c in data.columns.items() if c.derive and absent.intersection(c.derive.inputs)}
    kept = {name: column for name, column in data.columns.items() if name not in absent}
    narrow = data.model_copy(update={"columns": kept})
    if not narrow.inputs:
        raise DataError(_absent(source, [name for name in needed if name in absent], needed, present))
    return narrow


def _only_known_outcomes(frame: pl.DataFrame, flow: list[Step]) -> pl.DataFrame:
    """Of an export to be scored: without who withdrew; no outcome for who would not be in a cohort,
    and follow-up only for those who would be, or are censored.
    """
    stay = frame[LEFT].ne_missing(ukb.WITHDREW)
    if not stay.all():
        frame = frame.filter(stay)
        flow.append(Step(ukb.WITHDREW, int((~stay).sum()), frame.height))
    follow = [name for name in (TIME, STATUS, WEIGHT) if name in frame.columns]
    at_risk = pl.col(LEFT).is_null() | (pl.col(LEFT) == LOST)
    return frame.with_columns(
        pl.when(pl.col(LEFT).is_null()).then(EVENT).alias(EVENT), *(pl.when(at_risk).then(n).alias(n) for n in follow)
    ).drop(LEFT)


def counted(counts: dict[str, int]) -> str:
    """`age (12 rows), sbp (<10 rows)`."""
    return ", ".join(f"{name} ({told(count)} rows)" for name, count in counts.items())


def needed_columns(data: DataConfig, target_needed: bool = True) -> list[str]:
    """Columns of the dictionary that must be in the table: all but derived and merely ignored
    ones."""
    inputs = {name for column in data.columns.values() if column.derive for name in column.derive.inputs}

    def needed(name: str, column: Column) -> bool:
        return name in inputs or column.is_input or (target_needed and column.role != "ignore")

    return [name for name, column in data.columns.items() if not column.derive and needed(name, column)]


def _read_rows(
    file: Path, data: DataConfig, keep_row_ids: bool, target_needed: bool = True, first_line: int = 0
) -> _Read:
    """A file's rows with their ids. With `out_of_range: missing` values out of range are
    blanked."""
    if data.format == "ukb":
        built = ukb.build(file, data, target_needed)
        frame, blanked = _typed(file, built.cells, data, first_line, Writings({}, {}))
        follow = built.follow.select(
            pl.col("time").alias(TIME),
            pl.col("status").alias(STATUS),
            *([pl.col("weight").alias(WEIGHT)] if data.ukb.censored == "ipcw" else []),
            pl.col("left").alias(LEFT),
        )
        frame = frame.hstack(follow)
        read = _Read(frame, [], blanked, built.steps, built.notes, data.columns)
        key = built.key
    else:
        cells, ignored = _read_wanted(file, data, target_needed)
        writings = schema.writings(cells, data.columns)
        tell_writings(file, writings)
        frame, blanked = _typed(file, cells, data, first_line, writings)
        read = _Read(frame, ignored, blanked, columns=writings.settled())
        key = b"" if keep_row_ids else row_key(file)
    ids = row_ids(frame, data, None if keep_row_ids else key)
    return replace(read, frame=frame.with_columns(ids))


def _read_wanted(file: Path, data: DataConfig, target_needed: bool) -> tuple[pl.DataFrame, list[str]]:
    """Cells of the columns that the dictionary uses, and names of those that it does not."""
    present = column_names(file, data.separator, data.encoding, data.column_names)
    needed = needed_columns(data, target_needed)
    there = set(present)
    absent = [name for name in needed if name not in there]
    if absent:
        raise DataError(_absent(file, absent, needed, present))
    wanted_names = there & {*needed, data.name_of("id"), data.name_of("target")}
    wanted = [name for name in data.columns if name in wanted_names]
    cells = read_cells(file, wanted, data.separator, data.encoding, data.column_names)
    ignored = [name for name in present if name not in data.columns]
    if ignored and is_json(file):  # a key that only some objects have may be anything, a patient's name too
        of_all = keys_of_all(file)
        named = [name for name in ignored if name in of_all]
        ignored = named + ([f"{len(ignored) - len(named)} other keys"] if len(named) < len(ignored) else [])
    return cells, ignored


def read_unused(data: DataConfig, keep_row_ids: bool = False) -> pl.DataFrame:
    """`ROW_ID` and, as text, the columns of a table that nothing reads; for the audit, which looks
    for keys among them.

    Of a table with very many of them those that are called like a key. Empty where there are none.
    """
    frames: list[pl.DataFrame] = []
    used, identity = set(needed_columns(data)), data.name_of("id")
    for part, path in data.files.items():
        file = locate(path)
        named = keys_of_all(file) if is_json(file) else None
        present = column_names(file, data.separator, data.encoding, data.column_names)
        others = [name for name in present if name and name not in used and (named is None or name in named)]
        if len(others) > MOST_UNUSED:
            others = [name for name in others if identifiers.is_called_like_one(name)]
        if not others:
            continue
        wanted = ([identity] if identity in present else []) + others
        cells = read_cells(file, wanted, data.separator, data.encoding, data.column_names)
        keys = cells.select(schema.parse(cells[n], data.columns[n])[0] for n in wanted if n == identity)
        ids = row_ids(keys if keys.width else cells, data, None if keep_row_ids else row_key(file))
        if keep_row_ids and len(data.files) > 1 and identity is None:
            ids = f"{part} line " + ids
        frames.append(cells.select(others).with_columns(ids))
    return pl.concat(frames, how="diagonal") if frames else pl.DataFrame({ROW_ID: []}, schema={ROW_ID: pl.String})


def _typed(
    file: object, cells: pl.DataFrame, data: DataConfig, first_line: int, writings: Writings
) -> tuple[pl.DataFrame, dict[str, set[int]]]:
    """Typed columns, derived ones too, with line numbers from `first_line`; and lines with values
    out of range."""
    parsed = {name: schema.parse(cells[name], data.columns[name], writings[name]) for name in cells.columns}
    typed = [values for values, _ in parsed.values()]
    check_readable(file, {name: bad for name, (_, bad) in parsed.items()}, data, writings)
    return _plausible(pl.DataFrame(typed).with_row_index(LINE, first_line), data)


def _plausible(frame: pl.DataFrame, data: DataConfig) -> tuple[pl.DataFrame, dict[str, set[int]]]:
    frame, outside = _blank(frame, [name for name in frame.columns if name != LINE], data)
    # After its inputs: what is derived from a blanked value is missing too.
    frame = schema.derive(frame, data)
    frame, outside_derived = _blank(frame, [name for name, column in data.columns.items() if column.derive], data)
    return frame, outside | outside_derived


def tell_writings(file: Path, writings: Writings) -> None:
    """Log how numbers and dates were read, where it could have been otherwise."""
    for name in writings.found:
        if said := writings.told(name):
            log.info("read %s: %s: %s", file.name, name, said)


def check_readable(file: object, unreadable: dict[str, int], data: DataConfig, writings: Writings) -> None:
    """DataError when cells of a column are not of its type; their number, by column."""
    counts = {f"{name}: {data.columns[name].type}": bad for name, bad in unreadable.items() if bad}
    if counts:
        why = "".join(f"; {hint}" for hint in writings.hints(name for name, bad in unreadable.items() if bad))
        raise DataError(
            f"{file}: cells that are not of the column's type: {counted(counts)}{why}; correct the type, add their code to "
            "data.columns.NAME.missing, or write numbers with a decimal point and no thousands mark and dates as 2020-01-31"
        )


def _absent(file: object, absent: list[str], needed: list[str], present: list[str]) -> str:
    if len(present) == 1:
        return (
            f"{file}: only one column was found, {len(needed)} are needed; check data.separator "
            "(by default comma, semicolon, tab and bar are tried)"
        )
    # By place: in a table without a header line what stands for a name is a patient's.
    near = {name: difflib.get_close_matches(name, present, n=1, cutoff=0.6) for name in absent[:20]}
    names = ", ".join(f"{n} (is it column {present.index(m[0]) + 1}?)" if m else n for n, m in near.items())
    more = f" and {len(absent) - 20} more" if len(absent) > 20 else ""
    return (
        f"{file}: columns of the data dictionary that are not in the table: {names}{more}; of its {len(present)} columns "
        f"{len(set(present) & set(needed))} are those of the dictionary"
    )


def _blank(frame: pl.DataFrame, names: list[str], data: DataConfig) -> tuple[pl.DataFrame, dict[str, set[int]]]:
    """Lines with a value out of range, by column; with `out_of_range: missing` those values become
    null."""
    blanked: dict[str, set[int]] = {}
    for name in names:
        outside = schema.out_of_range(frame[name], data.columns[name])
        if outside.any() and data.columns[name].role != "target":
            blanked[name] = set(frame[LINE].filter(outside))
            if data.out_of_range == "missing":
                frame = frame.with_columns(pl.when(~outside).then(pl.col(name)).alias(name))
    return frame, blanked


def _events(frame: pl.DataFrame, data: DataConfig) -> pl.Series:
    """0, 1 or null from the target column; DataError when it holds more than two codes and none is
    named positive."""
    name = data.name_of("target")
    assert name is not None  # the config checks that there is one
    if name not in frame.columns:
        return pl.Series(EVENT, [None] * frame.height, pl.Int8)
    column = data.columns[name]
    events, strange = schema.events(frame[name], column)
    if strange or (frame[name].drop_nulls().n_unique() > 2 and not column.positive):
        raise DataError(
            f"target {name}: expected 0 and 1, found {frame[name].drop_nulls().n_unique()} different values, {strange} rows "
            f"outside the codes; name those that count as an event in data.columns.{name}.positive, all of them in codes, and "
            "those that mean unknown in missing"
        )
    return events.alias(EVENT)


def row_ids(frame: pl.DataFrame, data: DataConfig, key: bytes | None, first: int = 0) -> pl.Series:
    """The id column, or the line number where there is none; hashed with a key that only holders of
    the table have.

    first: rows of the table before those of `frame`.
    """
    name = data.name_of("id")
    lines = [str(first + number) for number in range(1, frame.height + 1)]
    ids = lines
    if name is not None and name in frame.columns:
        own = frame[name].cast(pl.String) if key is not None else as_written(frame[name])
        ids = [i or f"line {line}" for i, line in zip(own, lines, strict=True)]
    if key is not None:
        ids = [hashed_id(key, identity) for identity in ids]
    return pl.Series(ROW_ID, ids, pl.String)


def as_written(ids: pl.Series) -> pl.Series:
    """Ids as the table has them: whole numbers, which are held as floats, without a decimal
    point."""
    if not ids.dtype.is_float():
        return ids.cast(pl.String)
    whole = (ids == ids.floor()) & (ids.abs() < 2**53)
    short = ids.cast(pl.Int64, strict=False).cast(pl.String)
    return short.zip_with(whole.fill_null(False), ids.cast(pl.String))


def place_of_id(frame: pl.DataFrame, row: str, data: DataConfig) -> int:
    """The place, from 0, of the row with this id: `ROW_ID`, or as the table has it. An error does
    not repeat what was typed, which may be a patient's id."""
    own = data.name_of("id")
    found = np.flatnonzero((frame[ROW_ID] == row) | (as_written(frame[own or ROW_ID]) == row))
    if len(found) != 1:
        ids = f"a row_id of predictions.jsonl{f' or a value of column {own}' if own else ''}"
        raise ConfigError(f"--row: {len(found)} of the run's {frame.height} rows have this id; expected {ids}")
    return int(found[0])


def place_of_number(frame: pl.DataFrame, row: str, table: str) -> int:
    """The place, from 0, of the row with this number, which counts from 1."""
    place = int(row) - 1 if row.isascii() and row.isdigit() else -1
    if not 0 <= place < frame.height:
        raise ConfigError(f"--row: expected the number of a row of {table}, 1 to {frame.height}")
    return place


def _check_duplicates(rows: _Exclusions, data: DataConfig) -> None:
    """Duplicate rows by the chosen rule; after that no id may stand twice."""
    columns = [name for name in rows.frame.columns if name not in (ROW_ID, LINE)]
    name = data.name_of("id")
    if name and not rows.frame[name].is_duplicated().any():
        first = pl.repeat(True, rows.frame.height, eager=True)  # rows that differ in their id are not compared further
    else:
        first = rows.frame.select(pl.struct(columns).is_first_distinct()).to_series()
    if data.duplicate_rows == "error" and not first.all():
        raise DataError(
            f"{rows.file}: {int((~first).sum())} rows repeat an earlier row; remove them or set data.duplicate_rows"
        )
    if data.duplicate_rows == "exclude" or (data.duplicate_rows == "by_id" and name):
        rows.exclude("duplicate of an earlier row", first)
    for role in ("id", "group"):
        name = data.name_of(role)
        if name and (missing := rows.frame[name].null_count()):
            raise DataError(
                f"{rows.file}: {missing} rows have no {name} (role {role}); fill it, or give the column role ignore"
            )
    name = data.name_of("id")
    if name and (repeated := rows.frame.height - rows.frame[name].n_unique()):
        raise DataError(
            f"{rows.file}: {repeated} rows repeat an id of column {name} with other values; keep one row each, or, where "
            "a patient may have several rows, give the column role group"
        )


def _equal_rows(rows: _Exclusions, data: DataConfig) -> Repeats | None:
    """How many rows equal an earlier one in all that matters, and whether chance explains it; said
    in the log."""
    patient = data.name_of("group")
    keys = copies.column_keys(rows.frame, data.inputs, data)
    equal = copies.equal_rows(keys, rows.frame[EVENT].to_numpy(), rows.frame[patient] if patient else None)
    if not equal.rows:
        return None
    said = f"{rows.file.name}: {told(equal.rows)} rows equal an earlier one in every feature and the outcome"
    if equal.copied:
        log.warning(
            "%s, more than chance explains: copies, or patients with several rows, fall in training and test alike, and the "
            "figures are too good; remove them, name the patient's column (role id or group) or, if they are copies, set "
            "data.duplicate_rows=exclude",
            said,
        )
    else:
        log.info("%s, as chance explains; they stay", said)
    return Repeats(equal.rows, equal.copied)


def _check_missing(rows: _Exclusions, data: DataConfig) -> None:
    height = rows.frame.height
    empty = [name for name in data.features if rows.frame[name].null_count() == height]
    if empty:
        raise DataError(f"{rows.file}: no value in any of {height} rows for {', '.join(empty)}; give them role ignore")


def _check_outcomes(rows: _Exclusions, data: DataConfig) -> None:
    height, events = rows.frame.height, int(rows.frame[EVENT].sum())
    if events in (0, height):
        kind = "an event" if events else "no event"
        raise DataError(
            f"{rows.file}: all {height} rows have the same outcome ({kind}) in {data.name_of('target')}; both are needed "
            f"to learn a risk. Check data.columns.{data.name_of('target')}.positive"
        )


def _stratified_sample(events: np.ndarray, rows: int, seed: int) -> np.ndarray:
    """(rows of the table,) bool: which rows are drawn, with the table's share of events."""
    keep = np.zeros(len(events), bool)
    try:
        chosen, _ = train_test_split(np.arange(len(events)), train_size=rows, stratify=events, random_state=seed)
    except ValueError:
        raise DataError(
            f"data.max_rows = {rows}: a sample of {len(events)} rows with {int(events.sum())} events cannot be that large "
            "or small and hold both outcomes; choose another number"
        ) from None
    keep[chosen] = True
    return keep
