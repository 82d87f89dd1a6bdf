"""Parts: disjoint, complete, stratified, by patient, site, time or column."""

import logging
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from cardiotune.data.cohort import EVENT, ROW_ID, Cohort
from cardiotune.data.split import (
    PARTS,
    cluster_numbers,
    counts,
    few_groups,
    group_folds,
    overlap,
    shared_between,
    split_cohort,
)
from cardiotune.errors import DataError
from cardiotune.settings import DataConfig, SplitConfig


def cohort(events: Any, **columns: Any) -> tuple[Cohort, DataConfig]:
    """A cohort with one feature and extra columns given as (role, values)."""
    rows = len(events)
    frame = {
        "x": np.arange(rows, dtype=float),
        EVENT: np.asarray(events, np.int8),
        ROW_ID: [f"r{row}" for row in range(rows)],
    }
    entries: dict[str, Any] = {"x": {}, "y": {"role": "target"}}
    for name, (role, values) in columns.items():
        frame[name], entries[name] = values, {"role": role}
        if role == "time" and not isinstance(values[0], date):
            entries[name]["type"] = "integer"
    return Cohort(pl.DataFrame(frame), []), DataConfig.model_validate({"path": "t.csv", "columns": entries})


def draw_events(rows: int, seed: int = 0, rate: float = 0.4) -> np.ndarray:
    return (np.random.default_rng(seed).random(rows) < rate).astype(int)


def test_random_split_is_the_well_known_one() -> None:
    events = draw_events(300)
    parts = split_cohort(*cohort(events), SplitConfig(test=0.3, validation=0.2), seed=42)
    _, test = train_test_split(np.arange(300), test_size=0.3, stratify=events, random_state=42)
    assert np.array_equal(np.flatnonzero(parts == "test"), np.sort(test))
    assert (parts == "validation").sum() == 60
    assert abs(events[parts == "train"].mean() - events.mean()) < 0.02


@settings(max_examples=20, deadline=None)
@given(st.integers(40, 200), st.floats(0.1, 0.45), st.floats(0.1, 0.4), st.integers(0, 2**32 - 1), st.booleans())
def test_parts_are_disjoint_and_complete(rows: int, test: float, validation: float, seed: int, grouped: bool) -> None:
    events = np.arange(rows) % 2
    columns = {"g": ("group", [f"p{row // 3}" for row in range(rows)])} if grouped else {}
    people, data = cohort(events, **columns)
    parts = split_cohort(people, data, SplitConfig(test=test, validation=validation), seed)
    assert set(parts) == set(PARTS) and len(parts) == rows
    number = counts(parts, events)
    assert sum(number[part]["n"] for part in PARTS) == rows
    assert sum(number[part]["n_events"] for part in PARTS) == events.sum()
    if not grouped:
        assert abs(number["test"]["n"] - test * rows) <= 1 and abs(number["validation"]["n"] - validation * rows) <= 2
    else:
        held = {part: set(people.frame["g"].filter(pl.Series(parts == part))) for part in PARTS}
        assert not (
            held["train"] & held["test"] or held["train"] & held["validation"] or held["validation"] & held["test"]
        )
    assert np.array_equal(parts, split_cohort(people, data, SplitConfig(test=test, validation=validation), seed))


@pytest.mark.parametrize("share", [0.1, 0.15, 0.25, 0.3, 0.4, 0.6])
def test_groups_get_the_asked_share(share: float) -> None:
    rows = 1200
    people, data = cohort(draw_events(rows), g=("group", [f"p{row // 2}" for row in range(rows)]))
    parts = split_cohort(people, data, SplitConfig(test=share, validation=0.2), seed=3)
    assert abs((parts == "test").mean() - share) < 0.02
    assert abs((parts == "validation").mean() - 0.2) < 0.03


