"""The parity gate: an export must give its run's probabilities, or it is no export."""

from typing import Any

import numpy as np
import polars as pl

from cardiotune.data.schema import synthetic_rows
from cardiotune.deployment.record import BothJudged, Parity
from cardiotune.deployment.scorer import RowScorer, Scored
from cardiotune.errors import ModelError
from cardiotune.evaluation import metrics

SYNTHETIC_ROWS = 64
SEED = 11
TOLERANCE = {"merged": 1e-4, "onnx": 1e-4, "f32": 1e-4, "f16": 5e-3, "q8_0": 0.02, "q4_k_m": 0.1}
"""Largest difference in probability that a format may make. float32 formats compute the same sum in
another order; the others round the weights to 16, about 8.5 and about 4.8 bits. Whoever takes a
q4_k_m should look at its AUROC and Brier score."""


def gate(run: RowScorer, export: RowScorer, kind: str, test: pl.DataFrame | None, events: Any = None) -> Parity:
    """Score the same rows with both: rows drawn from the dictionary and, where the run has it at
    hand, its test part.

    test: typed rows; events: (rows,) of 0 and 1. Raises ModelError when a difference in
    probability, final or raw, is over the format's tolerance.
    """
    tolerance = TOLERANCE[kind]
    frame = synthetic_rows(run.config.data, SYNTHETIC_ROWS, SEED)
    pairs = [(run.score(frame), export.score(frame))]
    if test is not None:
        pairs.append((run.score(test), export.score(test)))
    differences = np.concatenate([_apart(*pair) for pair in pairs])
    judged = None
    if test is not None:
        y_true, (by_run, by_export) = np.asarray(events, float), pairs[1]
        auroc, brier = (
            (_finite(metric(y_true, by_run.final)), _finite(metric(y_true, by_export.final)))
            for metric in (metrics.auroc, metrics.brier)
        )
        judged = BothJudged(len(y_true), auroc, brier)
    found = Parity(tolerance, SYNTHETIC_ROWS, float(differences.max()), float(differences.mean()), judged)
    if not found.max_difference <= tolerance:
        raise ModelError(
            f"parity: the export differs from its run by up to {found.max_difference:.2g} in probability (mean "
            f"{found.mean_difference:.2g}); {kind} may by {tolerance:g}. It is refused"
        )
    return found


def _finite(value: Any) -> float | None:
    """A metric, or None where the rows do not define it."""
    number = float(np.asarray(value).item())
    return number if np.isfinite(number) else None


def _apart(one: Scored, other: Scored) -> Any:
    """(rows,) the larger of the differences in final and raw probability; NaN is never small
    enough."""
    return np.maximum(np.abs(one.final - other.final), np.abs(one.raw - other.raw))


def as_text(value: float | None) -> str:
    """A metric with four decimals."""
    return "not defined" if value is None else f"{value:.4f}"


def in_words(kind: str, found: Parity) -> str:
    """The gate's numbers, for the model card."""
    lines = [
        "## Parity with the run that it was exported from",
        "",
        f"Format {kind}; the same rows scored by the run and by the files here. Allowed difference in probability: "
        f"{found.tolerance:g}.",
        "",
        "| rows | largest difference | mean difference |",
        "|---|--:|--:|",
        f"| {found.n_synthetic} synthetic{' and the test part' if found.test else ''} | "
        f"{found.max_difference:.2g} | {found.mean_difference:.2g} |",
        "",
    ]
    if test := found.test:
        lines += [
            f"| test part, {test.n} rows | run | export |",
            "|---|--:|--:|",
            *(
                f"| {name} | {' | '.join(as_text(value) for value in values)} |"
                for name, values in (("AUROC", test.auroc), ("Brier score", test.brier))
            ),
            "",
        ]
    return "\n".join(lines)
