"""Rows, patients and texts that stand in more than one part."""

from cardiotune.audit.findings import Checks, Finding, Severity
from cardiotune.audit.table import SHARE_OF_COPIES, Table, text_keys
from cardiotune.data.cohort import ROW_ID
from cardiotune.data.copies import exceeds
from cardiotune.data.split import FEW_GROUPS, UNUSED, few_groups, leaks, shared_between

CHECKS = Checks[Table]()


@CHECKS.add
def shared_ids(table: Table) -> list[Finding]:
    """An id, or a group, in two parts."""
    found = []
    for name in (ROW_ID, table.data.name_of("id"), table.data.name_of("group")):
        if name is None or name not in table.frame.columns:
            continue
        shared = shared_between(table.frame[name].hash().to_numpy(), table.parts)
        if any(shared.values()):
            called = "the row id" if name == ROW_ID else f"column {name}"
            text = f"{called} has values that stand in more than one part ({sum(shared.values())} rows)"
            found.append(Finding("shared_ids", "leak", text, shared))
    return found


@CHECKS.add
def in_two_tables(table: Table) -> list[Finding]:
    """A patient in two tables of the experiment."""
    found = []
    for patients in table.prepared.in_two:
        one, other = table.parts[patients.pairs].T
        severity: Severity = "note"
        where = "none of them is learned from and held out"
        if leaks(table.parts, patients.pairs):
            severity, where = "leak", "they are learned from and in the test part (split.shared_patients: allow)"
        elif ((one != other) & (one != UNUSED) & (other != UNUSED)).any():
            severity, where = "warning", "some are in training and in validation, by which the step was chosen"
        found.append(Finding("in_two_tables", severity, f"{patients.text}; {where}", {}))
    return found


@CHECKS.add
def unlike_tables(table: Table) -> list[Finding]:
    """A held-out table that shares nothing with what was learned from."""
    text = "table {} has no column in common with the tables that train: nothing was learned of what it has"
    return [Finding("unlike_tables", "warning", text.format(name), {}) for name in table.prepared.strangers]


@CHECKS.add
def units_missing(table: Table) -> list[Finding]:
    """A number with a unit in one table and none in another."""
    return [Finding("unit_missing", "warning", text, {}) for text in table.prepared.units_missing]


@CHECKS.add
def few_patients(table: Table) -> list[Finding]:
    """Parts whose rows few patients have most of: what is found there is those patients'."""
    name, frame = table.data.name_of("group"), table.frame
    found = few_groups(table.parts, frame[name]) if name in frame.columns and frame[name].is_duplicated().any() else {}
    if not found:
        return []
    text = (
        f"in the {' and '.join(found)} part few of column {name} (role group) have most of the rows, which are worth fewer "
        f"than {FEW_GROUPS} of equal size: intervals are not to be relied on"
    )
    return [Finding("few_groups", "warning", text, {})]


@CHECKS.add
def twins(table: Table) -> list[Finding]:
    """Rows of equal features in two parts: are there more equal rows than chance explains?

    People who are alike are no leak; the same person twice, or a repeated row, is. So equal rows
    are judged by how many pairs of them chance explains, and by whether they come in the same order
    again (`cardiotune.data.copies`).
    """
    shared, equal = shared_between(table.keys, table.parts), table.equal_rows
    if not any(shared.values()):
        return []
    tested = shared["test_in_train"] + shared["test_in_validation"]
    share = equal.excess * tested / max(1, int((table.parts == "test").sum())) if equal.copied else 0.0
    severity: Severity = "leak" if share >= SHARE_OF_COPIES else "warning" if equal.copied else "note"
    numbers = {**shared, "pairs": equal.pairs, "pairs_expected_by_chance": round(equal.expected, 1)}
    told = "as many as chance explains"
    if exceeds(equal.pairs, equal.expected):
        told = "far more than chance explains: rows were copied"
    elif equal.copied:
        numbers |= {"rows_in_repeated_blocks": equal.in_blocks, "times": equal.times}
        told = "no more than chance explains, but they come in blocks, or all of them equally often: rows were copied"
    text = (
        f"{shared['test_in_train']} test rows and {shared['validation_in_train']} validation rows equal a training row in "
        f"every feature; the table has {equal.pairs} pairs of equal rows, {equal.expected:.0f} are expected by chance, so "
        f"they are {told}"
    )
    return [Finding("equal_rows", severity, text, numbers)]


@CHECKS.add
def same_texts(table: Table) -> list[Finding]:
    """Equal texts in two parts. A note: whether they are copies is told by the rows behind them."""
    shared = shared_between(text_keys(table.texts), table.parts)
    text = f"{shared['test_in_train']} test rows have a text that a training row has too"
    return [Finding("equal_texts", "note", text, shared)] if any(shared.values()) else []
