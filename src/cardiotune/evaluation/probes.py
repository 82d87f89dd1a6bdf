"""Does the risk change when the patient does not? And does it rise where a finding gets worse?

Each probe writes the same patients otherwise (order, style, rounding, units, names), or leaves one
field out, and measures how far the risks move. Ribeiro et al., ACL 2020 (CheckList): invariance and
directional expectation tests; the order and wording of a prompt are known to move a language model
(Sclar et al., ICLR 2024). Of single patients only the row ids of those who moved most are kept.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cardiotune.data import roles, schema
from cardiotune.data.cohort import ROW_ID
from cardiotune.data.serialize import serialize_rows
from cardiotune.settings import Column, DataConfig, Meaning, SerializeConfig

Array = NDArray[np.float64]
Score = Callable[[list[str]], Array]
"""Patients' texts, n of them -> risks (n,), 0 to 1."""

READY_TEXT = "the patients' texts come ready made, so no other way to write them is known"
TEMPLATE = "the text is written by the user's own template, so order, style and names cannot be changed"
STYLES = ("sentence", "list", "compact")
WORST = 3
"""Patients that are named, by row id, for each probe."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A patient whose risk moved, and how far."""

    row_id: str
    change: float


@dataclass(frozen=True, slots=True)
class Probe:
    """How far the risks of `n` patients move when they are written otherwise: absolute
    differences."""

    name: str
    text: str
    n: int
    mean_change: float
    p95_change: float
    max_change: float
    worst: list[Moved] = field(default_factory=list)
    """The few whose risk moved most."""


@dataclass(frozen=True, slots=True)
class Monotone:
    """How many of `n` patients get a lower risk where a finding gets worse."""

    column: str
    text: str
    n: int
    share_wrong: float | None
    worst: list[Moved] = field(default_factory=list)
    """The few whose risk fell most."""


@dataclass(frozen=True, slots=True)
class Probed:
    """All that was tried."""

    probes: list[Probe] = field(default_factory=list)
    monotonicity: list[Monotone] = field(default_factory=list)
    note: str | None = None
    """Why there are fewer probes, or none."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The content of `probes.json`; empty where there is none."""

        def read(entry: Mapping[str, Any]) -> dict[str, Any]:
            return {**entry, "worst": [Moved(**moved) for moved in entry.get("worst", [])]}

        probes = [Probe(**read(entry)) for entry in content.get("probes", [])]
        return cls(probes, [Monotone(**read(entry)) for entry in content.get("monotonicity", [])], content.get("note"))

    def as_json(self) -> dict[str, Any]:
        """The content of `probes.json`."""
        content = asdict(self)
        return content if self.note is not None else {name: content[name] for name in ("probes", "monotonicity")}


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """How much is tried."""

    rows: int = 100
    """Patients that are drawn."""
    orders: int = 3
    """Random column orders."""
    tolerance: float = 0.01
    """A risk that falls by no more does not count as wrong."""
    seed: int = 0


def probe(
    score: Score,
    frame: pl.DataFrame,
    order: Sequence[str],
    data: DataConfig,
    serialize: SerializeConfig,
    asked: ProbeSettings = ProbeSettings(),
) -> Probed:
    """What changes of the text, and of findings, do to the risks.

    frame: patients to probe with; `order`: feature columns as in the run's text. Texts scored: at
    most about rows x (orders + 10 + twice the columns), equal ones once. A table of ready texts, or
    a template of the user's, has fewer probes or none, and a note.
    """
    rows, orders, seed = asked.rows, asked.orders, asked.seed
    if data.name_of("text"):
        return Probed(note=READY_TEXT)
    if frame.height > rows:
        frame = frame.sample(rows, seed=seed)
    variants = list(_rewritten(frame, order, data, serialize, orders, seed)) + list(_without(frame, order, data))
    rises = list(_raised(frame, order, data))
    texts = [serialize_rows(frame, order, data, serialize)]
    texts += [
        serialize_rows(variant.frame, variant.order or order, variant.data, variant.serialize or serialize)
        for variant in variants
    ]
    texts += [serialize_rows(step, order, data, serialize) for rise in rises for step in rise.steps]
    risks = iter(_risks(score, texts))
    base = next(risks)
    changes = [np.abs(next(risks) - base) for _ in variants]
    ids = frame.get_column(ROW_ID, default=pl.Series(range(frame.height))).to_numpy()
    summaries = _summaries(variants, changes, ids)
    rising = [
        _monotone(rise, np.array([base, *(next(risks) for _ in rise.steps)]), asked.tolerance, ids) for rise in rises
    ]
    return Probed(summaries, rising, TEMPLATE if serialize.style == "template" else None)


