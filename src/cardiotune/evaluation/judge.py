"""The predictions of a folder, judged with what the table tells of its rows."""

from typing import Any

import polars as pl

from cardiotune.data.cohort import EVENT, ROW_ID, STATUS, TIME
from cardiotune.data.split import Parts
from cardiotune.data.ukb.followup import horizon_days
from cardiotune.errors import DataError
from cardiotune.evaluation.censoring import Followed
from cardiotune.evaluation.evaluate import evaluate_predictions
from cardiotune.evaluation.subgroups import subgroups
from cardiotune.evaluation.table1 import told_beside
from cardiotune.files import write_json
from cardiotune.models.predictions import read_predictions
from cardiotune.runs import RunFolder
from cardiotune.settings import Config


def judge(
    config: Config,
    folder: RunFolder,
    frame: pl.DataFrame | None = None,
    thresholds: dict[str, Any] | None = None,
    parts: Parts | None = None,
    censored: pl.DataFrame | None = None,
) -> dict[str, Any]:
    """Metrics of the predictions in a folder, written beside them.

    `frame` tells the rows' subgroups, patients and follow-up; with its `parts`, subgroups are
    withheld with regard to Table 1 too. `censored`: further rows, of unknown outcome. DataError
    when weights are asked for and the predictions have none.
    """
    settings = config.evaluation
    rows = read_predictions(folder)
    weighted = config.data.format == "ukb" and config.data.ukb.censored == "ipcw"
    if weighted and not all("weight" in row for row in rows):
        raise DataError(
            f"{folder.predictions}: without the weights of censoring; make it anew with `cardiotune predict`"
        )
    groups = clusters = followed = None
    told = []
    if frame is not None:
        groups = subgroups(frame, config.data, settings.subgroups, settings.age_bands)
        if parts is not None:
            told = told_beside(frame, frame[EVENT].to_numpy(), parts, config.data, settings.subgroups)
        patient = config.data.name_of("group")
        everyone = frame if censored is None else pl.concat([frame, censored])
        clusters = dict(zip(everyone[ROW_ID], everyone[patient].cast(pl.String), strict=True)) if patient else None
        if weighted:
            times = everyone.filter(pl.col(TIME).is_not_null()).select(ROW_ID, TIME, STATUS)
            followed = {row_id: Followed(time, status) for row_id, time, status in times.iter_rows()}
    result = evaluate_predictions(
        rows,
        settings.bootstrap,
        config.seed,
        settings.bootstrap_method == "stratified",
        thresholds=thresholds,
        subgroups=groups,
        clusters=clusters,
        told=told,
        followed=followed,
        horizon_days=horizon_days(config.data.ukb),
    )
    write_json(folder.metrics, result)
    return result
