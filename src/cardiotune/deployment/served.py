"""One loaded model with all that depends on it: its rows, its queue, what is said about it.
Reloading replaces it whole."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from cardiotune.data.cohort import needed_columns
from cardiotune.deployment.batching import Batcher, BatchSettings
from cardiotune.deployment.card import describe
from cardiotune.deployment.rows import Row, rows_model
from cardiotune.deployment.scorer import RowScorer


def _is_none(value: object) -> bool:
    return value is None


class Prediction(BaseModel):
    """One row's answer."""

    probability: float
    """Calibrated risk of the outcome; a value out of range counts as not recorded in it."""
    decision: int | None
    """1 at or above the threshold, 0 below it; null when the answer abstains."""
    threshold: float
    abstain: bool
    """True when a value is out of the range in which the model has been tried, or when none or too
    few are recorded."""
    out_of_range: list[str]
    """Columns whose value is out of range."""
    not_recorded: list[str]
    columns_known: int | None = Field(None, exclude_if=_is_none)
    """Values recorded of quantities that training had. This and the next two only where a
    dictionary was given by `--dataset`."""
    columns_unseen: int | None = Field(None, exclude_if=_is_none)
    """Values recorded that training never had, read by their description alone."""
    columns_absent: int | None = Field(None, exclude_if=_is_none)
    """Quantities of training that the dictionary has no column for."""


class Served:
    """A model at work. Scores in one thread of its own until it is closed."""

    def __init__(
        self,
        scorer: RowScorer,
        folder: Path,
        most_rows: int,
        batches: BatchSettings,
        on_batch: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        self.scorer, self.data = scorer, scorer.config.data
        self.rows = rows_model(self.data, most_rows)
        self.description = describe(scorer, folder)
        self.explains = self.data.name_of("text") is None
        self._columns = needed_columns(self.data, target_needed=False)
        self._predictions: Batcher[Row, Prediction] = Batcher(self._predict, batches, on_batch)
        one_by_one = BatchSettings(rows=1, wait_seconds=0, queue_rows=32)
        self._explanations: Batcher[Row, dict[str, Any]] = Batcher(self._explain, one_by_one)

    @property
    def waiting(self) -> int:
        """Rows that nobody has begun to score."""
        return self._predictions.waiting

    def predict(self, rows: list[Row]) -> "Future[list[Prediction]]":
        """An answer for each row. Raises QueueFullError when too many wait."""
        return self._predictions.submit(rows)

    def explain(self, row: Row) -> "Future[list[dict[str, Any]]]":
        """What the risk of one row rests on; the list holds one entry. Raises QueueFullError when
        too many wait."""
        return self._explanations.submit([row])

    def close(self) -> None:
        """Come back when all that was accepted is answered."""
        self._predictions.close()
        self._explanations.close()

    def _predict(self, rows: list[Row]) -> list[Prediction]:
        checked = self.scorer.check_and_score(rows)
        threshold = self.scorer.threshold
        answers = []
        counts = checked.counts.to_dicts() if self.scorer.reading.other else [{}] * len(rows)
        for found, risk, too_little, counted in zip(
            checked.problems, checked.risks, checked.abstains, counts, strict=True
        ):
            missing = [problem.column for problem in found if problem.kind == "missing"]
            outside = [problem.column for problem in found if problem.kind != "missing"]
            abstain = bool(outside) or len(missing) == len(self._columns) or bool(too_little)
            answers.append(
                Prediction(
                    probability=float(risk),
                    decision=None if abstain else int(risk >= threshold),
                    threshold=threshold,
                    abstain=abstain,
                    out_of_range=outside,
                    not_recorded=missing,
                    **counted,
                )
            )
        return answers

    def _explain(self, rows: list[Row]) -> list[dict[str, Any]]:
        return [self.scorer.leave_one_field_out([row]) for row in rows]