def _risks(score: Score, texts: list[list[str]]) -> list[Array]:
    """Risks of every list of texts, from one call; a text that stands in several is scored once."""
    distinct = list(dict.fromkeys(text for some in texts for text in some))
    risk_of = dict(zip(distinct, score(distinct), strict=True))
    return [np.array([risk_of[text] for text in some]) for some in texts]


def with_values(frame: pl.DataFrame, values: pl.Series, data: DataConfig) -> pl.DataFrame:
    """The rows with the values of one column replaced, and what is derived from it derived anew.

    Without the latter, a patient could have a pressure of 190 and the category "normal".
    """
    frame = frame.with_columns(values.cast(frame[values.name].dtype))
    following = {n: c for n, c in data.columns.items() if c.derive and values.name in c.derive.inputs and n in frame}
    return schema.derive(frame, data.model_copy(update={"columns": following})) if following else frame


# --------------------------------------------------------------------------------------------------
# the same patient, written otherwise


class _Variant(NamedTuple):
    """The same rows, written in another way. Variants of one name are reported together."""

    name: str
    text: str
    frame: pl.DataFrame
    data: DataConfig
    order: Sequence[str] | None = None
    serialize: SerializeConfig | None = None
    rows: NDArray[np.bool_] | None = None
    """Which rows it changes; None is all."""


def _rewritten(
    frame: pl.DataFrame, order: Sequence[str], data: DataConfig, serialize: SerializeConfig, orders: int, seed: int
) -> Iterator[_Variant]:
    if serialize.style != "template":
        draw = np.random.default_rng(seed)
        for _ in range(orders if len(order) > 1 else 0):
            text = f"the columns in {orders} other random orders"
            yield _Variant("order", text, frame, data, order=[order[place] for place in draw.permutation(len(order))])
        for style in STYLES:
            if style != serialize.style:
                other = serialize.model_copy(update={"style": style})
                yield _Variant(
                    f"style: {style}", f"written as {style} in place of {serialize.style}", frame, data, None, other
                )
        if any(data.columns[name].phrase for name in order):
            plain = {name: column.model_copy(update={"phrase": None}) for name, column in data.columns.items()}
            text = "columns called by their names in the table in place of their phrases"
            yield _Variant("names", text, frame, data.model_copy(update={"columns": plain}))
    numbers = [name for name in order if data.columns[name].is_number]
    if numbers:
        rounded = frame.with_columns(frame[name].round_sig_figs(2) for name in numbers)
        yield _Variant("rounding", "numbers rounded to two significant digits", rounded, data)
    yield from _other_units(frame, order, data)


def _without(frame: pl.DataFrame, order: Sequence[str], data: DataConfig) -> Iterator[_Variant]:
    """One field after the other not recorded, for the patients who have it."""
    for name in order:
        recorded = frame[name].is_not_null().to_numpy()
        if recorded.any():
            blank = with_values(frame, pl.Series(name, [None] * frame.height, dtype=frame[name].dtype), data)
            yield _Variant(f"missing: {name}", f"{name} is not recorded", blank, data, rows=recorded)


def _summaries(variants: list[_Variant], changes: list[Array], ids: NDArray[Any]) -> list[Probe]:
    """One entry a name. A patient's change over several variants of a name counts once for each in
    mean and quantile."""
    gathered: dict[str, tuple[_Variant, list[Array]]] = {}
    most: dict[str, Array] = {}
    for variant, change in zip(variants, changes, strict=True):
        moved = change if variant.rows is None else change[variant.rows]
        gathered.setdefault(variant.name, (variant, []))[1].append(moved)
        seen = change if variant.rows is None else np.where(variant.rows, change, 0)
        most[variant.name] = np.maximum(most.get(variant.name, seen), seen)
    return [
        Probe(
            name,
            variant.text,
            n=len(moved[0]),
            mean_change=float(np.mean(moved)),
            p95_change=float(np.quantile(moved, 0.95)),
            max_change=float(np.max(moved)),
            worst=_worst(most[name], ids),
        )
        for name, (variant, moved) in gathered.items()
    ]


