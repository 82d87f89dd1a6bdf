"""What would make good numbers worthless: leaks between parts, leaks from the outcome, data that is
not what it seems.

`audit_raw` looks at the table as it is stored, `audit_table` at the cohort with its parts,
`audit_predictions` at what a run left behind. Each gives findings, one plain sentence and its
counts apiece, never a patient's value. A "leak" says: do not believe the results before this is
explained. A "warning" wants a look; a "note" is for the record.

The kinds of leak follow Kapoor & Narayanan, Patterns 2023;4:100804.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from cardiotune.audit import near_copies
from cardiotune.data import identifiers, roles, schema
from cardiotune.data.cohort import ROW_ID, needed_columns, read_unused
from cardiotune.data.copies import Keys, column_keys, equal_rows, exceeds, expected_pairs, pairs_of, total
from cardiotune.data.prepare import Prepared
from cardiotune.data.schema import out_of_range
from cardiotune.data.sentinels import in_words, sentinels
from cardiotune.data.small_counts import told
from cardiotune.data.split import FEW_GROUPS, PARTS, Parts, few_groups, shared_between
from cardiotune.data.table import locate, read_cells
from cardiotune.evaluation.metrics import auroc
from cardiotune.models.baselines import BASELINES, Baseline
from cardiotune.settings import NUMBERS, Column, Config, DataConfig

Severity = Literal["leak", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("leak", "warning", "note")
Events = NDArray[np.int_]

TEXT = "__text__"
FEW = 20
"""A share or an AUROC of fewer rows (of fewer events) says nothing."""
SINGLE_AUROC = 0.95
"""No one column of a patient comes near: systolic pressure alone has 0.75 on the cardio table."""
PERFECT_AUROC = 0.99
"""Above it no clinical outcome is predicted honestly; the ceiling of a table that is not known."""
TWIN_SHARE = 0.01
"""A smaller share of test rows with a copy in training moves no metric by more than it."""
SHUFFLED_ROWS = 20_000
"""Rows, at most, on which models are fitted to shuffled labels; drawn by distinct rows, so that
copies stay together."""


@dataclass(frozen=True)
class Finding:
    """One result of one check: its short name, how grave it is, a sentence, and the counts behind
    the sentence."""

    check: str
    severity: Severity
    text: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ceiling:
    """The highest AUROC that is believable on a table; a public one is recognised by columns that
    it is known for."""

    name: str
    columns: frozenset[str]
    auroc: float
    source: str


CEILINGS = (
    Ceiling(
        "Kaggle cardiovascular disease",
        frozenset({"ap_hi", "ap_lo", "cholesterol", "gluc", "smoke", "alco", "active"}),
        0.81,
        "LightGBM 0.804 (0.800 to 0.807), 70,000 rows, 5-fold, measured",
    ),
    Ceiling(
        "Framingham teaching data",
        frozenset({"totchol", "sysbp", "diabp", "cigsperday", "bpmeds", "glucose"}),
        0.75,
        "logistic regression 0.724, LightGBM 0.715, 4,240 rows, 5 x 5-fold, measured",
    ),
    Ceiling(
        "UCI heart disease",
        frozenset({"cp", "trestbps", "restecg", "thalach", "oldpeak", "slope"}),
        0.95,
        "logistic regression 0.906 (0.877 to 0.942), Cleveland 303 rows, 5 x 5-fold, measured",
    ),
    Ceiling(
        "UCI Statlog heart",
        frozenset(
            {"chest_pain", "resting_sbp_mmhg", "max_heart_rate", "st_depression_mm", "major_vessels", "thallium"}
        ),
        0.95,
        "logistic regression 0.932, median of five test parts of 68 rows, measured",
    ),
    Ceiling(
        "Kaggle heart failure prediction",
        frozenset({"chestpaintype", "restingbp", "fastingbs", "restingecg", "maxhr", "st_slope"}),
        0.95,
        "LightGBM 0.932, logistic regression 0.925, 918 rows, 5 x 5-fold, measured",
    ),
)


def as_json(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Findings as JSON objects, the gravest first."""
    return [asdict(finding) for finding in sorted(findings, key=lambda f: SEVERITIES.index(f.severity))]


def ceiling_of(columns: Iterable[str]) -> Ceiling | None:
    """The public table that has these columns (case does not matter), or None."""
    present = {name.lower() for name in columns}
    return next((ceiling for ceiling in CEILINGS if ceiling.columns <= present), None)


