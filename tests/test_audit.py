import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors

from cardiotune.audit import outcome, overlap
from cardiotune.audit.audit import SUBJECTS, audit_raw, audit_results, audit_table
from cardiotune.audit.ceilings import believable, ceiling_of
from cardiotune.audit.findings import Finding, as_json, from_json, gravest_first
from cardiotune.audit.quick_models import audit_permutation
from cardiotune.audit.results import Results
from cardiotune.audit.table import Table
from cardiotune.audit.values import unique_rows
from cardiotune.config import read_yaml, shipped
from cardiotune.data.cohort import EVENT, ROW_ID, Cohort, read_cohort
from cardiotune.data.prepare import Prepared
from cardiotune.data.serialize import serialize_rows
from cardiotune.data.split import split_cohort
from cardiotune.models.baselines import Baseline, lightgbm, logistic_regression
from cardiotune.models.labelled import LabelledRows
from cardiotune.models.predictions import Prediction
from cardiotune.settings import DataConfig, SerializeConfig, SplitConfig
from conftest import TOY_COLUMNS, build_toy_table

COLUMNS: dict[str, Any] = {
    "male": {"type": "binary"},
    "age": {"type": "numeric"},
    "cigs": {"type": "numeric"},
    "bp_meds": {"type": "binary"},
    "diabetes": {"type": "binary"},
    "chol": {"type": "numeric"},
    "sbp": {"type": "numeric"},
    "dbp": {"type": "numeric"},
    "bmi": {"type": "numeric"},
    "pulse": {"type": "numeric"},
    "sugar": {"type": "numeric"},
    "chd": {"role": "target"},
}
NUMBERS = ["age", "cigs", "chol", "sbp", "dbp", "bmi", "pulse", "sugar"]


def framingham(rows: int = 4240, seed: int = 0) -> pl.DataFrame:
    """Rows of the Framingham kind: whole numbers mostly, 15 % events, which a random forest ranks
    with 0.68."""
    draw = np.random.default_rng(seed)
    male, age = draw.integers(0, 2, rows), draw.integers(32, 71, rows)
    sbp = np.round(100 + 0.8 * age + draw.normal(0, 18, rows))
    cigs = np.where(draw.random(rows) < 0.5, 0, draw.choice([5, 10, 15, 20, 30, 40], rows))
    chol, sugar = np.round(draw.normal(237, 44, rows)), np.round(70 + draw.gamma(3, 5, rows))
    logit = 0.065 * (age - 50) + 0.5 * male + 0.017 * (sbp - 132) + 0.02 * cigs + 0.002 * (chol - 237) - 2.68
    return pl.DataFrame(
        {
            "male": male.astype(str),
            "age": age.astype(float),
            "cigs": cigs.astype(float),
            "bp_meds": (draw.random(rows) < 0.03).astype(int).astype(str),
            "diabetes": (draw.random(rows) < 0.03).astype(int).astype(str),
            "chol": chol,
            "sbp": sbp,
            "dbp": np.round(40 + 0.32 * sbp + draw.normal(0, 8, rows)),
            "bmi": np.round(draw.normal(25.8, 4, rows), 1),
            "pulse": np.round(draw.normal(76, 12, rows)),
            "sugar": sugar,
            EVENT: (draw.random(rows) < 1 / (1 + np.exp(-logit))).astype(int),
        }
    )


def settings(columns: dict[str, Any] = COLUMNS, **changes: Any) -> DataConfig:
    return DataConfig.model_validate({"path": "t.csv", "columns": {**columns, **changes}})


def random_parts(events: np.ndarray, seed: int = 0) -> np.ndarray:
    parts = np.full(len(events), "train", dtype="<U10")
    rest, test = train_test_split(np.arange(len(events)), test_size=0.25, stratify=events, random_state=seed)
    parts[test] = "test"
    parts[train_test_split(rest, test_size=0.2, stratify=events[rest], random_state=seed)[1]] = "validation"
    return parts