def _worst(changes: Array, ids: NDArray[Any]) -> list[Moved]:
    """The patients of the largest changes, those above 0."""
    order = np.argsort(-changes, kind="stable")[:WORST]
    return [Moved(str(ids[row]), float(changes[row])) for row in order if changes[row] > 0]


# --------------------------------------------------------------------------------------------------
# units


class _Conversion(NamedTuple):
    """value in `unit` x factor = value in `other`, written with `decimals`."""

    unit: str
    other: str
    factor: float
    decimals: int
    substance: str = ""
    """Regular expression that the column's name must hold: between mass and amount, the factor
    depends on it."""


CONVERSIONS = (
    # 1 mmHg = 0.133322 kPa, 1 kg = 2.20462 lb (NIST SP 811, appendix B); molar masses 386.65,
    # 180.16 and 113.12 g/mol.
    _Conversion("mmHg", "kPa", 0.133322, 1),
    _Conversion("kPa", "mmHg", 7.50062, 0),
    _Conversion("cm", "m", 0.01, 2),
    _Conversion("m", "cm", 100, 0),
    _Conversion("kg", "lb", 2.20462, 0),
    _Conversion("lb", "kg", 0.453592, 1),
    _Conversion("mg/dL", "mmol/L", 0.0258632, 1, r"chol|hdl|ldl"),
    _Conversion("mmol/L", "mg/dL", 38.665, 0, r"chol|hdl|ldl"),
    _Conversion("mg/dL", "mmol/L", 0.0555062, 1, r"gluc|sugar"),
    _Conversion("mmol/L", "mg/dL", 18.016, 0, r"gluc|sugar"),
    _Conversion("mg/dL", "µmol/L", 88.402, 0, r"creat"),
    _Conversion("µmol/L", "mg/dL", 0.0113120, 2, r"creat"),
)


def _other_units(frame: pl.DataFrame, order: Sequence[str], data: DataConfig) -> Iterator[_Variant]:
    for name in order:
        column = data.columns[name]
        found = _conversion(name, column)
        if found:
            changes: dict[str, Any] = {
                "unit": found.other,
                "type": "numeric",
                "decimals": found.decimals,
                "range": None,
            }
            if column.reference:
                low, high = column.reference
                changes["reference"] = (low * found.factor, high * found.factor)
            columns = {**data.columns, name: column.model_copy(update=changes)}
            other = data.model_copy(update={"columns": columns})
            values = frame.with_columns(frame[name] * found.factor)
            text = f"{name} in {found.other} in place of {column.unit}"
            yield _Variant(f"unit: {name}", text, values, other, rows=frame[name].is_not_null().to_numpy())


def _conversion(name: str, column: Column) -> _Conversion | None:
    """The conversion of a column's unit, unless its name in the text holds the unit too and would
    contradict."""
    unit, label = _plain(column.unit or ""), schema.label(name, column)
    in_name = unit in _plain(label) if len(unit) > 2 else unit in label.lower().split()
    if not column.is_number or in_name:
        return None
    called = _called(name, column)
    fitting = (c for c in CONVERSIONS if _plain(c.unit) == unit and re.search(c.substance, called))
    return next(fitting, None)


def _plain(words: str) -> str:
    """Lower-case letters and digits alone: `mg/dL`, `mg_dl` and `MG/DL` are one unit."""
    return re.sub(r"[^a-zµ0-9]", "", words.lower().replace("μ", "µ").replace("²", "2"))


def _called(name: str, column: Column) -> str:
    """All that a column is called, in words."""
    return re.sub(r"[_\W]+", " ", f"{name} {column.phrase or ''}".lower())


# --------------------------------------------------------------------------------------------------
# findings that get worse


class _Finding(NamedTuple):
    """A finding that, raised alone, does not lower the risk of cardiovascular disease."""

    name: str
    pattern: str
    """Regular expression for what a column is called, of any type and however often it stands in
    the table; `never` for what it must not be called. Empty for what `cardiotune.data.roles`
    finds."""
    steps: dict[str, float]
    """Unit -> a step that a clinician would call a change. The first unit is that of a column
    without one."""
    never: str = r"\bhdl\b|over|after|before|change|diff|categor|group|class|hist"
    meaning: Meaning | None = None