def test_latest_rows_are_the_test_part() -> None:
    days = [date(2020, 1, 1) + timedelta(days=int(day)) for day in np.random.default_rng(0).permutation(100)]
    people, data = cohort(draw_events(100), t=("time", days))
    parts = split_cohort(people, data, SplitConfig(by="time", test=0.25, validation=0.15), seed=0)
    when = {part: people.frame["t"].filter(pl.Series(parts == part)) for part in PARTS}
    assert [len(when[part]) for part in PARTS] == [60, 15, 25]
    assert when["train"].max() < when["validation"].min() and when["validation"].max() < when["test"].min()


@pytest.mark.parametrize("years", [3, 4, 5])
def test_rows_of_one_year_stay_together(years: int) -> None:
    people, data = cohort(draw_events(120), t=("time", [2015 + row % years for row in range(120)]))
    parts = split_cohort(people, data, SplitConfig(by="time"), seed=0)
    held = {part: set(people.frame["t"].filter(pl.Series(parts == part))) for part in PARTS}
    assert held["test"] == {2014 + years} and held["validation"] == {2013 + years}
    assert len(held["train"]) == years - 2


def test_too_few_times() -> None:
    people, data = cohort(draw_events(60), t=("time", [2015 + row % 2 for row in range(60)]))
    with pytest.raises(DataError, match="part has 0 rows"):
        split_cohort(people, data, SplitConfig(by="time"), seed=0)


def test_missing_time_or_site() -> None:
    for role in ("time", "site"):
        values: list[Any] = [date(2020, 1, 1)] * 59 + [None] if role == "time" else ["A"] * 59 + [None]
        people, data = cohort(draw_events(60), c=(role, values))
        with pytest.raises(DataError, match="1 rows have no c"):
            split_cohort(people, data, SplitConfig.model_validate({"by": role}), seed=0)


def test_named_sites_are_held_out() -> None:
    sites = [f"hospital {row % 5}" for row in range(200)]
    people, data = cohort(draw_events(200), s=("site", sites))
    parts = split_cohort(people, data, SplitConfig(by="site", test_sites=["hospital 3"]), seed=0)
    assert set(people.frame["s"].filter(pl.Series(parts == "test"))) == {"hospital 3"}
    assert people.frame.with_columns(p=pl.Series(parts)).group_by("s").agg(pl.col("p").n_unique())["p"].max() == 1
    with pytest.raises(DataError, match=r"split\.test_sites: 1 of them are not in column s"):
        split_cohort(people, data, SplitConfig(by="site", test_sites=["hospital 9"]), seed=0)
    drawn = split_cohort(people, data, SplitConfig(by="site"), seed=0)
    assert (drawn == "test").mean() == 0.4 and (drawn == "validation").mean() == 0.2


def test_parts_from_a_column() -> None:
    given_parts = ["Train", "val", "TEST", "dev", "train", "test"] * 10
    people, data = cohort([0, 0, 0, 1, 1, 1] * 10, part=("split", given_parts))
    parts = split_cohort(people, data, SplitConfig(by="column"), seed=0)
    assert parts[:6].tolist() == ["train", "validation", "test", "validation", "train", "test"]
    people, data = cohort([0, 1] * 30, part=("split", ["train", "test", "holdout", None] * 15))
    with pytest.raises(DataError, match="30 rows are none of train, validation, test") as caught:
        split_cohort(people, data, SplitConfig(by="column"), seed=0)
    assert "holdout" not in str(caught.value)


def test_a_patient_in_two_parts_is_refused() -> None:
    people, data = cohort(
        [0, 1] * 30,
        g=("group", [f"p{row // 20}" for row in range(60)]),
        part=("split", ["train", "train", "test", "test", "val", "val"] * 10),
    )
    with pytest.raises(DataError, match=r"column g \(role group\) has values in more than one part"):
        split_cohort(people, data, SplitConfig(by="column"), seed=0)


def test_row_ids_must_be_unique() -> None:
    people, data = cohort([0, 1] * 30)
    twice = Cohort(people.frame.with_columns(pl.lit("same").alias(ROW_ID)), [])
    with pytest.raises(DataError, match="row ids are not unique"):
        split_cohort(twice, data, SplitConfig(), seed=0)


