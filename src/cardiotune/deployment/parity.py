"""The parity gate: an export must give its run's probabilities, or it is no export."""

from typing import Any

import numpy as np
import polars as pl

from cardiotune.data.schema import synthetic_rows
from cardiotune.deployment.scorer import RowScorer, Scored
from cardiotune.errors import ModelError
from cardiotune.evaluation import metrics

SYNTHETIC_ROWS = 64
SEED = 11
TOLERANCE = {"merged": 1e-4, "onnx": 1e-4, "f32": 1e-4, "f16": 5e-3, "q8_0": 0.02, "q4_k_m": 0.1}
"""Largest difference in probability that a format may make. float32 formats compute the same sum in
another order; the others round the weights to 16, about 8.5 and about 4.8 bits. Whoever takes a
q4_k_m should look at its AUROC and Brier score."""


def gate(run: RowScorer, export: RowScorer, kind: str, test: pl.DataFrame | None, events: Any = None) -> dict[str, Any]:
    """Score the same rows with both: rows drawn from the dictionary and, where the run has it at
    hand, its test part.

    test: typed rows; events: (rows,) of 0 and 1. Returns `{"tolerance", "n_synthetic",
    "max_difference", "mean_difference"}` of all rows and, with a test part, `{"test": {"n",
    "auroc": [run, export], "brier": [run, export]}}`. Raises ModelError when a difference in
    probability, final or raw, is over the format's tolerance.
    """
    tolerance = TOLERANCE[kind]
    frame = synthetic_rows(run.config.data, SYNTHETIC_ROWS, SEED)
    pairs = [(run.score(frame), export.score(frame))]
    if test is not None:
        pairs.append((run.score(test), export.score(test)))
    differences = np.concatenate([_apart(*pair) for pair in pairs])
    found: dict[str, Any] = {
        "tolerance": tolerance,
        "n_synthetic": SYNTHETIC_ROWS,
        "max_difference": float(differences.max()),
        "mean_difference": float(differences.mean()),
    }
    if test is not None:
        y_true = np.asarray(events, float)
        found["test"] = {
            "n": len(y_true),
            **{
                name: [_finite(metric(y_true, scored.final)) for scored in pairs[1]]
                for name, metric in (("auroc", metrics.auroc), ("brier", metrics.brier))
            },
        }
    if not found["max_difference"] <= tolerance:
        raise ModelError(
            f"parity: the export differs from its run by up to {found['max_difference']:.2g} in probability (mean "
            f"{found['mean_difference']:.2g}); {kind} may by {tolerance:g}. It is refused"
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


def in_words(kind: str, found: dict[str, Any]) -> str:
    """The gate's numbers, for the model card."""
    lines = [
        "## Parity with the run that it was exported from",
        "",
        f"Format {kind}; the same rows scored by the run and by the files here. Allowed difference in probability: "
        f"{found['tolerance']:g}.",
        "",
        "| rows | largest difference | mean difference |",
        "|---|--:|--:|",
        f"| {found['n_synthetic']} synthetic{' and the test part' if 'test' in found else ''} | "
        f"{found['max_difference']:.2g} | {found['mean_difference']:.2g} |",
        "",
    ]
    if test := found.get("test"):
        lines += [
            f"| test part, {test['n']} rows | run | export |",
            "|---|--:|--:|",
            *(
                f"| {name} | {' | '.join(as_text(value) for value in test[key])} |"
                for name, key in (("AUROC", "auroc"), ("Brier score", "brier"))
            ),
            "",
        ]
    return "\n".join(lines)