def table(
    frame: pl.DataFrame,
    data: DataConfig,
    parts: np.ndarray | None = None,
    texts: list[str] | None = None,
    seed: int = 0,
    ceiling: float | None = None,
) -> Table:
    """What the checks look at, with line numbers for ids unless it has some."""
    if ROW_ID not in frame.columns:
        frame = frame.with_columns(pl.Series(ROW_ID, [str(line) for line in range(frame.height)]))
    parts = random_parts(frame[EVENT].to_numpy().astype(int), seed) if parts is None else parts
    texts = serialize_rows(frame, data.features, data, SerializeConfig()) if texts is None else texts
    return Table(Prepared(Cohort(frame, []), parts, data.features, texts), data, seed, ceiling)


def run(
    frame: pl.DataFrame,
    data: DataConfig | None = None,
    parts: np.ndarray | None = None,
    ceiling: float | None = None,
) -> list[Finding]:
    """The audit of a table that is split at random."""
    return audit_table(table(frame, data or settings(), parts, ceiling=ceiling))


def grave(findings: list[Finding]) -> dict[str, str]:
    """Check -> severity of all that are more than notes."""
    return {finding.check: finding.severity for finding in findings if finding.severity != "note"}


def one(findings: list[Finding], check: str) -> Finding:
    (found,) = [finding for finding in findings if finding.check == check]
    return found


