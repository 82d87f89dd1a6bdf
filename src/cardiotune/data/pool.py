"""Several tables under one dictionary: each read by its own, then its columns brought together."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.data.across import in_both, shared_columns
from cardiotune.data.cohort import EVENT, ROW_ID, Cohort, read_cohort
from cardiotune.data.counts import Notes, Step
from cardiotune.data.schema import dtype_of
from cardiotune.data.units import Line, line_between
from cardiotune.errors import DataError
from cardiotune.settings import Column, DataConfig
from cardiotune.settings.tables import OUTCOME, PATIENT, TABLE, TableConfig, codes_in, in_common, quantities


@dataclass(frozen=True)
class Pool:
    """Rows of several tables, end to end, and each table as it is."""

    cohort: Cohort
    """Under the pooled dictionary, in its units and codes."""
    tables: dict[str, Cohort]
    """Under their own."""


def read_pool(tables: Mapping[str, TableConfig], pooled: DataConfig, seed: int, keep_row_ids: bool = False) -> Pool:
    """Read every table, check it and bring its columns under `pooled`. DataError as `read_cohort`,
    with the table's name, and where a unit cannot be converted."""
    cohorts: dict[str, Cohort] = {}
    for name, table in tables.items():
        try:
            cohorts[name] = read_cohort(table.data, seed, keep_row_ids)
        except DataError as error:
            raise DataError(f"tables.{name}: {error}") from None
    frame = pl.concat(
        pooled_rows(name, cohort.frame, tables[name].data, pooled, keep_row_ids) for name, cohort in cohorts.items()
    )
    ignored = [f"{name}.{column}" for name, one in cohorts.items() for column in one.notes.columns_ignored]
    outside = {
        f"{name}.{column}": count
        for name, one in cohorts.items()
        for column, count in (one.notes.values_out_of_range or {}).items()
    }
    missing = {name: frame[name].null_count() for name in pooled.features}
    notes = Notes(columns_ignored=ignored, missing=missing, values_out_of_range=outside)
    return Pool(Cohort(frame, _flow(cohorts), notes, None, dict(pooled.columns)), cohorts)


@dataclass(frozen=True)
class InTwo:
    """Patients who stand in two tables."""

    text: str
    """How many, in words."""
    pairs: NDArray[np.int64]
    """(pairs, 2) row numbers in the pool."""


def in_two_tables(pool: Pool, tables: Mapping[str, TableConfig]) -> list[InTwo]:
    """Of every two tables the patients who stand in both, where there are more than chance
    explains."""
    sizes = [cohort.frame.height for cohort in pool.tables.values()]
    first_row = dict(zip(pool.tables, np.cumsum([0, *sizes]), strict=False))
    found = []
    for (first, one), (second, other) in combinations(pool.tables.items(), 2):
        same = in_common(tables[first].data, tables[second].data)
        both = in_both(one, other, shared_columns(one, other, same))
        if both.found:
            text = both.text(first, second, one.frame.height)
            found.append(InTwo(text, both.pairs + np.array([first_row[first], first_row[second]])))
    return found


def strangers(tables: Mapping[str, TableConfig], held: Collection[str]) -> list[str]:
    """Held-out tables that have no quantity in common with those that train."""
    names = {key: set(quantities(table.data)) for key, table in tables.items()}
    known = set().union(*(own for key, own in names.items() if key not in held))
    return [key for key, own in names.items() if key in held and not own & known]


def units_missing(tables: Mapping[str, TableConfig]) -> list[str]:
    """Numbers that have a unit in one table and none in the first table with that quantity, or the
    other way round: they are pooled as they stand."""
    owners: dict[str, tuple[str, str]] = {}
    found = []
    for key, table in tables.items():
        for quantity, name in quantities(table.data).items():
            pair = [owners.setdefault(quantity, (key, name)), (key, name)]
            units = {f"tables.{t}.data.columns.{own}": tables[t].data.columns[own].unit for t, own in pair}
            bare, told = ([where for where, unit in units.items() if bool(unit) == has] for has in (False, True))
            if table.data.columns[name].is_number and bare and told:
                found.append(
                    f"{bare[0]} has no unit, and {told[0]}, the same quantity ({quantity}), is in {units[told[0]]}: models on "
                    f"columns read the values of both as they stand, unconverted; write {bare[0]}.unit, or give it another "
                    "same_as where it is not that quantity"
                )
    return found


def _flow(cohorts: Mapping[str, Cohort]) -> list[Step]:
    """Exclusions of all tables, in order, from all their rows."""
    left = sum(int(cohort.flow[0].left) for cohort in cohorts.values())
    flow = [Step("rows in the tables", 0, left)]
    for name, cohort in cohorts.items():
        for step in cohort.flow[1:]:
            left -= int(step.excluded)
            flow.append(Step(f"{name}: {step.step}", step.excluded, left))
    return flow


def pooled_rows(
    table: str, frame: pl.DataFrame, data: DataConfig, pooled: DataConfig, keep_row_ids: bool = False
) -> pl.DataFrame:
    """Rows of a table, typed by its own dictionary, under the pooled one; what it does not have is
    missing. A patient is of one table; a row of which the table does not say whose it is, is its
    own."""
    own = quantities(data)
    ids = f"{table} " + frame[ROW_ID] if keep_row_ids else frame[ROW_ID]
    columns = [pl.repeat(table, frame.height, dtype=pl.String, eager=True).alias(TABLE)]
    if PATIENT in pooled.columns:
        alone = f"{table} row " + frame[ROW_ID]
        group = data.name_of("group")
        whose = alone if group is None else (f"{table} " + frame[group].cast(pl.String)).fill_null(alone)
        columns.append(whose.alias(PATIENT))
    for name in pooled.features:
        first = pooled.columns[name]
        if name in own:
            columns.append(
                _brought(frame[own[name]], data.columns[own[name]], name, first, f"{table}.{own[name]}").alias(name)
            )
        else:
            columns.append(pl.Series(name, [None] * frame.height, dtype_of(first)))
    outcome = frame[EVENT].cast(pl.String).alias(OUTCOME)
    return pl.DataFrame([*columns, outcome, ids.alias(ROW_ID), frame[EVENT]])


def _brought(values: pl.Series, own: Column, name: str, first: Column, where: str) -> pl.Series:
    """Values in the units and codes of the first table's column, of the quantity `name`."""
    if own.is_number:
        try:
            straight = line_between(values.name, own, name, first)
        except DataError as error:
            raise DataError(f"tables.{where}: {error}; mend its unit or same_as") from None
        return values if straight == Line(1.0) else values * straight.factor + straight.offset
    if own.is_coded and (codes := codes_in(own, first)):
        known = {code: theirs for code, theirs in codes.items() if theirs is not None}
        return values.replace_strict(list(known), list(known.values()), default=None, return_dtype=pl.String)
    return values
