"""What a hospital could do whose table was never harmonised: models on columns of a held-out table,
by matched columns or by its own rows alone."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.data.matching import Matching
from cardiotune.data.prepare import Source
from cardiotune.models.baselines import Array, Baseline, prevalence_because
from cardiotune.models.labelled import LabelledRows, folds, groups_of
from cardiotune.settings import DataConfig


def matched(model: Baseline, rows: LabelledRows, sources: Sequence[Source], matchings: Mapping[str, Matching]) -> Array:
    """(rows,) risks; matchings: of the held-out tables, by name.

    For each of them the model is fitted anew on the training rows, with the columns that were found
    in it and no other. Rows of the other tables are rows of tables that have been harmonised: those
    of the test part have the risks of a model with every column, and all others, on which
    thresholds are fixed, the mean of the models of the held-out tables.
    """
    fitted = []
    risks = np.full(len(rows.parts), np.nan)
    for source in sources:
        if not (matching := matchings.get(source.name)):
            continue
        frame = _with(rows.frame, source, matching.brought(source, rows.data, rows.frame[source.rows]))
        data = _only(rows.data, matching.quantities)
        fitted.append(model(LabelledRows(frame, rows.events, rows.parts, data, rows.seed)))
        risks[source.rows] = fitted[-1][source.rows]
    if not fitted:  # all tables are harmonised
        return model(rows)
    others = np.isnan(risks)
    risks[others] = np.mean(fitted, axis=0)[others]
    if (judged := others & (rows.parts == "test")).any():
        risks[judged] = model(rows)[judged]
    return risks


def _with(frame: pl.DataFrame, source: Source, brought: pl.DataFrame) -> pl.DataFrame:
    """The frame with other values in the rows of a table, which stand together."""
    first, last = int(source.rows[0]), int(source.rows[-1]) + 1
    return pl.concat([frame[:first], brought, frame[last:]])


def _only(data: DataConfig, features: Sequence[str]) -> DataConfig:
    """The dictionary without its other features."""
    kept = {name: c for name, c in data.columns.items() if c.role != "feature" or name in features}
    return data.model_copy(update={"columns": kept})


def local(model: Baseline, rows: LabelledRows, sources: Sequence[Source], held_out: Sequence[str]) -> Array:
    """(rows,) risks of each table's rows by models of its own rows and columns alone.

    A held-out table by cross-validation: each row's risk is of a model that has not seen it, nor
    others of its group. Others as their parts are.
    """
    risks = np.full(len(rows.parts), np.nan)
    for source in sources:
        events, parts = rows.events[source.rows], rows.parts[source.rows]
        if source.name not in held_out:
            risks[source.rows] = _fitted(model, source, events, parts, rows)
            continue
        groups = groups_of(source.frame, source.data, np.arange(len(events)))
        for others, held in folds(events, groups, rows.seed):
            parted = np.full(len(events), "test", dtype="<U10")
            parted[others] = "train"
            watched = folds(events[others], None if groups is None else groups[others], rows.seed)[0][1]
            if 0 < len(watched) < len(others):
                parted[others[watched]] = "validation"
            risks[source.rows[held]] = _fitted(model, source, events, parted, rows)[held]
    return risks


def _fitted(
    model: Baseline, source: Source, events: NDArray[np.int_], parts: NDArray[np.str_], everything: LabelledRows
) -> Array:
    """Risks of a table's rows by its own training part; the prevalence of all tables where that has
    one outcome alone."""
    if len(np.unique(events[parts == "train"])) < 2:
        reason = f"table {source.name} has too few rows with one of the outcomes for a model of its own"
        return prevalence_because(reason, everything).risks(source.frame)
    return model(LabelledRows(source.frame, events, parts, source.data, everything.seed))
