"""`predictions.jsonl`: every comparator's risks in one form, judged by one code."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
from cardiotune.settings.tables import TABLE


@dataclass(frozen=True, slots=True)
class Prediction:
    """A line of `predictions.jsonl`: ids, part, model and numbers; never a patient's text or
    values."""

    row_id: str
    part: str
    model: str
    y_true: int | None
    """1 or 0; None where the outcome is not known."""
    y_prob: float
    y_prob_raw: float
    """The model's own, before anything that was added to its odds in training is taken out."""
    prediction: int | None
    """None for an answer in words that could not be parsed."""
    threshold: float
    weight: float | None = None
    """How much the row counts when it is judged; 0 for the censored, None for who is no part of a
    cohort."""
    cluster: int | None = None
    """A number that rows of one patient share, and that tells nothing else."""
    table: str | None = None
    """Whose row it is, where the experiment has several tables."""
    repeat: int | None = None
    """Of a cross-validation; None where rows were parted once."""
    fold: int | None = None
    """Of the repeat: whose models never saw the row."""
    weighted: bool = False
    """Whether the rows of its cohort have weights; not a key of its own in the file."""

    def as_json(self) -> dict[str, Any]:
        """The object of the line; `table`, `weight` and `cluster` where the cohort has them,
        `repeat` and `fold` of a cross-validation."""
        line = {name: getattr(self, name) for name in KEYS}
        line |= {} if self.table is None else {"table": self.table}
        line |= {"weight": self.weight} if self.weighted else {}
        line |= {} if self.cluster is None else {"cluster": self.cluster}
        return line | ({} if self.repeat is None else {"repeat": self.repeat, "fold": self.fold})

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> "Prediction":
        """Of the object of a line; KeyError where it lacks a key."""
        weight, cluster = line.get("weight"), line.get("cluster")
        plain = {name: line[name] for name in KEYS} | {name: line.get(name) for name in ("table", "repeat", "fold")}
        return cls(**plain, weight=weight, cluster=cluster, weighted="weight" in line)


KEYS = ("row_id", "part", "model", "y_true", "y_prob", "y_prob_raw", "prediction", "threshold")
"""Of every line."""


def prediction_rows(  # an argument a key of the file
    model: str,
    row_ids: Iterable[str],
    parts: Iterable[str],
    events: Iterable[int | None],
    risks: NDArray[np.float64],
    raw_risks: NDArray[np.float64],
    threshold: float,
    weights: Iterable[float | None] | None = None,
    clusters: Iterable[int] | None = None,
) -> list[Prediction]:
    """The lines of one model. `weights` where the rows of a cohort have some, `clusters` where rows
    are of one patient. ModelError for risks that are no probabilities."""
    in_range(risks, model), in_range(raw_risks, model)
    none = [None] * len(risks)
    counted, grouped = none if weights is None else weights, none if clusters is None else clusters
    given = zip(row_ids, parts, events, risks, raw_risks, counted, grouped, strict=True)
    return [
        Prediction(
            row_id,
            part,
            model,
            y_true=None if event is None else int(event),
            y_prob=float(risk),
            y_prob_raw=float(raw),
            prediction=None if model in IN_WORDS and risk not in (0, 1) else int(risk >= threshold),
            threshold=threshold,
            weight=weight,
            cluster=None if cluster is None else int(cluster),
            weighted=weights is not None,
        )
        for row_id, part, event, risk, raw, weight, cluster in given
    ]


def frame_rows(
    model: str,
    frame: pl.DataFrame,
    parts: Iterable[str],
    risks: NDArray[np.float64],
    raw_risks: NDArray[np.float64],
    config: Config,
) -> list[Prediction]:
    """`prediction_rows` of a cohort's rows: who they are, what happened, and how much each
    counts."""
    lines = prediction_rows(
        model,
        frame[ROW_ID],
        parts,
        frame[EVENT],
        risks,
        raw_risks,
        config.task.flagged_at,
        weights_of(frame),
        cluster_numbers(frame, config.data),
    )
    if not config.tables:
        return lines
    return [replace(line, table=table) for line, table in zip(lines, frame[TABLE], strict=True)]


def write_predictions(file: Path, rows: Iterable[Prediction]) -> None:
    """`predictions.jsonl`, whole or not at all."""
    with atomic(file) as temporary, temporary.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row.as_json(), allow_nan=False) + "\n")


def read_predictions(run: RunFolder) -> list[Prediction]:
    """The rows of `predictions.jsonl`, of a cross-validation those of its first repeat, so that
    every row stands once; errors as `read_repeats`."""
    return [row for row in read_repeats(run) if row.repeat in (None, 1)]


def read_repeats(run: RunFolder) -> list[Prediction]:
    """The rows of `predictions.jsonl`, of a cross-validation those of all repeats; DataError when
    there is none, ModelError when they are not what was written."""
    if not run.predictions.is_file():
        raise DataError(f"{run.predictions}: no predictions yet; make them with `cardiotune predict {run.path}`")
    try:
        with run.checked(run.predictions).open(encoding="utf-8") as file:
            rows = [Prediction.from_json(json.loads(line)) for line in file]
        for name in ("y_prob", "y_prob_raw"):
            given = [getattr(row, name) for row in rows]
            risks = [risk if type(risk) in (int, float) else np.nan for risk in given]  # NumPy reads text too
            in_range(np.array(risks, float), f"{run.predictions}: {name}")
        return rows
    except (ValueError, KeyError, TypeError, AttributeError):
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


def outcomes(frame: pl.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """(rows,) the event, NaN where unknown, and how much each row counts; None when all count the
    same."""
    events = frame[EVENT].cast(pl.Float64).fill_null(np.nan).to_numpy()
    return events, frame[WEIGHT].cast(pl.Float64).fill_null(0).to_numpy() if WEIGHT in frame.columns else None


def weights_of(frame: pl.DataFrame) -> list[float | None] | None:
    """How much each row counts when it is judged; None when all count the same."""
    return frame[WEIGHT].to_list() if WEIGHT in frame.columns else None