FINDINGS = (
    # Age, systolic pressure and cholesterol raise the risk in SCORE2 (Eur Heart J 2021;42:2439),
    # body-mass index and diabetes, for which glucose stands here, in QRISK3 (BMJ 2017;357:j2099).
    # The steps are our own choice.
    _Finding("systolic blood pressure", "", {"mmhg": 10, "kpa": 1.3}, meaning="systolic_pressure"),
    _Finding("age", "", {"years": 5}, meaning="age"),
    _Finding("cholesterol", r"cholesterol|chol\b", {"mgdl": 40, "mmoll": 1}),
    _Finding("glucose", r"glucose|\bgluc\b", {"mgdl": 36, "mmoll": 2}),
    _Finding("body-mass index", r"\bbmi\b|body mass index", {"kgm2": 5}),
    _Finding("weight at the same height", r"\bweight\b", {"kg": 10, "lb": 22}, r"birth|over|under|loss|change|gain"),
)
STEPS = 2
"""How often a finding is raised, each time from the last value."""


class _Rise(NamedTuple):
    column: str
    text: str
    steps: list[pl.DataFrame]
    applies: list[NDArray[np.bool_]]
    """For each step, (rows,): the value is recorded and stays within the column's range."""


def _raised(frame: pl.DataFrame, order: Sequence[str], data: DataConfig) -> Iterator[_Rise]:
    meant = {name: meaning for meaning, name in roles.learn(data.columns).columns.items()}
    for name in order:
        column = data.columns[name]
        derived_from = column.derive.inputs if column.derive else []
        finding = _finding(name, column, meant.get(name))
        if finding is None or set(derived_from) & set(order):
            continue  # raised alone, a derived column would contradict the columns that it comes from
        if column.is_number:
            step = _step(finding, name, column)
            highest = column.range[1] if column.range else frame[name].max()
            raised = [frame[name] + step * times for times in range(1, STEPS + 1)]
            applies = [(values <= highest).fill_null(False).to_numpy() for values in raised]
            unit, first = next(iter(finding.steps.items()))
            by = f"{step:g} {column.unit}" if column.unit else f"{first:g} {unit}"
            text = f"{finding.name} raised by {by}, {STEPS} times"
        elif column.kind.ordered and len(codes := list(schema.codes_of(column))) > 1:
            next_code = dict(zip(codes, [*codes[1:], None], strict=True))
            raised, values = [], frame[name]
            for _ in range(min(STEPS, len(codes) - 1)):
                values = values.replace_strict(next_code, default=None, return_dtype=pl.String)
                raised.append(values)
            applies = [values.is_not_null().to_numpy() for values in raised]
            text = f"{finding.name} raised to the next category"
        else:
            continue
        if any(mask.any() for mask in applies):
            yield _Rise(name, text, [with_values(frame, values, data) for values in raised], applies)


def _finding(name: str, column: Column, meaning: Meaning | None) -> _Finding | None:
    """What a column measures, by its meaning or what it is called, if its unit is one of the
    finding's."""
    words = _called(name, column)
    for finding in FINDINGS:
        called = bool(finding.pattern) and re.search(finding.pattern, words) and not re.search(finding.never, words)
        if called or (finding.meaning and finding.meaning == meaning):
            known = column.kind.ordered or _step(finding, name, column) > 0
            return finding if known else None
    return None


def _step(finding: _Finding, name: str, column: Column) -> float:
    """The step in the column's unit; 0 when the unit is none that the finding is measured in."""
    first = next(iter(finding.steps.values()))
    if finding.meaning == "age" or (finding.meaning and not column.unit):  # the name may say the unit: sbp_kpa
        return first / (roles.scale(finding.meaning, name, column) or np.inf)
    return finding.steps.get(_plain(column.unit), 0) if column.unit else first


def _monotone(rise: _Rise, path: Array, tolerance: float, ids: NDArray[Any]) -> Monotone:
    """path: (1 + steps, rows) risks from the patient's own value upwards. A patient counts once,
    wrong at any step."""
    applies = np.array(rise.applies)
    wrong = (np.diff(path, axis=0) < -tolerance) & applies
    n = int(applies.any(axis=0).sum())
    falls = np.where(wrong, -np.diff(path, axis=0), 0).max(axis=0)
    share = float(wrong.any(axis=0).sum() / n)
    return Monotone(rise.column, rise.text, n, share, _worst(falls, ids))