# --------------------------------------------------------------------------------------------------
# the three audits


def audit_raw(data: DataConfig) -> list[Finding]:
    """Audit the table as it is stored, before exclusions hide what is wrong with it; the files that
    `read_cohort` takes.

    A table that was oversampled may lose its exact copies on the way to a cohort, and its half
    years become missing there; that it was is worth knowing. Nothing here is a leak yet: whether
    such rows reach the parts, `audit_table` tells.
    """
    names = [name for name in needed_columns(data)]
    # Files of a test and a validation part are judged with the training rows: copies may lie
    # between them.
    cells = pl.concat(
        [read_cells(locate(p), names, data.separator, data.encoding, data.column_names) for p in data.files.values()]
    )
    target = str(data.name_of("target"))
    column = data.columns[target]
    outcomes, _ = schema.events(schema.parse(cells[target], column)[0], column)
    cells = cells.filter(outcomes.is_not_null())
    events = outcomes.drop_nulls().to_numpy().astype(int)
    inputs = [name for name in names if data.columns[name].role in ("feature", "text") or _is_source(name, data)]
    rows = column_keys(cells, inputs, data)
    numbers = [name for name in inputs if data.columns[name].type not in ("text", "date")]
    values = _as_numbers(cells, numbers, data)
    zeros = [n for n in numbers if data.columns[n].type in NUMBERS and _excludes_zero(n, data)]
    found = [*_oversampled(rows, events, None), *_made_up(values, events, None), *_zeros(values.select(zeros), events)]
    found += _sentinels(values, data)
    return [Finding(f.check, "warning" if f.severity == "leak" else f.severity, f.text, f.numbers) for f in found]


def audit_table(
    frame: pl.DataFrame,
    events: Events,
    parts: Parts,
    texts: Sequence[str],
    data: DataConfig,
    seed: int,
    known_ceiling: float | None = None,
) -> list[Finding]:
    """Audit a cohort with its parts, before any language model is trained.

    frame has a row a patient with the columns of the dictionary and `ROW_ID`; events (rows,) is 0
    or 1, parts (rows,) as in `cardiotune.data.split`, texts (rows,) what the model reads.
    `known_ceiling` is the AUROC that no honest model exceeds on this table; by default that of the
    public table with these columns, else `PERFECT_AUROC`.
    """
    rows = column_keys(frame, data.inputs, data)
    numbers = frame.select(name for name in data.features if data.columns[name].type in NUMBERS)
    patient = data.name_of("group")
    copies, twins = _twins(rows, events, parts, frame[patient] if patient else None)
    return [
        *_shared_ids(frame, parts, data),
        *_few_groups(frame, parts, data),
        *twins,
        *_same_texts(texts, parts),
        *_near_copies(frame, events, parts, data, total(rows), seed),
        *_oversampled(rows, events, parts),
        *_made_up(numbers, events, parts),
        *_conflicts(texts, events),
        *_single_columns(frame, events, parts, texts, data),
        *_names(data),
        *_zeros(numbers, events),
        *_missing_by(frame, events, parts, data),
        *_unique_rows(rows),
        *_quick_models(frame, events, parts, texts, data, seed, known_ceiling, total(rows) if copies else None),
    ]


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
        readable = column.role == "text" or (column.role == "feature" and column.type == "text")
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


def audit_predictions(
    rows: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    columns: Iterable[str] = (),
    known_ceiling: float | None = None,
    calibration: Mapping[str, Any] | None = None,
    tokens: Mapping[str, int] | None = None,
) -> list[Finding]:
    """Audit what a run left: rows of `predictions.jsonl`, content of `metrics.json`.

    columns are those of the table, by which a public one is recognised where `known_ceiling` (of
    the config) is null; calibration is what the calibrator and the threshold say of themselves
    (`audit_fitted_on`); tokens is that block of `cohort.json`.
    """
    ceiling = _ceiling(columns, known_ceiling)
    test = metrics["parts"].get("test", {"n": 0, "n_events": 0, "models": {}})
    # None where one of them is below ten.
    enough = test["n_events"] is not None and min(test["n_events"], test["n"] - test["n_events"]) >= FEW
    found = _shared_predictions(rows)
    for model, judged in test["models"].items() if enough else ():
        low = _interval(judged["auroc"])[0]
        found += _above(model, judged["auroc"]["value"], low, ceiling)
        watched = metrics["parts"].get("validation", {}).get("models", {}).get(model)
        if watched and low is not None and (top := _interval(watched["auroc"])[1]) is not None and low > top:
            text = f"{model} ranks the test part better than the validation part (the intervals of AUROC do not touch)"
            gap = {"test": judged["auroc"]["value"], "validation": watched["auroc"]["value"]}
            found.append(Finding("test_above_validation", "warning", f"{text}; are test rows in training?", gap))
    return found + audit_fitted_on(calibration or {}) + audit_tokens(tokens)