@pytest.mark.parametrize("events", [[0] * 59 + [1], [0, 1]])
def test_too_few_events(events: list[int]) -> None:
    with pytest.raises(DataError, match=r"split: .* events"):
        split_cohort(*cohort(events), SplitConfig(), seed=0)


def test_twins_across_parts_are_counted() -> None:
    people, data = cohort([0, 1] * 3)
    frame = people.frame.with_columns(pl.Series("x", [1.0, 2.0, 1.0, 3.0, 2.0, 4.0]))
    parts = np.array(["train", "train", "test", "test", "validation", "validation"])
    texts = ["a", "b", "a", "a", "b", "c"]
    assert overlap(Cohort(frame, []), parts, texts, data) == {
        "rows": {"validation_in_train": 1, "test_in_train": 1, "test_in_validation": 0},
        "texts": {"validation_in_train": 1, "test_in_train": 2, "test_in_validation": 0},
    }


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 10),
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=25, max_size=300),
    st.integers(0, 2**32 - 1),
)
def test_group_folds_are_those_of_scikit_learn(count: int, rows: list[tuple[int, bool]], seed: int) -> None:
    groups, events = np.array([f"p{g}" for g, _ in rows]), np.array([int(event) for _, event in rows])
    assume(len(np.unique(groups)) >= count <= np.bincount(events, minlength=2).min())
    theirs = np.empty(len(rows), int)
    reference = StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(rows, events, groups)
    for number, (_, fold) in enumerate(reference):
        theirs[fold] = number
    assert group_folds(events, groups, count, seed).tolist() == theirs.tolist()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.none() | st.sampled_from("abcdef"), st.sampled_from([*PARTS, "unused"])), max_size=30),
)
def test_shared_keys_are_counted_row_by_row(rows: list[tuple[str | None, str]]) -> None:
    parts = np.array([part for _, part in rows], dtype="<U10")
    held = {part: {key for key, own in rows if own == part} for part in PARTS}
    expected = {
        f"{part}_in_{other}": sum(key in held[other] for key, own in rows if own == part)
        for part, other in (("validation", "train"), ("test", "train"), ("test", "validation"))
    }
    keys = [key for key, _ in rows]
    codes = np.array([0 if key is None else ord(key) for key in keys], dtype=np.uint64) + np.uint64(2**63)
    for same in (keys, pl.Series(keys, dtype=pl.String), codes):
        assert shared_between(same, parts) == expected


# --------------------------------------------------------------------------------------------------
# few patients