def oversampled(frame: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """Events drawn again until there are as many as non-events, in random order."""
    events, others = frame.filter(pl.col(EVENT) == 1), frame.filter(pl.col(EVENT) == 0)
    again = events.sample(others.height - events.height, with_replacement=True, seed=seed)
    return pl.concat([frame, again]).sample(fraction=1, shuffle=True, seed=seed)


def smote(frame: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """Events made up between an event and one of its five nearest, until there are as many as
    non-events."""
    draw = np.random.default_rng(seed)
    events = frame.filter(pl.col(EVENT) == 1)
    numbers = events.select(NUMBERS).to_numpy()
    near = NearestNeighbors(n_neighbors=6).fit(numbers).kneighbors(numbers, return_distance=False)
    base = draw.integers(0, events.height, frame.height - 2 * events.height)
    other = near[base, draw.integers(1, 6, len(base))]
    way = draw.random((len(base), 1))
    made = pl.DataFrame(numbers[base] + way * (numbers[other] - numbers[base]), schema=NUMBERS)
    kept = events[base].drop(NUMBERS)
    return pl.concat([frame, pl.concat([kept, made], how="horizontal").select(frame.columns)])


def jittered(frame: pl.DataFrame, rows: np.ndarray, noise: float, seed: int = 0) -> pl.DataFrame:
    """Some rows once more, with noise of so many standard deviations in every number, in the
    column's own steps."""
    draw = np.random.default_rng(seed)
    changed = [
        (frame[name][rows] + draw.normal(0, noise * float(frame[name].std()), len(rows))).round(name == "bmi")  # type: ignore[arg-type]
        for name in NUMBERS
    ]
    return frame[rows].with_columns(changed)


def forest_auroc(frame: pl.DataFrame) -> float:
    events, matrix = frame[EVENT].to_numpy(), frame.drop(EVENT).cast(pl.Float64).to_numpy()
    test = random_parts(events) == "test"
    forest = RandomForestClassifier(40, random_state=0).fit(matrix[~test], events[~test])
    return float(roc_auc_score(events[test], forest.predict_proba(matrix[test])[:, 1]))


# --------------------------------------------------------------------------------------------------
# clean tables


@pytest.mark.parametrize("seed", [0, 1])
def test_a_clean_table_raises_nothing(seed: int) -> None:
    findings = run(framingham(2000, seed))
    assert not grave(findings), findings
    assert {"unique_rows", "permutation"} <= {finding.check for finding in findings}


@pytest.mark.parametrize("rows", [240, 3000])
def test_equal_rows_by_chance_are_a_note(rows: int) -> None:
    """In a coarse table many people are alike; the estimate of how many comes near the truth."""
    frame = build_toy_table(rows).rename({"disease": EVENT}).cast({"sex": pl.String, "smoker": pl.String})
    findings = run(frame.with_columns(pl.col("age", "sbp").cast(pl.Float64)), settings(TOY_COLUMNS))
    assert not grave(findings), findings
    if rows == 3000:
        numbers = one(findings, "equal_rows").numbers
        assert numbers["test_in_train"] > 20
        assert numbers["pairs"] / 1.5 < numbers["pairs_expected_by_chance"] < numbers["pairs"] * 1.5


def test_very_coarse_and_dependent_columns_are_not_copies() -> None:
    draw = np.random.default_rng(0)
    band = draw.integers(0, 4, 2000)
    near = np.clip(band + draw.integers(0, 2, 2000), 0, 4)
    frame = pl.DataFrame(
        {"band": band.astype(str), "near": near.astype(str), EVENT: (draw.random(2000) < band / 4 - 0.2)}
    )
    columns = {"band": {"type": "ordinal"}, "near": {"type": "ordinal"}, "y": {"role": "target"}}
    findings = run(frame.cast({EVENT: pl.Int8}), settings(columns))
    assert not grave(findings) and one(findings, "equal_rows").numbers["test_in_train"] == 500


# --------------------------------------------------------------------------------------------------
# copies


def test_oversampling_before_the_split_is_a_leak() -> None:
    """The published mistake: it lifts a random forest from about 0.68 to about 0.99."""
    frame = framingham()
    assert 0.13 < frame[EVENT].to_numpy().mean() < 0.18
    assert 0.63 < forest_auroc(frame) < 0.73
    leaked = oversampled(frame)
    assert forest_auroc(leaked) > 0.98
    findings = run(leaked)
    assert grave(findings) == dict.fromkeys(("equal_rows", "oversampling", "permutation"), "leak")
    numbers = one(findings, "oversampling").numbers
    assert numbers["repeated_among_events"] > 0.7 and numbers["repeated_among_others"] < 0.01
    assert one(findings, "permutation").numbers["auroc_shuffled"] > 0.55, "copies are recognised with shuffled labels"


def test_oversampling_within_training_is_a_note() -> None:
    frame = framingham(2000).with_columns(pl.Series("part", random_parts(framingham(2000)[EVENT].to_numpy())))
    again = frame.filter((pl.col(EVENT) == 1) & (pl.col("part") == "train"))
    frame = pl.concat([frame, again, again])
    findings = run(frame.drop("part"), parts=frame["part"].to_numpy().astype("<U10"))
    assert not grave(findings)
    assert "no copy stands in another part" in one(findings, "oversampling").text


def test_test_rows_copied_into_training_are_a_leak_and_a_few_a_warning() -> None:
    frame = framingham(2000)
    parts = random_parts(frame[EVENT].to_numpy())
    test = np.flatnonzero(parts == "test")
    for count, severity in ((40, "leak"), (4, "warning")):
        copied = pl.concat([frame, frame[test[:count]]])
        findings = run(copied, parts=np.concatenate([parts, np.full(count, "train")]))
        assert one(findings, "equal_rows").severity == severity
        assert one(findings, "equal_rows").numbers["test_in_train"] == count


def test_one_patient_in_two_parts_is_a_leak() -> None:
    frame = framingham(600)
    ids = pl.Series(ROW_ID, [str(line // 2) for line in range(600)])
    findings = run(frame.with_columns(ids))
    assert grave(findings) == {"shared_ids": "leak"}
    grouped = settings(household={"role": "group"})
    assert grave(run(frame.with_columns(ids.alias("household")), grouped)) == {"shared_ids": "leak"}


def test_copied_ready_texts_are_a_leak() -> None:
    frame = framingham(1500)
    texts = pl.Series("note", serialize_rows(frame, settings().features, settings(), SerializeConfig()))
    data = settings({"note": {"role": "text"}, "chd": {"role": "target"}})
    frame = pl.DataFrame([texts, frame[EVENT]])

    def read(frame: pl.DataFrame) -> list[Finding]:
        return audit_table(table(frame, data, texts=frame["note"].to_list()))

    assert not grave(read(frame))
    assert {"equal_rows", "oversampling"} <= grave(read(oversampled(frame))).keys()


def test_made_up_rows_are_found_by_their_decimals() -> None:
    leaked = smote(framingham(1200))
    finding = one(run(leaked), "made_up_rows")
    assert finding.severity == "leak" and finding.numbers["test_rows"] > 150
    assert {"age", "bmi", "sbp"} <= finding.numbers["columns"].keys()


def test_fine_decimals_in_both_outcomes_are_none_of_it() -> None:
    frame = framingham(1000)
    noise = np.random.default_rng(0).random(1000)
    assert "made_up_rows" not in grave(run(frame.with_columns(pl.col("chol") + noise)))


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.2])
def test_copies_with_changed_numbers_are_a_leak(noise: float) -> None:
    """Of both outcomes, and of events only as oversamplers make them. No number equals the
    original's any more."""
    frame = framingham(2500)
    draw, events = np.random.default_rng(1), np.flatnonzero(frame[EVENT].to_numpy())
    for rows in (draw.choice(2500, 300, replace=False), draw.choice(events, 500)):
        found = run(pl.concat([frame, jittered(frame, rows, noise)]))
        finding = one(found, "near_copies")
        assert finding.severity == "leak"
        assert "equal_rows" not in grave(found), "they are not found as exact copies"
        if len(rows) == 300:  # of 600 rows in pairs, 0.4 x 0.6 are held out and have the other in training
            assert finding.numbers["share_of_held_out"] == pytest.approx(600 * 0.24 / (0.4 * 2800), abs=0.06)


def test_made_up_rows_in_whole_numbers_are_near_copies() -> None:
    frame = framingham(2500)
    made = smote(frame)[2500:]
    rounded = made.with_columns(pl.col(name).round(name == "bmi") for name in NUMBERS)
    findings = run(pl.concat([frame, rounded]))
    assert "made_up_rows" not in grave(findings)
    assert one(findings, "near_copies").severity == "leak"


def test_made_up_rows_within_training_are_a_note() -> None:
    frame = framingham(2500)
    parts = random_parts(frame[EVENT].to_numpy())
    train = frame.filter(pl.Series(parts == "train"))
    made = smote(train)[train.height :].with_columns(pl.col(name).round(name == "bmi") for name in NUMBERS)
    findings = run(pl.concat([frame, made]), parts=np.concatenate([parts, np.full(made.height, "train")]))
    assert not grave(findings), findings
    assert "nothing says that they lie across the parts" in one(findings, "near_copies").text


def test_stored_table_shows_what_exclusions_hide(tmp_path: Path) -> None:
    """The cohort drops exact copies and half years, so only the stored table tells that there were
    any."""
    whole = {name: {**c, "type": "integer"} if name in NUMBERS and name != "bmi" else c for name, c in COLUMNS.items()}
    table = framingham(1200)
    for leaked, check in ((oversampled(table), "oversampling"), (smote(table), "made_up_rows")):
        leaked.rename({EVENT: "chd"}).write_csv(tmp_path / "t.csv")
        asked = {"duplicate_rows": "exclude", "out_of_range": "exclude"}
        data = settings(whole).model_copy(update={"path": str(tmp_path / "t.csv"), **asked})
        assert grave(audit_raw(data)) == {check: "warning"}
        cohort = read_cohort(data, 0)
        assert cohort.frame.height < 1220 < 1900 < leaked.height
    kept = data.model_copy(update={"duplicate_rows": "keep"})
    oversampled(table).rename({EVENT: "chd"}).write_csv(tmp_path / "t.csv")
    frame = read_cohort(kept, 0).frame
    assert grave(run(frame, kept))["oversampling"] == "leak"
    table.rename({EVENT: "chd"}).write_csv(tmp_path / "t.csv")
    assert not grave(audit_raw(data))


# --------------------------------------------------------------------------------------------------
# the outcome among the features


def test_a_column_that_tells_the_outcome_is_a_leak() -> None:
    frame = framingham(1200)
    events = frame[EVENT].to_numpy()
    draw = np.random.default_rng(0)
    wrong = draw.random(1200) < 0.02
    told = np.where(wrong, 1 - events, events)
    planted = {
        "lab": (pl.Series(told + draw.normal(0, 0.1, 1200)), {"type": "numeric"}),
        "edges": (
            pl.Series(np.where(told == 1, draw.choice([-5.0, 5.0], 1200), draw.random(1200))),
            {"type": "numeric"},
        ),
        "ward": (pl.Series(np.where(told == 1, "west", draw.choice(["north", "east"], 1200))), {"type": "categorical"}),
        "visit": (pl.Series([None if t else 1.0 for t in told], dtype=pl.Float64), {"type": "numeric"}),
    }
    for name, (values, column) in planted.items():
        findings = run(frame.with_columns(values.alias(name)), settings({**COLUMNS, name: column}))
        told_by = [f.text for f in findings if f.check == "single_column"]
        assert any(name in text for text in told_by), name
        assert all(name in text or "length of the text" in text for text in told_by), name


def test_columns_named_after_what_follows() -> None:
    later = ["death_date", "dischargeCode", "icd10_main", "had_pci", "bp_after", "post_op_day", "days_to_chd", "stents"]
    harmless = ["postcode", "afternoon_dose", "peak_heart_rate", "family_history", "icdeal"]
    columns = {**COLUMNS, **{name: {"type": "numeric"} for name in later + harmless}}

    def named(data: DataConfig) -> list[Finding]:
        empty = pl.DataFrame(schema={EVENT: pl.Int64})
        return outcome.names(table(empty, data, np.array([]), []))

    finding = one(named(settings(columns)), "column_names")
    assert finding.severity == "warning" and set(finding.numbers["columns"]) == set(later)
    assert not named(settings())
    for name in ("cardio", "statlog_heart", "uci_heart"):
        tree = read_yaml(shipped("datasets")[name])["data"]
        assert not named(DataConfig.model_validate({"path": "t.csv", **tree})), name


# --------------------------------------------------------------------------------------------------
# shuffled labels


def fitted_on_all(rows: LabelledRows) -> np.ndarray:
    return lightgbm(replace(rows, parts=np.where(rows.parts == "test", "train", rows.parts)))


def rate_of_all_rows(rows: LabelledRows) -> np.ndarray:
    """A target encoding that forgot to leave the test part out."""
    codes = np.unique(rows.frame["chol"].to_numpy(), return_inverse=True)[1]
    return (np.bincount(codes, rows.events) / np.bincount(codes))[codes]


def reads_the_frame(rows: LabelledRows) -> np.ndarray:
    draw = np.random.default_rng(int(rows.events[:64] @ np.arange(64)))
    return np.clip(rows.frame[EVENT].to_numpy() * 0.3 + draw.random(rows.frame.height) * 0.7, 0, 1)


def test_shuffled_labels_show_a_model_that_sees_the_test_part() -> None:
    frame = framingham(1500)
    leaky: list[Baseline] = [fitted_on_all, rate_of_all_rows, reads_the_frame]
    for model in leaky:
        (finding,) = audit_permutation("it", model, table(frame, settings()))
        assert finding.severity == "leak", model
    for model in (logistic_regression, lightgbm):
        for seed in range(3):
            (finding,) = audit_permutation("it", model, table(frame, settings(), seed=seed))
            assert finding.severity == "note", finding


# --------------------------------------------------------------------------------------------------
# what labels and columns allow


def conflicts(texts: list[str], events: np.ndarray) -> list[Finding]:
    return outcome.conflicts(table(pl.DataFrame({EVENT: events}), settings(), np.full(len(events), "train"), texts))


def test_conflicting_labels_by_hand() -> None:
    texts = ["a", "a", "a", "b", "b", "c", "d"]
    events = np.array([1, 1, 0, 0, 0, 1, 0])
    numbers = one(conflicts(texts, events), "conflicting_labels").numbers
    assert numbers["texts"] == 1 and numbers["rows"] == 3 and numbers["rows_with_repeated_text"] == 5
    assert numbers["ceiling_accuracy"] == pytest.approx(6 / 7)
    assert numbers["ceiling_accuracy_repeated"] == pytest.approx(4 / 5)
    # pairs event/other: three events (2/3, 2/3, 1) against four others (2/3, 0, 0, 0): 10 won, 2
    # tied
    assert numbers["ceiling_auroc"] == pytest.approx(11 / 12)
    differ = (0.5 + 0.5 + 1 + 0 + 0) / 5
    assert numbers["accuracy_bound_repeated"] == pytest.approx((1 + np.sqrt(1 - 2 * differ)) / 2)
    assert not conflicts(["a", "a", "b"], np.array([1, 1, 0]))


def test_accuracy_bound_is_the_truth_for_pairs_where_the_ceiling_is_not() -> None:
    draw = np.random.default_rng(0)
    texts, events = [str(row // 2) for row in range(40_000)], (draw.random(40_000) < 0.3).astype(int)
    numbers = one(conflicts(texts, events), "conflicting_labels").numbers
    assert numbers["accuracy_bound_repeated"] == pytest.approx(0.7, abs=0.01)
    assert numbers["ceiling_accuracy_repeated"] > 0.78


def test_zero_far_from_the_rest_is_a_missing_value(tmp_path: Path) -> None:
    frame = framingham(1000)
    gone = np.random.default_rng(0).random(1000) < 0.08
    frame = frame.with_columns(pl.when(~pl.Series(gone)).then(pl.col("chol")).otherwise(0.0).alias("chol"))
    finding = one(run(frame), "zero_as_missing")
    assert finding.severity == "warning" and finding.numbers["column"] == "chol"
    assert finding.numbers["rows"] == gone.sum() and finding.numbers["events"] == frame[EVENT].to_numpy()[gone].sum()
    frame.rename({EVENT: "chd"}).write_csv(tmp_path / "t.csv")
    for marks, expected in (([], {"zero_as_missing": "warning"}), (["0.0"], {})):
        data = settings(chol={"type": "numeric", "range": [80, 700], "missing": marks})
        data = data.model_copy(update={"path": str(tmp_path / "t.csv")})
        assert grave(audit_raw(data)) == expected


def test_missing_by_site_and_unique_rows() -> None:
    frame = framingham(1200)
    site = pl.Series("site", ["north", "south"] * 600)
    blank = pl.when(site != "north").then(pl.col("sugar")).alias("sugar")
    findings = run(frame.with_columns(site).with_columns(blank), settings(site={"role": "site"}))
    finding = one(findings, "missing_by_group")
    assert finding.severity == "note" and finding.numbers == {"column": "sugar", "lowest": 0.0, "highest": 1.0}
    twice = pl.concat([frame, frame[:100]])
    assert one(unique_rows(table(twice, settings())), "unique_rows").numbers == {
        "rows": 1100,
        "share": 1100 / 1300,
    }


# --------------------------------------------------------------------------------------------------
# after a run


def judged(value: float, ci: list[float] | None, n_events: int = 500) -> dict[str, Any]:
    return {"n": 2 * n_events, "n_events": n_events, "models": {"tuned": {"auroc": {"value": value, "ci": ci}}}}


CARDIO = list(read_yaml(shipped("datasets")["cardio"])["data"]["columns"])


@pytest.mark.parametrize(
    ("part", "columns", "known", "severity"),
    [
        (judged(0.95, [0.94, 0.96]), CARDIO, None, "leak"),
        (judged(0.95, None), CARDIO, None, "leak"),
        (judged(0.82, [0.80, 0.84]), CARDIO, None, "note"),
        (judged(0.80, [0.79, 0.81]), CARDIO, None, None),
        (judged(0.95, [0.94, 0.96]), ["a", "b"], None, None),
        (judged(0.999, [0.995, 1.0]), ["a", "b"], None, "leak"),
        (judged(0.9, [0.88, 0.92]), ["a", "b"], 0.85, "leak"),
        (judged(1.0, [1.0, 1.0], n_events=8), CARDIO, None, None),
    ],
)
def test_auroc_above_the_ceiling(part: dict[str, Any], columns: list[str], known: float | None, severity: str) -> None:
    findings = audit_results(Results([], {"parts": {"test": part}}, [columns], known))
    assert [finding.severity for finding in findings] == ([severity] if severity else [])


def test_the_ceiling_of_several_tables_is_the_highest_of_theirs() -> None:
    statlog = read_yaml(shipped("datasets")["statlog_heart"])["data"]["columns"]
    assert believable([CARDIO, statlog], None).name == believable([statlog, CARDIO], None).name == "UCI Statlog heart"
    assert believable([CARDIO, ["a", "b"]], None).auroc == 0.99
    assert believable([], None).auroc == 0.99
    assert believable([CARDIO, statlog], 0.7).auroc == 0.7


def test_public_tables_are_known_by_their_columns() -> None:
    for name, title in (("cardio", "Kaggle"), ("statlog_heart", "Statlog"), ("uci_heart", "UCI heart")):
        columns = read_yaml(shipped("datasets")[name])["data"]["columns"]
        ceiling = ceiling_of(columns)
        assert ceiling is not None and title in ceiling.name
    assert ceiling_of(TOY_COLUMNS) is None


def test_the_ceiling_of_the_config_is_documented_and_that_of_the_audit() -> None:
    tree = read_yaml(shipped("datasets")["cardio"])
    recognised = ceiling_of(tree["data"]["columns"])
    assert recognised is not None and recognised.auroc == tree["evaluation"]["known_ceiling"] == 0.81
    findings = run(framingham(2000), ceiling=0.55)
    assert grave(findings) == {"above_ceiling": "leak"}
    assert "on this table (evaluation.known_ceiling)" in one(findings, "above_ceiling").text


def test_rows_in_two_parts_and_a_test_part_that_is_known() -> None:
    places = [("a", "test"), ("a", "validation"), ("b", "test")]
    rows = [Prediction(row_id, part, "tuned", 1, 0.5, 0.5, 1, 0.5) for row_id, part in places]
    metrics = {"parts": {"test": judged(0.9, [0.88, 0.92]), "validation": judged(0.8, [0.77, 0.83])}}
    findings = audit_results(Results(rows, metrics))
    assert grave(findings) == {"shared_ids": "leak", "test_above_validation": "warning"}
    metrics["parts"]["validation"] = judged(0.86, [0.83, 0.89])
    assert not audit_results(Results(rows[1:], metrics))


def test_calibration_and_tokens() -> None:
    fitted = {"method": "isotonic", "fitted_on": "test", "threshold": {"chosen_on": "train"}}
    nothing: dict[str, Any] = {"parts": {}}

    def found(**told: Any) -> list[Finding]:
        return audit_results(Results([], nothing, **told))

    assert [finding.severity for finding in found(calibration=fitted)] == ["leak", "warning"]
    assert not found(calibration={"fitted_on": "validation", "threshold": {"chosen_on": "validation"}})
    assert found(tokens={"longest": 99, "limit": 80})[0].severity == "warning"
    assert found(tokens={"longest": 80, "limit": 80})[0].severity == "note"
    assert found(tokens=None) == []
    both = gravest_first(found(calibration=fitted, tokens={"longest": 99, "limit": 80}))
    assert [finding.severity for finding in both] == ["leak", "warning", "warning"], "the gravest first"
    assert from_json(json.loads(json.dumps(as_json(both)))) == both, "`audit.json` and back"


def test_a_new_check_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "CHECKS", type(overlap.CHECKS)(overlap.CHECKS))

    @overlap.CHECKS.add
    def nobody_is_ninety(table: Table) -> list[Finding]:
        old = int((table.frame["age"] > 90).sum())
        return [Finding("ninety", "warning", "somebody is over ninety", {"rows": old})] if old else []

    assert not [finding for finding in run(framingham(300)) if finding.check == "ninety"]
    aged = framingham(300).with_columns(age=pl.col("age") + 60)
    assert one(run(aged), "ninety").severity == "warning"
    names = [check for subject in SUBJECTS for check in subject.CHECKS]
    assert len(names) == len(set(names)) == 18


# --------------------------------------------------------------------------------------------------


def test_no_value_of_a_patient_is_told() -> None:
    frame = oversampled(framingham(800)).with_columns(pl.lit("CANARY").alias("ward"), pl.lit(271828.5).alias("dose"))
    frame = frame.with_columns(pl.lit("CANARY").alias(ROW_ID), pl.lit("CANARY").alias("site"))
    columns = {**COLUMNS, "ward": {"type": "categorical"}, "dose": {"type": "numeric"}, "site": {"role": "site"}}
    told = json.dumps(as_json(run(frame, settings(columns))), allow_nan=False)
    assert "shared_ids" in told and "CANARY" not in told and "271828" not in told


@pytest.mark.slow
def test_the_real_cardio_table_in_a_minute(shared_data: Path) -> None:
    tree = read_yaml(shipped("datasets")["cardio"])["data"]
    data = DataConfig.model_validate({**tree, "path": str(shared_data / "cardio_train.csv")})
    cohort = read_cohort(data, 0)
    parts = split_cohort(cohort, data, SplitConfig(), 0)
    texts = serialize_rows(cohort.frame, data.features, data, SerializeConfig())
    start = time.perf_counter()
    findings = audit_raw(data) + audit_table(table(cohort.frame, data, parts, texts))
    assert time.perf_counter() - start < 60
    assert cohort.frame.height > 68_000 and not grave(findings)
    equal = one(findings, "equal_rows").numbers
    assert equal["test_in_train"] > 1000
    assert equal["pairs"] / 1.5 < equal["pairs_expected_by_chance"] < equal["pairs"] * 1.5
    assert one(findings, "conflicting_labels").numbers["texts"] > 1000
