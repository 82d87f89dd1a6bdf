"""An export -> the table that the data dictionary describes, with the outcome, follow-up, and who
leaves and why."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from cardiotune.data.counts import FollowUp, Kinship, UkbNotes, Withdrawals
from cardiotune.data.ukb import followup
from cardiotune.data.ukb.endpoints import absent_sources, first_records, parse_date, read_endpoint
from cardiotune.data.ukb.fields import check_showcase, fields
from cardiotune.data.ukb.people import families, read_kinship, read_withdrawals
from cardiotune.data.ukb.predictors import extra_fields, make_columns, needed_fields, of_centre
from cardiotune.data.ukb.read import EID, KINSHIP, SHOWCASE, WITHDRAWALS, Export, companion, open_export
from cardiotune.errors import DataError
from cardiotune.settings import DataConfig, UkbConfig

log = logging.getLogger(__name__)

VISIT_DATE, CENTRE, LOST_DATE = 53, 54, 191
ID_COLUMN, FAMILY, VISIT = "eid", "family", "visit_date"
"""Columns of the dictionary that are neither predictors nor the target."""
WITHDREW = "withdrew consent"
INCOMPLETE = "not in every file of the export"


@dataclass(frozen=True)
class Built:
    """A row a participant, in the export's order."""

    cells: pl.DataFrame
    """The dictionary's columns, derived ones not yet made."""
    follow: pl.DataFrame
    """`label`, `time`, `status`, `weight`, `left`, as `followup.follow`; all null when the outcome
    was not asked for."""
    steps: tuple[str, ...]
    """Reasons to leave, in order."""
    notes: UkbNotes
    key: bytes
    """A digest of all participants: the same for the same people in any style of export, and secret
    as their list is."""


def build(path: Path, data: DataConfig, target_needed: bool = True) -> Built:
    """Read what the dictionary and the endpoint need.

    With `target_needed: False` (a table to be scored) an export without records is fine. DataError
    when fields are missing, and for what `open_export`, `make_columns` and `first_records` refuse.
    """
    settings = data.ukb
    export = open_export(path)
    showcase = _given(settings.showcase) or _in_folder(path, SHOWCASE)
    checked = check_showcase(showcase) if showcase else None
    target = data.name_of("target")
    own = {ID_COLUMN, FAMILY, VISIT, target}
    names = [n for n, c in data.columns.items() if not c.derive and c.role != "ignore" and n not in own]
    names += [n for n, c in data.columns.items() if c.role == "ignore" and n not in own and _is_input(n, data)]
    needed = needed_fields(data, names)
    _check_present(export, needed, target_needed)
    raw = export.baseline({*needed, *extra_fields(data, names), VISIT_DATE, CENTRE, LOST_DATE})
    cells = make_columns(raw, data, names)
    visit = raw.select(parse_date(pl.col(str(VISIT_DATE)))).to_series()
    family, kinship = _family(export, settings)
    extra = {ID_COLUMN: raw[EID], VISIT: visit, FAMILY: family}
    cells = cells.with_columns(s.alias(n) for n, s in extra.items() if n in data.columns)
    gone, withdrawals = _gone(export, settings)
    follow, endpoint, until = _follow(export, raw.with_columns(gone), visit, settings, target_needed)
    if target:
        cells = cells.with_columns(follow["label"].alias(target))
    cells = cells.select(name for name in data.columns if name in cells.columns)
    steps = (WITHDREW, INCOMPLETE, *followup.STEPS)
    files = [table.file.name for table in export.tables]
    notes = UkbNotes(export.ignored, files, checked, kinship, withdrawals, endpoint, until)
    return Built(cells, follow, steps, notes, _key(raw[EID], visit))


def _check_present(export: Export, needed: dict[int, list[str]], target_needed: bool) -> None:
    every = {**needed, VISIT_DATE: ["the baseline"], **({CENTRE: ["the nation"]} if target_needed else {})}
    absent = {number: users for number, users in every.items() if not export.places(number)}
    if absent:
        named = "; ".join(f"{n} ({fields()[n].title}) for {', '.join(users)}" for n, users in sorted(absent.items()))
        raise DataError(
            f"{export.path}: fields that are not in the export: {named}; add them, or give the columns role ignore"
        )


