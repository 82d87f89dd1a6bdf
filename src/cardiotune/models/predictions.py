"""`predictions.jsonl`: every comparator's risks in one form, judged by one code."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.comparators import IN_WORDS
from cardiotune.data.cohort import EVENT, ROW_ID, WEIGHT
from cardiotune.data.prepare import Prepared
from cardiotune.data.split import PARTS, Parts, cluster_numbers
from cardiotune.errors import DataError, ModelError
from cardiotune.files import atomic
from cardiotune.models.calibrate import in_range
from cardiotune.runs import RunFolder
from cardiotune.settings import Config


def prediction_rows(
    model: str,
    row_ids: Iterable[str],
    parts: Iterable[str],
    events: Iterable[int | None],
    risks: NDArray[np.float64],
    raw_risks: NDArray[np.float64],
    threshold: float,
    weights: Iterable[float | None] | None = None,
    clusters: Iterable[int] | None = None,
) -> list[dict[str, Any]]:
    """Objects of `predictions.jsonl`: ids, part, model and numbers; never a patient's text or
    values.

    raw_risks are the model's own, before anything that was added to its odds in training is taken
    out. `weights`, where the rows of a cohort have some, say how much each counts when it is
    judged; 0 for the censored, None for who is no part of a cohort. `clusters`: a number that rows
    of one patient share, and that tells nothing else. An answer in words that could not be parsed
    is no prediction: null.
    """
    in_range(risks, model), in_range(raw_risks, model)
    rows = [
        {
            "row_id": row_id,
            "part": part,
            "model": model,
            "y_true": None if event is None else int(event),
            "y_prob": float(risk),
            "y_prob_raw": float(raw),
            "prediction": None if model in IN_WORDS and risk not in (0, 1) else int(risk >= threshold),
            "threshold": threshold,
        }
        for row_id, part, event, risk, raw in zip(row_ids, parts, events, risks, raw_risks, strict=True)
    ]
    if weights is not None:
        rows = [{**row, "weight": weight} for row, weight in zip(rows, weights, strict=True)]
    if clusters is not None:
        rows = [{**row, "cluster": int(cluster)} for row, cluster in zip(rows, clusters, strict=True)]
    return rows


def frame_rows(
    model: str,
    frame: pl.DataFrame,
    parts: Iterable[str],
    risks: NDArray[np.float64],
    raw_risks: NDArray[np.float64],
    config: Config,
) -> list[dict[str, Any]]:
    """`prediction_rows` of a cohort's rows: who they are, what happened, and how much each
    counts."""
    return prediction_rows(
        model,
        frame[ROW_ID],
        parts,
        frame[EVENT],
        risks,
        raw_risks,
        config.task.threshold,
        weights_of(frame),
        cluster_numbers(frame, config.data),
    )


def write_predictions(file: Path, rows: list[dict[str, Any]]) -> None:
    """`predictions.jsonl`, whole or not at all."""
    with atomic(file) as temporary, temporary.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, allow_nan=False) + "\n")


def read_predictions(run: RunFolder) -> list[dict[str, Any]]:
    """The rows of `predictions.jsonl`; DataError when there is none, ModelError when they are not
    what was written."""
    if not run.predictions.is_file():
        raise DataError(f"{run.predictions}: no predictions yet; make them with `cardiotune predict {run.path}`")
    try:
        with run.checked(run.predictions).open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        for name in ("y_prob", "y_prob_raw"):
            risks = [row[name] if type(row[name]) in (int, float) else np.nan for row in rows]  # NumPy reads text too
            in_range(np.array(risks, float), f"{run.predictions}: {name}")
        return rows
    except (ValueError, KeyError, TypeError):
        raise ModelError(
            f"{run.predictions}: damaged; make the predictions anew with `cardiotune predict {run.path}`"
        ) from None


def rows_to_tell(prepared: Prepared, wanted: Sequence[str]) -> tuple[NDArray[np.int_], pl.DataFrame, Parts]:
    """Rows in these parts: their numbers, those of the censored behind all others; frame and parts
    of these rows."""
    frame, parts = prepared.cohort.frame, prepared.parts
    order = [prepared.rows(part) for part in PARTS if part in wanted]
    if others := prepared.censored:
        order.append(len(parts) + np.flatnonzero(np.isin(others.parts, wanted)))
        frame, parts = pl.concat([frame, others.frame]), np.concatenate([parts, others.parts])
    rows = np.concatenate(order)
    return rows, frame[rows], parts[rows]


def weights_of(frame: pl.DataFrame) -> list[float | None] | None:
    """How much each row counts when it is judged; None when all count the same."""
    return frame[WEIGHT].to_list() if WEIGHT in frame.columns else None