@pytest.mark.parametrize("by", ["column", "time", "site"])
def test_a_part_that_is_one_patient_is_refused(by: str) -> None:
    """One patient has 100 of 160 rows, and all of the test part."""
    rows = 160
    giant = np.arange(rows) >= 60
    columns: dict[str, Any] = {"who": ("group", ["giant" if big else f"p{row // 2}" for row, big in enumerate(giant)])}
    if by == "column":
        columns["part"] = (
            "split",
            ["test" if big else "validation" if row < 20 else "train" for row, big in enumerate(giant)],
        )
    if by == "time":
        columns["year"] = ("time", [2020 if big else 2000 + row // 20 for row, big in enumerate(giant)])
    if by == "site":
        columns["site"] = ("site", ["z" if big else "xy"[row < 20] for row, big in enumerate(giant)])
    people, data = cohort(np.arange(rows) % 2, **columns)
    split = SplitConfig(by=by, test=0.5, validation=0.2, **({"test_sites": ["z"]} if by == "site" else {}))
    with pytest.raises(DataError, match=r"all 100 rows of the test part are of one who \(role group\)") as caught:
        split_cohort(people, data, split, 1)
    assert "giant" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_patient_larger_than_a_part_is_refused_wherever_a_random_split_leaves_it_alone() -> None:
    people, data = cohort(np.arange(1300) % 97 % 2, who=("group", ["giant"] * 1000 + [f"p{row}" for row in range(300)]))

    def refused(seed: int) -> str:
        try:
            parts = split_cohort(people, data, SplitConfig(), seed)
        except DataError as error:
            return str(error)
        assert all(people.frame["who"].filter(parts == part).n_unique() > 1 for part in PARTS)
        return ""

    said = [error for seed in range(6) if (error := refused(seed))]
    assert said and all("rows of the test part are of one who (role group)" in error for error in said)


def test_parts_of_few_patients_are_said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("cardiotune"), "propagate", True)
    for size, said in ((10, True), (2, False), (1, False)):
        people, data = cohort(np.arange(300) % 2, who=("group", [f"p{row // size}" for row in range(300)]))
        caplog.clear()
        split_cohort(people, data, SplitConfig(test=0.3, validation=0.2), 0)
        assert ("test: 90 rows that are worth fewer than 20 of column who" in caplog.text) == said


def test_how_many_patients_rows_are_worth() -> None:
    who = pl.Series("who", ["a"] * 9 + ["b", None, None] + ["c"] * 4)
    parts = np.array(["test"] * 12 + ["train"] * 4)
    assert few_groups(parts, who) == {"test": pytest.approx(144 / (81 + 3)), "train": 1}


def test_numbers_of_patients_tell_only_who_belongs_together() -> None:
    people, data = cohort([0, 1] * 3, who=("group", ["z9", None, "a1", "z9", None, "a1"]))
    assert cluster_numbers(people.frame, data) == [0, 1, 2, 0, 3, 2]
    people, data = cohort([0, 1, 1], who=("group", ["b", None, "a"]))
    assert cluster_numbers(people.frame, data) is None
    people, data = cohort([0, 1])
    assert cluster_numbers(people.frame, data) is None


@pytest.mark.parametrize("kind", ["rows", "groups", "sites", "both"])
def test_folds_hold_every_row_once_and_keep_together_what_belongs_together(kind: str) -> None:
    events, columns = draw_events(240), {}
    if kind in ("groups", "both"):
        columns["g"] = ("group", [f"p{row // 3}" for row in range(240)])
    if kind in ("sites", "both"):
        columns["s"] = ("site", [f"s{row // 3 % 8}" for row in range(240)])
    people, data = cohort(events, **columns)
    tested = np.zeros(240)
    for fold in range(1, 5):
        split = SplitConfig(by="cross_validation", folds=4, repeat=2, fold=fold, whole_sites="s" in columns)
        parts = split_cohort(people, data, split, seed=5)
        tested += parts == "test"
        assert set(parts) == set(PARTS)
        for name in columns:
            of_part = [set(people.frame[name].filter(pl.Series(parts == part))) for part in PARTS]
            assert not of_part[0] & of_part[1] and not of_part[0] & of_part[2] and not of_part[1] & of_part[2]
        if kind == "rows":
            assert abs(events[parts == "test"].mean() - events.mean()) < 0.02
            assert (parts == "validation").sum() == 36
    assert (tested == 1).all()
    again = SplitConfig(by="cross_validation", folds=4, repeat=1, fold=4, whole_sites="s" in columns)
    assert not np.array_equal(split_cohort(people, data, again, seed=5), parts)


def test_the_first_fold_stands_for_an_experiment_in_folds() -> None:
    people, data = cohort(draw_events(60))
    first = SplitConfig(by="cross_validation", repeat=1, fold=1)
    assert np.array_equal(
        split_cohort(people, data, SplitConfig(by="cross_validation"), 0), split_cohort(people, data, first, 0)
    )


def test_folds_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(DataError, match="rarer outcome has 4 rows"):
        split_cohort(*cohort([1] * 4 + [0] * 50), SplitConfig(by="cross_validation"), 0)
    sites = cohort(draw_events(90), s=("site", [f"s{row % 3}" for row in range(90)]))
    with pytest.raises(DataError, match="3 groups are too few"):
        split_cohort(*sites, SplitConfig(by="cross_validation", whole_sites=True), 0)