# --------------------------------------------------------------------------------------------------
# rows that stand in more than one part


def _shared_ids(frame: pl.DataFrame, parts: Parts, data: DataConfig) -> list[Finding]:
    """An id, or a group, in two parts."""
    found = []
    for name in (ROW_ID, data.name_of("id"), data.name_of("group")):
        if name is None or name not in frame.columns:
            continue
        shared = shared_between(frame[name].hash().to_numpy(), parts)
        if any(shared.values()):
            called = "the row id" if name == ROW_ID else f"column {name}"
            text = f"{called} has values that stand in more than one part ({sum(shared.values())} rows)"
            found.append(Finding("shared_ids", "leak", text, shared))
    return found


def _twins(columns: list[Keys], events: Events, parts: Parts, groups: pl.Series | None) -> tuple[bool, list[Finding]]:
    """Rows of equal features in two parts, and whether there are more equal rows than chance
    explains.

    People who are alike are no leak; the same person twice, or a repeated row, is. So equal rows
    are judged by how many pairs of them chance explains, and by whether they come in the same order
    again (`cardiotune.data.copies`).
    """
    shared = shared_between(total(columns), parts)
    equal = equal_rows(columns, events, groups)
    copies = equal.copied
    if not any(shared.values()):
        return copies, []
    tested = shared["test_in_train"] + shared["test_in_validation"]
    share = equal.excess * tested / max(1, int((parts == "test").sum())) if copies else 0.0
    severity: Severity = "leak" if share >= TWIN_SHARE else "warning" if copies else "note"
    numbers = {**shared, "pairs": equal.pairs, "pairs_expected_by_chance": round(equal.expected, 1)}
    told = "as many as chance explains"
    if exceeds(equal.pairs, equal.expected):
        told = "far more than chance explains: rows were copied"
    elif copies:
        numbers |= {"rows_in_repeated_blocks": equal.in_blocks, "times": equal.times}
        told = "no more than chance explains, but they come in blocks, or all of them equally often: rows were copied"
    text = (
        f"{shared['test_in_train']} test rows and {shared['validation_in_train']} validation rows equal a training row in "
        f"every feature; the table has {equal.pairs} pairs of equal rows, {equal.expected:.0f} are expected by chance, so "
        f"they are {told}"
    )
    return copies, [Finding("equal_rows", severity, text, numbers)]


def _few_groups(frame: pl.DataFrame, parts: Parts, data: DataConfig) -> list[Finding]:
    """Parts whose rows few patients have most of: what is found there is those patients'."""
    name = data.name_of("group")
    found = few_groups(parts, frame[name]) if name in frame.columns and frame[name].is_duplicated().any() else {}
    if not found:
        return []
    text = (
        f"in the {' and '.join(found)} part few of column {name} (role group) have most of the rows, which are worth fewer "
        f"than {FEW_GROUPS} of equal size: intervals are not to be relied on"
    )
    return [Finding("few_groups", "warning", text, {})]


def _same_texts(texts: Sequence[str], parts: Parts) -> list[Finding]:
    """Equal texts in two parts. A note: whether they are copies is told by the rows behind them."""
    shared = shared_between(_hash(texts), parts)
    text = f"{shared['test_in_train']} test rows have a text that a training row has too"
    return [Finding("equal_texts", "note", text, shared)] if any(shared.values()) else []


def _oversampled(columns: list[Keys], events: Events, parts: Parts | None) -> list[Finding]:
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


def _made_up(values: pl.DataFrame, events: Events, parts: Parts | None) -> list[Finding]:
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
        f"{int(held.sum())} rows, nearly all of one outcome, have finer decimals than the others in {_list(columns)}; they "
        f"look made up (SMOTE), and their decimals tell the outcome; {tested} are in the test part"
    )
    return [Finding("made_up_rows", "leak" if tested else "warning", text, numbers)]