def _is_input(name: str, data: DataConfig) -> bool:
    return any(column.derive and name in column.derive.inputs for column in data.columns.values())


def _follow(
    export: Export, raw: pl.DataFrame, visit: pl.Series, settings: UkbConfig, needed: bool
) -> tuple[pl.DataFrame, dict[str, Any] | None, FollowUp | None]:
    """Outcome and follow-up of the participants; the definition of the outcome, and how long
    records run."""
    try:
        endpoint = read_endpoint(settings.endpoint)
        absent = absent_sources(export, endpoint)
    except DataError as error:
        if needed:
            raise
        log.info("no outcome: %s", error)
        kinds = {"label": pl.Int32, "time": pl.Int64, "status": pl.Int32, "weight": pl.Float64}
        empty = {name: pl.repeat(None, raw.height, dtype=kind, eager=True) for name, kind in kinds.items()}
        return pl.DataFrame({**empty, "left": raw["gone"]}), None, None
    if absent:
        log.warning(
            "endpoint %s: the export lacks %s; cases that only these show are missed", settings.endpoint, absent
        )
    people = first_records(export, endpoint)
    nation = raw.select(of_centre("nation")).to_series() if str(CENTRE) in raw.columns else None
    lost = raw.select(parse_date(pl.col(str(LOST_DATE)))).to_series() if str(LOST_DATE) in raw.columns else None
    people = people.with_columns(
        visit=visit, nation=pl.lit(nation, pl.String), lost=pl.lit(lost, pl.Date), gone=raw["gone"]
    )
    until = {nation: str(day) for nation, day in followup.censoring_dates(settings).items()}
    defined = {"name": settings.endpoint, **endpoint.model_dump(mode="json"), "sources_absent": absent}
    followed = FollowUp(followup.horizon_days(settings), until, lost is not None)
    return followup.follow(people, settings), defined, followed


def _gone(export: Export, settings: UkbConfig) -> tuple[pl.Series, Withdrawals]:
    """(participants,) the reason of those who are no part of the cohort whatever their outcome; and
    the list that says so."""
    file = _given(settings.withdrawals) or companion(export.path, WITHDRAWALS)
    withdrawn = read_withdrawals(file) if file else pl.Series(EID, [], pl.String)
    if file is None:
        log.warning(
            "no list of withdrawals: give the newest in data.ukb.withdrawals, or put it into the export's folder"
        )
    left = pl.DataFrame({EID: export.eids}).select(
        pl.when(pl.col(EID).is_in(withdrawn.implode()))
        .then(pl.lit(WITHDREW))
        .when(pl.col(EID).is_in(export.incomplete.implode()))
        .then(pl.lit(INCOMPLETE))
        .alias("gone")
    )
    return left.to_series(), Withdrawals(file.name if file else None, len(withdrawn))


def _family(export: Export, settings: UkbConfig) -> tuple[pl.Series, Kinship | None]:
    """(participants,) who is kept together in a split; everybody alone without a kinship file."""
    file = _given(settings.kinship) or companion(export.path, KINSHIP)
    if file is None:
        log.info("no kinship file: relatives may fall in different parts; give it in data.ukb.kinship")
        return export.eids, None
    pairs = read_kinship(file)
    return families(export.eids, pairs), Kinship(file.name, pairs.height)


def _given(path: str | None) -> Path | None:
    if path is None:
        return None
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"data.ukb: {path}: no such file")
    return file


def _in_folder(path: Path, name: str) -> Path | None:
    file = path / name
    return file if file.is_file() else None


def _key(eids: pl.Series, visit: pl.Series) -> bytes:
    digest = hashlib.sha256(b"cardiotune ukb row id\n")
    digest.update(pl.DataFrame({"eid": eids, "visit": visit}).write_csv().encode())
    return digest.digest()
