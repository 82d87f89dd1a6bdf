"""The predictions of a folder, judged with what the table tells of its rows."""

from dataclasses import replace
from typing import Any

import polars as pl

from cardiotune.data import schema
from cardiotune.data.cohort import ROW_ID, STATUS, TIME
from cardiotune.data.prepare import Prepared
from cardiotune.data.small_counts import told_events
from cardiotune.data.split import PARTS
from cardiotune.data.ukb.followup import horizon_days
from cardiotune.errors import DataError
from cardiotune.evaluation.evaluate import FromTable, Thresholds, evaluate_predictions
from cardiotune.evaluation.sample_size import Developed
from cardiotune.evaluation.subgroups import subgroups
from cardiotune.evaluation.survival import Followed
from cardiotune.evaluation.table1 import told_beside
from cardiotune.files import write_json
from cardiotune.models.baselines import parameters
from cardiotune.models.labelled import LabelledRows
from cardiotune.models.predictions import read_repeats
from cardiotune.runs import RunFolder
from cardiotune.settings import Config


def judge(
    config: Config, folder: RunFolder, table: FromTable | None = None, thresholds: Thresholds | None = None
) -> dict[str, Any]:
    """Metrics of the predictions in a folder, written beside them; the content of `metrics.json`.

    `table` as `of_run` or `of_rows` make it. DataError when weights are asked for and the
    predictions have none.
    """
    settings = config.evaluation
    rows = read_repeats(folder)
    if _weighted(config) and not all(row.weighted for row in rows):
        raise DataError(
            f"{folder.predictions}: without the weights of censoring; make it anew with `cardiotune predict`"
        )
    stratified = settings.bootstrap_method == "stratified"
    table = table or FromTable(horizon_days=horizon_days(config.data.ukb))
    table = replace(table, margin=settings.margin)
    if any(row.table for row in rows):
        table = replace(table, held_out=config.test_tables)
    result = evaluate_predictions(rows, settings.bootstrap, config.seed, stratified, thresholds, table)
    write_json(folder.metrics, result)
    return result


def of_run(config: Config, prepared: Prepared) -> FromTable:
    """Subgroups, patients and follow-up of a run's own rows, the censored included; subgroups are
    withheld with regard to Table 1 too."""
    frame, censored = prepared.cohort.frame, prepared.cohort.censored
    told = told_beside(prepared, config.data, config.evaluation.subgroups)
    return replace(of_rows(config, frame, censored), told=told, developed=_developed(config, prepared))


def _developed(config: Config, prepared: Prepared) -> Developed:
    """Without events where those of any part are few: the others and their sum would tell them."""
    events, parts = prepared.cohort.events, prepared.parts
    happened = {part: told_events(int((parts == part).sum()), int(events[parts == part].sum())) for part in PARTS}
    rows = LabelledRows(prepared.cohort.frame, events, parts, config.data, config.seed)
    told = None if None in happened.values() else happened["train"]
    return Developed(len(prepared.rows("train")), told, parameters(rows))


def of_rows(config: Config, frame: pl.DataFrame, censored: pl.DataFrame | None = None) -> FromTable:
    """Subgroups, patients and follow-up of any rows. `censored`: further ones, of unknown
    outcome."""
    data, settings = config.data, config.evaluation
    patient, site = data.name_of("group"), data.name_of("site")
    everyone = frame if censored is None else pl.concat([frame, censored])
    times = everyone.filter(pl.col(TIME).is_not_null()).select(ROW_ID, TIME, STATUS) if _weighted(config) else None
    return FromTable(
        subgroups=subgroups(frame, data, settings.subgroups, settings.age_bands),
        clusters=dict(zip(everyone[ROW_ID], everyone[patient].cast(pl.String), strict=True)) if patient else None,
        followed=None if times is None else {row_id: Followed(*followed) for row_id, *followed in times.iter_rows()},
        horizon_days=horizon_days(data.ukb),
        site=schema.label(site, data.columns[site]) if site else None,
    )


def _weighted(config: Config) -> bool:
    return config.data.format == "ukb" and config.data.ukb.censored == "ipcw"