def _near_copies(
    frame: pl.DataFrame, events: Events, parts: Parts, data: DataConfig, keys: Keys, seed: int
) -> list[Finding]:
    """Copies whose numbers were changed a little, as noise or SMOTE does: are there any, and do
    they lie across parts?

    In the whole table a pair may be seen from both sides, so what is found there counts half.
    """
    train, held = np.flatnonzero(parts == "train"), np.flatnonzero(np.isin(parts, ("validation", "test")))
    if not any(data.columns[name].type in NUMBERS for name in data.features):
        return []
    where = near_copies.places(frame, data)
    everyone = np.arange(len(events))
    anywhere = near_copies.agreement(where, events, keys, everyone, everyone, seed)
    across = near_copies.agreement(where, events, keys, train, held, seed)
    if anywhere.p_value(0.5) > 1e-4:
        return []
    share = across.copies / across.asked
    numbers = {"in_table": asdict(anywhere), "held_out_to_training": asdict(across), "share_of_held_out": share}
    text = (
        f"{anywhere.near} of {anywhere.asked} rows lie so near to another, and have its outcome so often ({anywhere.differ} "
        f"differ, {anywhere.expected:.0f} would by chance), that they look like copies with numbers changed a little, or "
        "like the same patients again"
    )
    if across.p_value() > 1e-2:
        return [Finding("near_copies", "note", f"{text}; nothing says that they lie across the parts", numbers)]
    text += f"; about {share:.0%} of the validation and test rows have theirs in training"
    return [Finding("near_copies", "leak" if share >= TWIN_SHARE else "warning", text, numbers)]


def _hash(texts: Sequence[str]) -> Keys:
    return pl.Series(texts, dtype=pl.String).hash().to_numpy()


# --------------------------------------------------------------------------------------------------
# the outcome among the features


def _single_columns(
    frame: pl.DataFrame, events: Events, parts: Parts, texts: Sequence[str], data: DataConfig
) -> list[Finding]:
    """One column, or that it is missing, or the text's length, that alone ranks the held-out rows
    almost perfectly."""
    train = parts == "train"
    if min(events[~train].sum(), (1 - events[~train]).sum()) < FEW:
        return []
    lengths = pl.Series([len(text) for text in texts], dtype=pl.Float64)
    scores = {"the length of the text": _rate(lengths, events, train)}
    for name in data.features:
        scores[f"column {name}"] = _rate(frame[name], events, train)
        scores[f"whether {name} is missing"] = _rate(frame[name].is_null().cast(pl.Float64), events, train)
    areas = {name: [_area(events[rows], score[rows]) for rows in (train, ~train)] for name, score in scores.items()}
    return [
        Finding(
            "single_column",
            "leak",
            f"{name} alone has an AUROC of {held_out:.3f} on rows that it was not judged from; does it tell the outcome?",
            {"auroc": held_out, "auroc_train": trained},
        )
        for name, (trained, held_out) in areas.items()
        if min(trained, held_out) > SINGLE_AUROC
    ]


