"""Rows that nobody was measured for: repeated rows of one outcome, and rows between two others."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.audit.findings import Checks, Finding, listed
from cardiotune.audit.table import FEW, Events, Table
from cardiotune.data.copies import Keys, exceeds, expected_pairs, pairs_of, total
from cardiotune.data.split import Parts, shared_between

CHECKS = Checks[Table]()


@CHECKS.add
def _oversampled(table: Table) -> list[Finding]:
    return oversampled(table.column_keys, table.events, table.parts)


def oversampled(columns: list[Keys], events: Events, parts: Parts | None = None) -> list[Finding]:
    """Rows of one outcome repeated: far more than chance explains, and far more often than those of
    the other outcome.

    Done before the split, it puts copies of test rows into training: on 4,240 Framingham rows it
    lifts a random forest from 0.68 to 0.99. Within the training part it is a choice, which only
    shifts the probabilities.
    """
    keys, found = total(columns), []
    repeated = {y: 1 - len(np.unique(keys[events == y])) / max(1, int((events == y).sum())) for y in (0, 1)}
    for outcome, called in ((1, "events"), (0, "non-events")):
        own = events == outcome
        pairs, expected = pairs_of(keys[own]), expected_pairs([c[own] for c in columns], None)
        if not (exceeds(pairs, expected) and repeated[outcome] > max(0.05, 3 * repeated[1 - outcome])):
            continue
        shared = shared_between(keys[own], parts[own]) if parts is not None else {}
        numbers = {"repeated_among_events": repeated[1], "repeated_among_others": repeated[0], **shared}
        text = (
            f"{called} are repeated: {repeated[outcome]:.0%} of them repeat a row of all the same features and outcome, "
            f"against {repeated[1 - outcome]:.0%} of the others"
        )
        if parts is None or any(shared.values()):
            text += "; the table was oversampled before it was split, so test rows are known from training"
            found.append(Finding("oversampling", "leak", text, numbers))
        else:
            text += "; no copy stands in another part, but the probabilities are shifted"
            found.append(Finding("oversampling", "note", text, numbers))
    return found


@CHECKS.add
def _finer_decimals(table: Table) -> list[Finding]:
    return finer_decimals(table.numbers, table.events, table.parts)


def finer_decimals(values: pl.DataFrame, events: Events, parts: Parts | None = None) -> list[Finding]:
    """Numbers that are finer than the column's own steps in rows of one outcome only, as SMOTE
    makes them.

    SMOTE (Chawla et al., JAIR 2002;16:321) puts rows between two real ones: an age of 51.37 in a
    column of whole years. Besides, the decimals alone then tell the outcome. A column's step is the
    coarsest of 1, 0.1, 0.01 and 0.001 on which (almost) all values of the other outcome lie.
    """
    columns: dict[str, int] = {}
    held: NDArray[np.bool_] = np.zeros(values.height, bool)
    for name in values.columns:
        number = values[name].to_numpy()
        for step in (1, 10, 100, 1000):
            off = np.isfinite(number) & (np.abs(number * step - np.round(number * step)) > 1e-6 * step)
            shares = [off[(events == y) & np.isfinite(number)] for y in (0, 1)]
            few, many = sorted(part.mean() if len(part) else 0.0 for part in shares)
            if few <= 0.005:  # this is the step
                other = events == int(np.argmin([part.mean() if len(part) else 0.0 for part in shares]))
                if many >= 0.05 and off.sum() >= FEW and len(np.unique(number[other & ~off])) >= 5:
                    columns[name] = int(off.sum())
                    held |= off
                break
    if not columns:
        return []
    tested = int((held & (parts == "test")).sum()) if parts is not None else 0
    numbers = {"rows": int(held.sum()), "test_rows": tested, "columns": columns}
    text = (
        f"{int(held.sum())} rows, nearly all of one outcome, have finer decimals than the others in {listed(columns)}; they "
        f"look made up (SMOTE), and their decimals tell the outcome; {tested} are in the test part"
    )
    return [Finding("made_up_rows", "leak" if tested else "warning", text, numbers)]
