"""`cardiotune init`: a first data dictionary and experiment for any table.

A table whose columns are those of a shipped dictionary gets that dictionary. For any other the types are read off the
cells. No cell value of a number column goes into a draft; of a category column, its codes do.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from cardiotune.config import Column, read_yaml, shipped, suggest
from cardiotune.data import schema
from cardiotune.data.table import locate, read_cells
from cardiotune.errors import ConfigError, DataError
from cardiotune.runs import write_text

ID_NAMES = re.compile(
    r"^(id|eid|pid|mrn|\w*_id|(patient|subject|person|row|record|participant)[ _-]?(id|no|nr|number|key)?)$",
    re.I,
)
MAX_CATEGORIES = 20
MAX_INTEGER_CATEGORIES = 3
"""An integer column with at most this many values is taken as categories."""
MIN_ROWS_A_CATEGORY = 5
"""A rarer code is not written into a draft: it could tell of a single patient."""


@dataclass(frozen=True)
class Draft:
    """What `init` wrote, and what it wants to say about it."""

    dataset: Path
    experiment: Path
    notes: list[str]


def draft(table: str, target: str, out: Path, positive: list[str] | None = None, outcome: str | None = None) -> Draft:
    """Write `dataset.yaml` and `experiment.yaml` into `out`. Existing files there are not touched (ConfigError)."""
    files = {name: out / f"{name}.yaml" for name in ("dataset", "experiment")}
    there = [str(file) for file in files.values() if file.exists()]
    if there:
        raise ConfigError(f"{', '.join(there)}: exists already; choose another --out, or delete it")
    file = locate(table)
    cells = read_cells(file)
    if target not in cells.columns:
        raise DataError(f"{file}: no column {target}; {suggest(target, cells.columns)}")
    if cells.width < 2:
        raise DataError(f"{file}: only one column was found; is the separator one of comma, semicolon, tab, bar?")
    known = _known_dictionary(cells.columns, target)
    columns, notes = _from_known(known, cells) if known and not positive else _from_cells(cells, target, positive)
    _check_target(file, cells[target], target, columns[target])
    write_text(files["dataset"], _dataset_yaml(file, columns))
    write_text(files["experiment"], _experiment_yaml(out, file, outcome or _outcome(known, target)))
    return Draft(files["dataset"], files["experiment"], notes)


def _known_dictionary(names: list[str], target: str) -> str | None:
    """The shipped dictionary that describes exactly these columns, if one does."""
    for name, file in shipped("datasets").items():
        columns = read_yaml(file)["data"]["columns"]
        stored = {column for column, entry in columns.items() if "derive" not in entry}
        if stored == set(names) and columns.get(target, {}).get("role") == "target":
            return name
    return None


def _from_known(name: str, cells: pl.DataFrame) -> tuple[dict[str, dict[str, Any]], list[str]]:
    columns: dict[str, dict[str, Any]] = read_yaml(shipped("datasets")[name])["data"]["columns"]
    notes = [f"the columns are those of {name}: its published dictionary is used (units, codes, plausible ranges)"]
    for column, entry in columns.items():
        if column in cells.columns and schema.parse(cells[column], Column.model_validate(entry))[0].is_null().all():
            columns[column] = {**entry, "role": "ignore"}
            notes.append(f"{column}: no value in any row, role ignore")
    return columns, notes


def _from_cells(
    cells: pl.DataFrame, target: str, positive: list[str] | None
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    columns: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for name in cells.columns:
        if name == target:
            columns[name] = {
                "role": "target",
                "type": "binary",
                **({"positive": positive} if positive else {}),
            }
            columns[name] |= {} if positive else _target_codes(cells[name])
            continue
        columns[name] = _guess(cells[name], name)
        if columns[name]["role"] != "feature":
            notes.append(f"{name}: role {columns[name]['role']}")
    return columns, notes


def _target_codes(cells: pl.Series) -> dict[str, Any]:
    """0/1 needs nothing; two words need to know which is the event, and yes/no-like pairs tell."""
    values = set(schema.parse(cells, Column(type="categorical"))[0].drop_nulls().unique())
    if values <= {"0", "1"}:
        return {"codes": {"0": "no", "1": "yes"}}
    for no, yes in (
        ("no", "yes"),
        ("n", "y"),
        ("false", "true"),
        ("absent", "present"),
        ("negative", "positive"),
    ):
        if {value.casefold() for value in values} == {no, yes}:
            return {"positive": [value for value in values if value.casefold() == yes]}
    return {}


def _guess(cells: pl.Series, name: str) -> dict[str, Any]:
    """Role and type of a column, from its name and cells."""
    text, _ = schema.parse(cells, Column(type="categorical"))
    present = text.drop_nulls()
    distinct = present.n_unique()
    if not len(present):
        return {"role": "ignore", "type": "text"}
    if ID_NAMES.match(name) and distinct == len(present):
        return {"role": "id", "type": "text"}
    numbers, unreadable = schema.parse(cells, Column(type="numeric"))
    if not unreadable:
        whole = bool((numbers.drop_nulls() == numbers.drop_nulls().round()).all())
        if set(present.unique()) <= {"0", "1"}:
            return {"role": "feature", "type": "binary", "codes": {"0": "no", "1": "yes"}}
        if whole and distinct <= MAX_INTEGER_CATEGORIES:
            return {"role": "feature", "type": "categorical"}
        return {"role": "feature", "type": "integer" if whole else "numeric"}
    if not schema.parse(cells, Column(type="date"))[1]:
        return {"role": "feature", "type": "date"}
    if distinct > MAX_CATEGORIES:
        return {"role": "feature", "type": "text"}
    counts = present.value_counts()
    codes = sorted(counts.filter(pl.col("count") >= MIN_ROWS_A_CATEGORY)[present.name])
    listed = len(codes) == distinct
    return {
        "role": "feature",
        "type": "categorical",
        **({"codes": {code: code for code in codes}} if listed else {}),
    }


def _check_target(file: Path, cells: pl.Series, target: str, entry: dict[str, Any]) -> None:
    """Two outcomes, or a rule that makes two of them."""
    values = schema.parse(cells, Column(type="categorical"))[0].drop_nulls()
    distinct = values.n_unique()
    if entry.get("positive"):
        events = int(values.is_in(entry["positive"]).sum())
        if events in (0, len(values)):
            raise DataError(
                f"{file}: with --positive {','.join(entry['positive'])} all rows of {target} have one outcome"
            )
        return
    if distinct < 2:
        raise DataError(f"{file}: target {target} has {distinct} different values; expected two outcomes")
    if distinct > 2 or not set(values.unique()) <= {"0", "1"}:
        raise DataError(
            f"{file}: target {target} has {distinct} different values, expected 0 and 1; "
            "say which values count as an event with --positive A,B"
        )


def _outcome(known: str | None, target: str) -> str:
    """The shipped dictionary's name for the outcome, or the column's name in words."""
    if known:
        return str(read_yaml(shipped("datasets")[known])["task"]["outcome"])
    return re.sub(r"[_\s]+", " ", target)


def _dataset_yaml(file: Path, columns: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# Data dictionary. Check every line: role, type, unit, plausible range, what each code means.",
        "# role: feature, target, id, group (patient with several rows), site, time, split, ignore",
        "# type: numeric, integer, binary, categorical, ordinal, date, text",
        "# also: unit: mmHg, range: [60, 260], codes: {1: woman, 2: man}, missing: ['-9'], phrase: blood pressure",
        "data:",
        f"  path: {_quoted(str(file.resolve()))}",
        "  columns:",
    ]
    for name, entry in columns.items():
        flow = yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True).strip()
        lines.append(f"    {_quoted(name)}: {flow}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return yaml.safe_dump(text, width=10_000, allow_unicode=True).removesuffix("...\n").strip()


def _experiment_yaml(out: Path, file: Path, outcome: str) -> str:
    stem = file.name.removesuffix(".gz").rsplit(".", 1)[0]
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._-") or "experiment"
    return f"""\
# Run it: cardiotune run {out / "experiment.yaml"}
# See what a prompt looks like first: cardiotune prepare {out / "experiment.yaml"} --show 3
name: {name[:100]}
use: {{model: gemma3-270m, dataset: ./dataset.yaml, method: lora}}
task:
  outcome: {_quoted(outcome)}
train: {{epochs: 3}}
"""