def _rate(values: pl.Series, events: Events, train: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(rows,) share of events among training rows of the same code or, for a number or date, the
    same twentieth of them.

    Shrunk towards the prevalence as if by one row more, so that a code seen once ranks low. Missing
    is a code.
    """
    if values.dtype.is_numeric() or values.dtype.is_temporal():
        number = (
            (values if values.dtype.is_numeric() else values.cast(pl.Int32))
            .cast(pl.Float64)
            .fill_null(np.nan)
            .to_numpy()
        )
        seen = number[train & ~np.isnan(number)]
        edges = np.unique(np.quantile(seen, np.linspace(0.05, 1, 20))) if len(seen) else np.zeros(1)
        codes = np.where(np.isnan(number), len(edges) + 1, np.searchsorted(edges, number))
    else:
        codes = np.unique(values.hash().to_numpy(), return_inverse=True)[1]
    rows = np.bincount(codes[train], minlength=codes.max() + 1)
    happened = np.bincount(codes[train], events[train], minlength=codes.max() + 1)
    return np.asarray(((happened + events[train].mean()) / (rows + 1))[codes])


LATER = re.compile(
    r"death|dead|died|deceased|mortality|surviv\w*|censor\w*|diagnos\w*|icd\d*|discharge\w*|outcomes?|label|follow(up)?|"
    r"followup|readmi\w+|complications?|procedures?|surgery|stent\w*|cabg|pci|autopsy|future|after|post|los"
)
"""Words of what is known only after the outcome, or because of it."""


def _names(data: DataConfig) -> list[Finding]:
    """Features named after the outcome, or after what comes later than it."""
    target = set(_words(str(data.name_of("target"))))
    smelling = [
        name
        for name in data.features
        if (target and target <= set(_words(name))) or any(LATER.fullmatch(word) for word in _words(name))
    ]
    text = f"named like the outcome or like what follows it: {_list(smelling)}; is it known when the risk is asked for?"
    return [Finding("column_names", "warning", text, {"columns": smelling})] if smelling else []


def _words(name: str) -> list[str]:
    """Words of a column's name, lower case: `postOp_day` -> post, op, day."""
    return re.findall(r"[a-z]+\d*", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())


# --------------------------------------------------------------------------------------------------
# what the labels and the columns allow


def _conflicts(texts: Sequence[str], events: Events) -> list[Finding]:
    """Equal texts with both outcomes, and how good a model that reads only the text can be at best.

    `ceiling_*` lets the best model know every text's own share of events: optimistic, as a text
    that stands once is always right. `accuracy_bound` is free of that, on rows whose text stands
    more than once: where two rows of one text differ in the outcome with chance d, no model is
    right more often than (1 + sqrt(1 - 2d)) / 2 (Cover & Hart, IEEE Trans Inf Theory 1967;13:21).
    """
    _, group = np.unique(_hash(texts), return_inverse=True)
    rows, happened = np.bincount(group), np.bincount(group, events)
    mixed, repeated = (happened > 0) & (happened < rows), (rows > 1)[group]
    if not mixed.any():
        return []
    others = np.where(events == 1, rows[group] - happened[group], happened[group])
    differ = min(0.5, float((others[repeated] / (rows[group][repeated] - 1)).mean()))
    best = np.maximum(happened, rows - happened)
    numbers = {
        "texts": int(mixed.sum()),
        "rows": int(rows[mixed].sum()),
        "rows_with_repeated_text": int(repeated.sum()),
        "ceiling_accuracy": float(best.sum() / len(events)),
        "ceiling_auroc": _area(events, (happened / rows)[group]),
        "ceiling_accuracy_repeated": float(best[rows > 1].sum() / repeated.sum()),
        "accuracy_bound_repeated": float((1 + np.sqrt(1 - 2 * differ)) / 2),
    }
    text = (
        f"{numbers['texts']} texts ({numbers['rows']} rows) stand with both outcomes: no model that reads only the text "
        f"can be right on all of them, and on rows of a repeated text on at most {numbers['accuracy_bound_repeated']:.0%}"
    )
    return [Finding("conflicting_labels", "note", text, numbers)]


def _zeros(values: pl.DataFrame, events: Events) -> list[Finding]:
    """Numbers where an exact zero stands apart from all others: most likely a missing value.

    Apart: the lowest hundredth of the others is positive, away from zero by 1.5 times their
    interquartile range and by ten of their smallest steps. A count, a dose or a score begins at
    zero and is not apart.
    """
    found = []
    for name in values.columns:
        known = values[name].is_not_null().to_numpy()
        number = values[name].to_numpy()
        zero = known & (number == 0)
        others = np.unique(number[known & ~zero], return_counts=True)
        if zero.sum() <= 0.03 * known.sum() or len(others[0]) < 10:
            continue
        low, first, third = np.quantile(number[known & ~zero], (0.01, 0.25, 0.75))
        if low < max(1.5 * (third - first), 10 * np.diff(others[0]).min()):
            continue
        numbers = {"rows": int(zero.sum()), "events": int(events[zero].sum())}
        text = (
            f"column {name} is exactly 0 in {numbers['rows']} rows, far from all other values; is it a missing value?"
        )
        found.append(Finding("zero_as_missing", "warning", text, {"column": name, **numbers}))
    return found


def _as_numbers(cells: pl.DataFrame, names: Sequence[str], data: DataConfig) -> pl.DataFrame:
    """Columns of text cells as numbers, each as the dictionary reads it; codes that are none are
    null."""
    writings = schema.writings(cells.select(names), data.columns)
    parsed = [schema.parse(cells[name], data.columns[name], writings[name])[0] for name in names]
    return pl.DataFrame([column.cast(pl.Float64, strict=False) for column in parsed])


def _sentinels(values: pl.DataFrame, data: DataConfig) -> list[Finding]:
    """Numbers in the plausible range, or without one, in which a repeated value stands far from all
    others."""
    found = []
    for name in values.columns:
        column = data.columns[name]
        if column.type in NUMBERS and (apart := sentinels(values[name].filter(~out_of_range(values[name], column)))):
            text = f"column {name} holds {in_words(apart)}"
            numbers = {"column": name, "rows": told(sum(rows for _, rows in apart))}
            found.append(Finding("value_as_missing", "warning", text, numbers))
    return found


def _missing_by(frame: pl.DataFrame, events: Events, parts: Parts, data: DataConfig) -> list[Finding]:
    """Columns missing far more often in one part, site or outcome than in another (by a fifth of
    the rows, p < 1e-6)."""
    groupings = {"part": pl.Series(parts), "outcome": pl.Series(events).cast(pl.String)}
    if site := data.name_of("site"):
        groupings["site"] = frame[site].cast(pl.String).fill_null("")
    found = []
    for name in data.features:
        for by, groups in groupings.items():
            table = (
                pl.DataFrame({"by": groups, "gone": frame[name].is_null()})
                .group_by("by")
                .agg(pl.len().alias("rows"), pl.col("gone").sum())
            )
            table = table.filter(pl.col("rows") >= FEW)
            gone, rows = table["gone"].to_numpy().astype(float), table["rows"].to_numpy().astype(float)
            if len(rows) < 2 or not 0 < gone.sum() < rows.sum() or np.ptp(gone / rows) < 0.2:
                continue
            if stats.chi2_contingency(np.array([gone, rows - gone])).pvalue < 1e-6:
                low, high = float((gone / rows).min()), float((gone / rows).max())
                text = (
                    f"{name} is missing in {low:.0%} to {high:.0%} of the rows, depending on the {by}: it stands for it"
                )
                found.append(
                    Finding("missing_by_group", "note", text, {"column": name, "lowest": low, "highest": high})
                )
    return found


def _unique_rows(columns: list[Keys]) -> list[Finding]:
    """Rows that no other row equals (k = 1): who knows a patient's findings can find the row."""
    counts = np.unique(total(columns), return_counts=True)[1]
    alone, rows = int((counts == 1).sum()), int(counts.sum())
    text = f"{alone} of {rows} rows ({alone / rows:.0%}) are unique in their features, so pseudonyms do not hide them"
    return [Finding("unique_rows", "note", text, {"rows": alone, "share": alone / rows})]


# --------------------------------------------------------------------------------------------------
# quick models


def _quick_models(
    frame: pl.DataFrame,
    events: Events,
    parts: Parts,
    texts: Sequence[str],
    data: DataConfig,
    seed: int,
    known_ceiling: float | None,
    copied: Keys | None,
) -> list[Finding]:
    """LightGBM on the table, or TF-IDF and logistic regression on ready texts: with true labels and
    with shuffled ones."""
    readable = any(data.columns[name].type != "text" for name in data.features)
    name, model = ("lightgbm", BASELINES["lightgbm"]) if readable else ("tf-idf", _tfidf)
    frame, test = frame.with_columns(pl.Series(TEXT, texts, pl.String)), parts == "test"
    risk = model(frame, events, parts, data, seed)[test]
    area = _area(events[test], risk)
    low = area - 1.96 * _standard_error(area, int(events[test].sum()), int((1 - events[test]).sum()))
    enough = min(events[test].sum(), (1 - events[test]).sum()) >= FEW
    ceiling = _ceiling(data.columns, known_ceiling)
    above = _above(f"a quick {name}", area, low, ceiling) if enough else []
    times = 5 if copied is None else 2  # copies are learned by heart, which takes long and shows clearly
    return above + audit_permutation(name, model, frame, events, parts, data, seed, copied, times)


def audit_permutation(
    name: str,
    model: Baseline,
    frame: pl.DataFrame,
    events: Events,
    parts: Parts,
    data: DataConfig,
    seed: int,
    copied: Keys | None = None,
    permutations: int = 5,
) -> list[Finding]:
    """Shuffle the labels of all rows, fit, and judge the test part: nothing can be learned, so the
    AUROC must be 0.5.

    Against the shuffled test labels it is above 0.5 only when the model saw them: it was fitted on
    all rows, or a code was replaced by its rate of events in all rows. Chance is exact here (all
    orders of the labels are alike), so the mean over the permutations is held against the
    Mann-Whitney variance, z > 4. Against the true test labels it may stray on either side, for a
    model fitted to noise still ranks by columns that matter; its mean is 0.5 unless the model reads
    the outcome elsewhere than in the labels it is given (t test over the permutations, p < 1e-4,
    and off by 0.1).

    A copy of the outcome among the features does not survive shuffling: `single_column` is the
    check for it. Copied rows do not either, unless copies keep one label: with `copied` (a key a
    row) labels are shuffled over distinct rows, and what is above 0.5 is what recognising copies is
    worth.
    """
    draw = np.random.default_rng(seed)
    keys = copied if copied is not None else np.arange(len(events))
    if len(keys) > SHUFFLED_ROWS:
        rank = draw.permutation(len(keys))[np.unique(keys, return_inverse=True)[1]]  # of each row's distinct row
        rows = np.sort(np.argsort(rank, kind="stable")[:SHUFFLED_ROWS])
        frame, events, parts, keys = frame[rows], events[rows], parts[rows], keys[rows]
    test = parts == "test"
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    shuffled_areas, true_areas = [], []
    for _ in range(permutations):
        shuffled = draw.permutation(events[first])[group]
        if any(shuffled[parts == part].min() == shuffled[parts == part].max() for part in PARTS):
            continue  # a part of one outcome cannot be judged
        risk = model(frame, shuffled, parts, data, seed)[test]
        shuffled_areas.append(_area(shuffled[test], risk))
        true_areas.append(_area(events[test], risk))
    if len(shuffled_areas) < 2:
        return []
    happened, others = int(events[test].sum()), int((1 - events[test]).sum())
    by_chance = np.sqrt((happened + others + 1) / (12 * happened * others) / len(shuffled_areas))
    mean, true_mean = float(np.mean(shuffled_areas)), float(np.mean(true_areas))
    spread = max(float(np.std(true_areas, ddof=1)), 1e-6) / np.sqrt(len(true_areas))
    p_value = float(2 * stats.t.sf(abs(true_mean - 0.5) / spread, len(true_areas) - 1))
    saw = (mean - 0.5) / by_chance > 4 and mean > 0.52
    read = p_value < 1e-4 and abs(true_mean - 0.5) > 0.1
    numbers = {"auroc_shuffled": mean, "auroc_true": true_mean, "permutations": len(shuffled_areas)}
    what = f"with shuffled labels {name} has a test AUROC of {mean:.3f} (against the true ones {true_mean:.3f})"
    if not (saw or read):
        return [Finding("permutation", "note", f"{what}, as chance allows", numbers)]
    why = "copies of test rows are in training" if copied is not None else "it sees the outcome of test rows"
    return [Finding("permutation", "leak", f"{what}, where 0.5 is expected: {why}", numbers)]


def _tfidf(frame: pl.DataFrame, events: Events, parts: Parts, data: DataConfig, seed: int) -> NDArray[np.float64]:
    """Logistic regression on the TF-IDF weights of column `TEXT`, both fitted on the training
    part."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    train, texts = parts == "train", frame[TEXT].to_numpy()
    words = TfidfVectorizer(token_pattern=r"[^\s,;:]+", max_features=20_000).fit(texts[train])
    weights = words.transform(texts)
    model = LogisticRegression(max_iter=200).fit(weights[train], events[train])
    return np.asarray(model.predict_proba(weights)[:, 1])


def _area(events: Events, score: NDArray[np.float64]) -> float:
    return float(auroc(events.astype(float), score))


def _standard_error(area: float, events: int, others: int) -> float:
    """Of an AUROC. Hanley & McNeil, Radiology 1982;143:29."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (events - 1) * (q1 - area**2) + (others - 1) * (q2 - area**2)
    return float(np.sqrt(max(variance, 0) / (events * others)))


# --------------------------------------------------------------------------------------------------
# what only a run knows


def _shared_predictions(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(row["row_id"], set()).add(row["part"])
    shared = sum(len(held) > 1 for held in parts.values())
    text = f"{shared} row ids of the predictions stand in more than one part"
    return [Finding("shared_ids", "leak", text, {"rows": shared})] if shared else []


def _ceiling(columns: Iterable[str], known: float | None) -> Ceiling:
    if known is not None:
        return Ceiling("this table", frozenset(), known, "evaluation.known_ceiling")
    return ceiling_of(columns) or Ceiling("any clinical table", frozenset(), PERFECT_AUROC, "a rule of thumb")


def _above(model: str, area: float | None, low: float | None, ceiling: Ceiling) -> list[Finding]:
    """A leak when even the interval's lower end is above the ceiling (or there is no interval);
    else it may be chance."""
    if area is None or area <= ceiling.auroc:
        return []
    sure = low is None or low > ceiling.auroc
    text = (
        f"{model} has a test AUROC of {area:.3f}, above the {ceiling.auroc:.2f} that honest models reach on {ceiling.name} "
        f"({ceiling.source})" + ("" if sure else ", by no more than chance allows")
    )
    return [Finding("above_ceiling", "leak" if sure else "note", text, {"auroc": area, "ceiling": ceiling.auroc})]


def _interval(entry: Mapping[str, Any]) -> tuple[float | None, float | None]:
    low, high = entry.get("ci") or (None, None)
    return low, high


def audit_fitted_on(calibration: Mapping[str, Any]) -> list[Finding]:
    """Whether calibrator and threshold, wherever `fitted_on` or `chosen_on` stands in their JSON,
    name validation."""
    found = []
    for key, value in calibration.items():
        if isinstance(value, Mapping):
            found += audit_fitted_on(value)
        elif key in ("fitted_on", "chosen_on") and value != "validation":
            severity: Severity = "leak" if value == "test" else "warning"
            part = value if value in PARTS else "another part"
            text = f"a calibrator or threshold was {key.replace('_', ' ')} {part}; expected validation"
            found.append(Finding("calibration_part", severity, text, {"part": part}))
    return found


def audit_tokens(tokens: Mapping[str, int] | None) -> list[Finding]:
    """Whether a prompt is longer than the limit, from the `tokens` block of `cohort.json` (null
    without a language model)."""
    if not tokens:
        return []
    longest, limit = int(tokens["longest"]), int(tokens["limit"])
    numbers = {"longest": longest, "limit": limit}
    if longest > limit:
        text = f"the longest prompt has {longest} tokens, the limit is {limit}: what is over it was cut or refused"
        return [Finding("truncated_prompts", "warning", text, numbers)]
    text = f"no prompt was cut: the longest has {longest} tokens, the limit is {limit}"
    return [Finding("truncated_prompts", "note", text, numbers)]


# --------------------------------------------------------------------------------------------------


def _is_source(name: str, data: DataConfig) -> bool:
    return any(column.derive and name in column.derive.inputs for column in data.columns.values())


def _excludes_zero(name: str, data: DataConfig) -> bool:
    """Whether a zero is out of the column's range, and not yet named as missing."""
    column = data.columns[name]
    named = any(re.fullmatch(r"0(\.0+)?", code.strip()) for code in column.missing)
    return not named and column.range is not None and not column.range[0] <= 0 <= column.range[1]


def _list(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


__all__ = [
    "CEILINGS",
    "Ceiling",
    "Finding",
    "as_json",
    "audit_fitted_on",
    "audit_keys",
    "audit_permutation",
    "audit_predictions",
    "audit_raw",
    "audit_table",
    "audit_tokens",
    "ceiling_of",
]


def audit_prepared(config: Config, prepared: Prepared) -> list[dict[str, Any]]:
    """Findings of the audit of a table and its parts, the gravest first."""
    frame, events = prepared.cohort.frame, prepared.cohort.events
    ceiling = config.evaluation.known_ceiling
    inside = audit_table(frame, events, prepared.parts, prepared.texts, config.data, config.seed, ceiling)
    # An export's raw cells are codes of many fields: only what was made of them can be judged.
    if config.data.format == "ukb":
        return as_json(inside)
    unused = read_unused(config.data, config.evaluation.keep_row_ids)
    keys = audit_keys(frame, prepared.parts, config.data, unused)
    return as_json([*audit_raw(config.data), *keys, *inside])
