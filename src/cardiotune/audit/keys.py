"""Columns that say who a patient is."""

from collections.abc import Sequence

import polars as pl

from cardiotune.audit.findings import Finding, Severity
from cardiotune.data import identifiers, roles
from cardiotune.data.cohort import ROW_ID
from cardiotune.data.split import Parts, shared_between
from cardiotune.settings import Column, DataConfig


def audit_keys(frame: pl.DataFrame, parts: Parts, data: DataConfig, unused: pl.DataFrame) -> list[Finding]:
    """Columns that say who a patient is: those that go into the prompt, and keys of patients with
    rows in several parts.

    unused: `ROW_ID` and the columns that nothing reads, as text, of rows in any order
    (`cardiotune.data.cohort.read_unused`).
    """
    meant = roles.learn(data.columns).columns
    fixed = frame.select(meant[meaning] for meaning in ("sex", "ethnicity") if meaning in meant)
    people = fixed if fixed.width else None
    found: list[Finding] = []
    own = {name: frame[name] for name in frame.columns if name in data.columns}
    passed = frame.select(ROW_ID).join(
        unused.unique(ROW_ID, keep="first"), on=ROW_ID, how="left", maintain_order="left"
    )
    for name, values in {**{n: passed[n] for n in passed.columns if n != ROW_ID}, **own}.items():
        column = data.columns.get(name, Column(role="ignore", type="text"))
        readable = column.role == "text" or (column.role == "feature" and column.is_text)
        key = (
            identifiers.identify(name, values, people)
            if column.role in ("feature", "ignore", "site", "split")
            else None
        )
        told = identifiers.in_texts(values) if readable and key is None else None
        if told or (key and column.role == "feature"):
            holds = f"holds what looks like {told}" if told else f"looks like {key}"
            mend = "take it out of the text" if told else "give it role id, group or ignore"
            text = f"column {name} {holds}, and goes into every prompt; {mend}"
            found.append(Finding("identifier_feature", "warning", text, {"column": name}))
        if key:
            found += _repeated_key(name, key, identifiers.texts(values), parts, [*data.columns, *unused.columns])
    return found


def _repeated_key(
    name: str, key: identifiers.Identifier, values: pl.Series, parts: Parts, columns: Sequence[str]
) -> list[Finding]:
    """A key of patients that is no group, and of which rows of one value stand in several parts."""
    known = values.is_not_null()
    present = values.filter(known)
    if not identifiers.is_of_patients(key, present, columns):
        return []
    shared = shared_between(present.hash().to_numpy(), parts[known.to_numpy()])
    if not any(shared.values()):
        return []
    said = [
        f"{rows} {later} rows have a value that {'training' if earlier == 'train' else earlier} rows have too"
        for pair, rows in sorted(shared.items())
        for later, earlier in [pair.split("_in_")]
        if rows
    ]
    where = f"column {name} looks like {key}, and {', '.join(said)}"
    text = f"{where}: rows of one patient stand in several parts; give it role group"
    in_test = shared["test_in_train"] + shared["test_in_validation"]
    severity: Severity = "leak" if key.kind == "patient" and in_test else "warning"
    return [Finding("patients_in_parts", severity, text, {"column": name, **shared})]
