"""Raw table to checked cohort: every row accounted for, and no cell in a message."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.model_selection import train_test_split

from cardiotune.config import load_config, read_yaml, shipped
from cardiotune.data.cohort import EVENT, ROW_ID, Cohort, read_cohort, read_rows
from cardiotune.data.draft import draft
from cardiotune.data.split import split_cohort
from cardiotune.errors import DataError
from cardiotune.settings import DataConfig, SplitConfig
from conftest import TOY_COLUMNS, build_toy_table

CANARY = "ZZCANARY42"


def config(path: Path | str, columns: dict[str, Any] | None = None, **settings: Any) -> DataConfig:
    return DataConfig.model_validate({"path": str(path), "columns": columns or TOY_COLUMNS, **settings})


def table(folder: Path, frame: pl.DataFrame, name: str = "t.csv") -> Path:
    file = folder / name
    frame.write_parquet(file) if name.endswith("parquet") else frame.write_csv(file)
    return file


def change(frame: pl.DataFrame, column: str, values: dict[int, Any], dtype: Any = None) -> pl.DataFrame:
    cells = frame[column].cast(dtype).to_list() if dtype else frame[column].to_list()
    for row, value in values.items():
        cells[row] = value
    return frame.with_columns(pl.Series(column, cells, dtype))


def refusal(data: DataConfig) -> str:
    with pytest.raises(DataError) as caught:
        read_cohort(data, 0)
    message = str(caught.value)
    assert CANARY not in message and "\n" not in message
    return message


def flow(cohort: Cohort) -> list[tuple[str, int, int]]:
    return [(step.step, step.excluded, step.left) for step in cohort.flow]


def test_clean_table(tmp_path: Path) -> None:
    frame = build_toy_table()
    cohort = read_cohort(config(table(tmp_path, frame.with_columns(extra=pl.lit("x")))), 0)
    assert flow(cohort) == [("rows in the table", 0, 240)]
    assert cohort.events.tolist() == frame["disease"].to_list()
    assert cohort.notes.columns_ignored == ["extra"]
    assert cohort.notes.missing == {"age": 0, "sex": 0, "sbp": 0, "smoker": 0, "pain": frame["pain"].null_count()}
    assert cohort.frame["pain"].drop_nulls().n_unique() == 2, "`none` is a code of this column, not a missing value"
    assert cohort.frame["age"].to_list() == frame["age"].cast(float).to_list()


def test_every_exclusion_is_counted(tmp_path: Path) -> None:
    frame = build_toy_table()
    frame = change(frame, "disease", {0: None, 1: None})
    frame = change(frame, "age", {1: 200, 2: 200, 3: 5})
    frame = change(frame, "sbp", {3: 999, 4: 999})
    frame = change(frame, "sex", {5: 7})
    frame = pl.concat([frame, frame[10:12]])
    cohort = read_cohort(config(table(tmp_path, frame), out_of_range="exclude"), 0, keep_row_ids=True)
    assert flow(cohort) == [
        ("rows in the table", 0, 242),
        ("target missing", 2, 240),
        ("age out of range", 2, 238),
        ("sex out of range", 1, 237),
        ("sbp out of range", 1, 236),
        ("duplicate of an earlier row", 2, 234),
    ]
    assert cohort.frame[ROW_ID].to_list() == frame["patient_id"][6:240].to_list()


def test_out_of_range_can_be_blanked_or_refused(tmp_path: Path) -> None:
    file = table(tmp_path, change(build_toy_table(), "age", {1: 200, 2: 200}))
    cohort = read_cohort(config(file, out_of_range="missing"), 0)
    assert cohort.frame.height == 240 and cohort.frame["age"].null_count() == 2
    assert cohort.notes.values_out_of_range == {"age": 2} and cohort.notes.missing["age"] == 2
    assert "values out of range: age (<10 rows)" in refusal(config(file, out_of_range="error"))


def test_nothing_is_derived_from_a_blanked_value(tmp_path: Path) -> None:
    columns = TOY_COLUMNS | {
        "dbp": {"type": "integer", "range": [30, 180]},
        "pulse": {"derive": {"function": "pulse_pressure", "inputs": ["sbp", "dbp"]}, "range": [10, 150]},
    }
    frame = build_toy_table().with_columns(dbp=pl.col("sbp") - 40)
    frame = change(change(frame, "sbp", {0: 16020}), "dbp", {1: 179, 2: frame["sbp"][2] - 5})
    cohort = read_cohort(config(table(tmp_path, frame), columns, out_of_range="missing"), 0)
    assert cohort.frame["sbp"][0] is None and cohort.frame["pulse"][0] is None
    assert cohort.frame["pulse"][1] is None and cohort.frame["dbp"][1] == 179, "only the implausible one is blanked"
    assert cohort.frame["pulse"][3] == 40
    assert cohort.notes.values_out_of_range == {"sbp": 1, "pulse": 2}
    assert flow(read_cohort(config(table(tmp_path, frame), columns, out_of_range="exclude"), 0))[1:] == [
        ("sbp out of range", 1, 239),
        ("pulse out of range", 2, 237),
    ]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("age", CANARY, "cells that are not of the column's type: age: integer (<10 rows)"),
        ("sbp", "1,234", "sbp: integer (<10 rows)"),
        ("disease", CANARY, "target disease: expected 0 and 1, found 3 different values, 1 rows outside the codes"),
        ("disease", "2", "data.columns.disease.positive"),
    ],
)
def test_unreadable_cells(tmp_path: Path, column: str, value: str, said: str) -> None:
    frame = change(build_toy_table(), column, {7: value}, pl.String)
    assert said in refusal(config(table(tmp_path, frame)))


def test_ids(tmp_path: Path) -> None:
    frame = build_toy_table()
    other = change(frame, "patient_id", {5: CANARY, 6: CANARY})
    assert "1 rows repeat an id of column patient_id" in refusal(config(table(tmp_path, other)))
    assert "2 rows have no patient_id (role id)" in refusal(
        config(table(tmp_path, change(frame, "patient_id", {5: None, 6: None})))
    )


def test_group_with_missing_values(tmp_path: Path) -> None:
    columns = TOY_COLUMNS | {"patient_id": {"role": "group"}}
    file = table(tmp_path, change(build_toy_table(), "patient_id", {5: None, 6: None, 7: "P00001"}))
    assert "2 rows have no patient_id (role group)" in refusal(config(file, columns))


def test_duplicate_rows_by_choice(tmp_path: Path) -> None:
    columns = {name: entry for name, entry in TOY_COLUMNS.items() if name != "patient_id"}
    frame = build_toy_table().drop("patient_id")
    repeated = int((~frame.select(pl.struct(pl.all()).is_first_distinct()).to_series()).sum()) + 3
    file = table(tmp_path, pl.concat([frame, frame[:3]]))
    excluded = flow(read_cohort(config(file, columns, duplicate_rows="exclude"), 0))
    assert excluded[-1] == ("duplicate of an earlier row", repeated, 243 - repeated)
    for choice in ("by_id", "keep"):
        assert flow(read_cohort(config(file, columns, duplicate_rows=choice), 0)) == [("rows in the table", 0, 243)]
    assert f"{repeated} rows repeat an earlier row" in refusal(config(file, columns, duplicate_rows="error"))


def test_empty_column_and_single_outcome(tmp_path: Path) -> None:
    frame = build_toy_table()
    empty = frame.with_columns(sbp=pl.lit(None, pl.String), smoker=pl.lit("NA"))
    assert "no value in any of 240 rows for sbp, smoker; give them role ignore" in refusal(
        config(table(tmp_path, empty))
    )
    assert "(no event)" in refusal(config(table(tmp_path, frame.with_columns(disease=pl.lit(0)))))
    assert "(an event)" in refusal(config(table(tmp_path, frame.with_columns(disease=pl.lit(1)))))
    assert "no row is left after the exclusion: target missing" in refusal(
        config(table(tmp_path, frame.with_columns(disease=pl.lit(None, pl.Int64))))
    )


def test_absent_columns(tmp_path: Path) -> None:
    frame = build_toy_table().rename({"sbp": "spb"}).drop("disease")
    said = refusal(config(table(tmp_path, frame)))
    assert "not in the table: sbp (is it column 4?), disease; of its 6 columns 5 are those of the dictionary" in said


def test_wrong_separator(tmp_path: Path) -> None:
    said = refusal(config(table(tmp_path, build_toy_table()), separator=";"))
    assert "only one column was found, 7 are needed; check data.separator" in said


def test_a_header_of_values_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(f"{CANARY},a,b,61,c,d,e\nP2,a,b,61,c,d,e\n")
    assert "7 columns" in refusal(config(file))


@pytest.mark.parametrize(
    ("words", "entry"),
    [
        (("no", "yes"), {"role": "target"}),
        (("False", "True"), {"role": "target"}),
        (("0.0", "1.0"), {"role": "target"}),
        (("no", "yes"), {"role": "target", "type": "categorical", "positive": ["yes"]}),
        (("False", "True"), {"role": "target", "positive": ["True"]}),
        (("1", "2"), {"role": "target", "codes": {1: "absent", 2: "present"}, "positive": [2]}),
        (("absent", "present"), {"role": "target", "positive": ["present"]}),
        (("no ", " YES"), {"role": "target", "positive": ["yes"]}),
        (("No", "Yes\u00a0"), {"role": "target", "type": "categorical", "positive": ["yes"]}),
        (("FALSE", "yes"), {"role": "target", "positive": ["TRUE"]}),
        (("0", "1"), {"role": "target", "positive": ["yes"]}),
        (("no", "yes"), {"role": "target", "positive": ["1"]}),
        (("0", "TRUE"), {"role": "target", "codes": {"No": "well", "Yes": "ill"}, "positive": ["YES"]}),
        (("yes", "no"), {"role": "target", "positive": ["0"]}),
        (("2.0", "1"), {"role": "target", "codes": {"1.0": "ill", 2: "well"}, "positive": [1]}),
        (
            ("Ab\u200bsent", "PRESENT"),
            {"role": "target", "codes": {"absent": "a", "present": "b"}, "positive": ["Present"]},
        ),
        (("a", "A"), {"role": "target", "codes": {"a": "well", "A": "ill"}, "positive": ["A"]}),
    ],
)
def test_ways_to_write_the_target(tmp_path: Path, words: tuple[str, str], entry: dict[str, Any]) -> None:
    frame = build_toy_table()
    written = frame.with_columns(disease=pl.Series([words[value] for value in frame["disease"]]))
    cohort = read_cohort(config(table(tmp_path, written), TOY_COLUMNS | {"disease": entry}), 0)
    assert cohort.events.tolist() == frame["disease"].to_list()


@pytest.mark.parametrize(
    ("value", "entry"),
    [
        ("9", {"positive": ["1"]}),
        ("maybe", {"positive": ["yes"]}),
        ("maybe", {}),
        ("maybe", {"type": "categorical", "positive": ["1"]}),
        ("77", {"type": "integer", "positive": ["1"]}),
        ("unclear", {"type": "categorical", "codes": {"0": "well", "1": "ill"}, "positive": ["1"]}),
    ],
)
def test_a_code_that_nobody_named_is_not_taken_for_no_event(tmp_path: Path, value: str, entry: dict[str, Any]) -> None:
    frame = change(build_toy_table(), "disease", {0: value}, pl.String)
    said = refusal(config(table(tmp_path, frame), TOY_COLUMNS | {"disease": {"role": "target", **entry}}))
    assert "rows outside the codes" in said and value not in said
    unknown = {"role": "target", **entry, "missing": [value.upper()]}
    cohort = read_cohort(config(tmp_path / "t.csv", TOY_COLUMNS | {"disease": unknown}), 0)
    assert flow(cohort)[-1] == ("target missing", 1, 239)


def test_data_frames_and_files_give_one_cohort(tmp_path: Path) -> None:
    """CSV as pandas writes it, and Parquet: whole numbers as floats, truth as True, an index
    column."""
    frame = build_toy_table()
    expected = read_cohort(config(table(tmp_path, frame)), 0, keep_row_ids=True).frame
    floats = frame.with_columns(
        pl.col("age", "sex", "sbp", "disease").cast(pl.Float64), pl.col("smoker").cast(pl.Boolean)
    )
    pd.DataFrame(floats.to_dict(as_series=False)).to_csv(tmp_path / "pandas.csv")
    pd.DataFrame(floats.to_dict(as_series=False)).to_csv(
        tmp_path / "pandas.tsv.gz", sep="\t", index=False, na_rep="NaN"
    )
    floats.write_parquet(tmp_path / "polars.parquet")
    for file in sorted(tmp_path.glob("p*")):
        assert read_cohort(config(file), 0, keep_row_ids=True).frame.equals(expected), file.name


def test_row_ids_are_keyed(tmp_path: Path) -> None:
    frame = build_toy_table()
    first = read_cohort(config(table(tmp_path, frame)), 0).frame[ROW_ID]
    assert all(re.fullmatch(r"[0-9a-f]{16}", identity) for identity in first) and first.n_unique() == 240
    assert read_cohort(config(tmp_path / "t.csv"), 1).frame[ROW_ID].equals(first)
    other = read_cohort(config(table(tmp_path, change(frame, "age", {0: 31}))), 0).frame[ROW_ID]
    assert not set(first) & set(other), "another table has another key"


def test_row_ids_without_an_id_column(tmp_path: Path) -> None:
    columns = {name: entry for name, entry in TOY_COLUMNS.items() if name != "patient_id"}
    file = table(tmp_path, change(build_toy_table(), "disease", {0: None}))
    kept = read_cohort(config(file, columns, duplicate_rows="keep"), 0, keep_row_ids=True).frame[ROW_ID].to_list()
    assert kept == [str(row) for row in range(2, 241)]


def test_max_rows(tmp_path: Path) -> None:
    data = config(table(tmp_path, build_toy_table()), max_rows=100)
    drawn = read_cohort(data, 0, keep_row_ids=True)
    whole = read_cohort(config(tmp_path / "t.csv"), 0)
    assert flow(drawn)[-1] == ("not in the random sample of data.max_rows = 100", 140, 100)
    assert abs(drawn.events.mean() - whole.events.mean()) < 0.01
    assert drawn.frame[ROW_ID].is_sorted(), "the table's order is kept"
    assert read_cohort(data, 0, keep_row_ids=True).frame.equals(drawn.frame)
    assert not read_cohort(data, 1, keep_row_ids=True).frame.equals(drawn.frame)
    for rows in (1, 239):
        assert f"data.max_rows = {rows}" in refusal(config(tmp_path / "t.csv", max_rows=rows))
    assert len(read_cohort(config(tmp_path / "t.csv", max_rows=500), 0).flow) == 1


# --------------------------------------------------------------------------------------------------
# tables to be scored


def test_scoring_needs_the_features_only(tmp_path: Path) -> None:
    frame = build_toy_table(20).drop("patient_id", "disease").with_columns(extra=pl.lit(CANARY))
    cohort = read_rows(str(table(tmp_path, frame)), config("training.csv"))
    assert cohort.frame.height == 20 and cohort.frame[EVENT].null_count() == 20
    assert cohort.notes.columns_ignored == ["extra"]
    assert cohort.frame[ROW_ID].n_unique() == 20


def test_scoring_keeps_every_row(tmp_path: Path) -> None:
    frame = change(change(build_toy_table(20), "age", {0: 300, 1: None}), "pain", {2: "unseen"})
    frame = pl.concat([frame, frame[5:7]])
    cohort = read_rows(str(table(tmp_path, frame)), config("training.csv", out_of_range="error"), keep_row_ids=True)
    assert cohort.frame[ROW_ID].to_list() == frame["patient_id"].to_list()
    assert cohort.frame["age"][:3].to_list() == [None, None, frame["age"][2]]
    assert cohort.frame["pain"][2] is None
    assert cohort.notes.values_out_of_range == {"age": 1, "pain": 1}


def test_scoring_does_not_mind_the_columns_of_the_split(tmp_path: Path) -> None:
    columns = TOY_COLUMNS | {"visit": {"role": "time"}, "centre": {"role": "site"}}
    frame = build_toy_table(20).with_columns(visit=pl.lit("not a date"))
    assert read_rows(str(table(tmp_path, frame)), config("training.csv", columns)).frame.height == 20


def test_scoring_another_layout(tmp_path: Path) -> None:
    frame = build_toy_table(20)
    frame.write_csv(tmp_path / "t.csv", include_header=False)
    names = frame.columns
    trained = config("training.csv", separator=",", column_names=names)
    expected = read_rows(str(tmp_path / "t.csv"), trained, keep_row_ids=True).frame
    frame.select(reversed(names)).write_csv(tmp_path / "header.csv", separator=";")
    frame.write_parquet(tmp_path / "t.parquet")
    for other in ("header.csv", "t.parquet"):
        assert read_rows(str(tmp_path / other), trained, keep_row_ids=True).frame.equals(expected), other


def test_scoring_refuses_what_cannot_be_read(tmp_path: Path) -> None:
    file = table(tmp_path, build_toy_table(20).drop("sbp"))
    with pytest.raises(DataError, match="not in the table: sbp"):
        read_rows(str(file), config("training.csv"))
    file = table(tmp_path, change(build_toy_table(20), "age", {3: CANARY}, pl.String))
    with pytest.raises(DataError, match=r"age: integer \(<10 rows\)") as caught:
        read_rows(str(file), config("training.csv"))
    assert CANARY not in str(caught.value)


# --------------------------------------------------------------------------------------------------
# real tables


def cardio(folder: Path, rule: str) -> DataConfig:
    """The rows of the published table: two pressure ranges and no other exclusion."""
    tree = read_yaml(shipped("datasets")["cardio"])["data"]
    for name in ("height", "weight", "age"):
        tree["columns"][name].pop("range")
    tree["columns"]["ap_hi"]["range"], tree["columns"]["ap_lo"]["range"] = [90, 180], [60, 120]
    tree["columns"]["bp_category"]["derive"]["bp_rule"] = rule
    return DataConfig.model_validate({**tree, "path": str(folder / "cardio_train.csv"), "out_of_range": "exclude"})


@pytest.mark.parametrize(
    ("rule", "stage_1", "stage_2"), [("acc_aha_2017", 32_452, 23_235), ("stage_1_first", 39_750, 15_937)]
)
def test_published_cardio_rows(shared_data: Path, rule: str, stage_1: int, stage_2: int) -> None:
    cohort = read_cohort(cardio(shared_data, rule), 0)
    assert cohort.flow[0].left == 70_000 and cohort.frame.height == 68_205
    assert {step.step for step in cohort.flow[1:]} == {"ap_hi out of range", "ap_lo out of range"}
    assert Counter(cohort.frame["bp_category"]) == {
        "normal": 9_417,
        "elevated": 3_101,
        "hypertension stage 1": stage_1,
        "hypertension stage 2": stage_2,
    }


def test_rows_out_of_range_leave_the_published_protocols_only(shared_data: Path, tmp_path: Path) -> None:
    """Nearly three quarters of them are events. A new user's figures are of all patients, as is the
    use of the model."""
    path = shared_data / "cardio_train.csv"
    for name in ("cardio_published", "cardio_gemma_270m", "cardio_medgemma_4b"):
        data = load_config(name, [f"data.path={path}"]).data
        assert data.out_of_range == "exclude" and read_cohort(data, 0).frame.height == 68_205, name
    draft(str(path), "cardio", tmp_path)
    cohort = read_cohort(load_config(tmp_path / "experiment.yaml").data, 0)
    assert flow(cohort) == [("rows in the table", 0, 70_000)]
    for name, count in cohort.notes.values_out_of_range.items():
        assert cohort.frame[name].null_count() >= count > 0
    assert (
        cohort.frame.filter(pl.col("ap_hi").is_null())["bp_category"].null_count() == cohort.frame["ap_hi"].null_count()
    )


def test_published_cardio_split(shared_data: Path) -> None:
    data = cardio(shared_data, "acc_aha_2017")
    cohort = read_cohort(data, 0)
    parts = split_cohort(cohort, data, SplitConfig(test=0.5), seed=42)
    _, test = train_test_split(np.arange(68_205), test_size=0.5, stratify=cohort.events, random_state=42)
    assert len(test) == 34_103
    assert np.array_equal(np.flatnonzero(parts == "test"), np.sort(test))


@pytest.mark.parametrize(
    ("hospital", "rows", "events"),
    [("cleveland", 303, 139), ("hungarian", 294, 106), ("switzerland", 123, 115), ("va", 200, 149)],
)
def test_hospital_files_without_a_header(shared_data: Path, hospital: str, rows: int, events: int) -> None:
    tree = read_yaml(shipped("datasets")["uci_heart"])["data"]
    names = list(tree["columns"])
    if hospital == "switzerland":
        tree["columns"]["chol"]["role"] = "ignore"
    data = DataConfig.model_validate(
        {
            **tree,
            "path": str(shared_data / f"processed.{hospital}.data"),
            "column_names": names,
            "duplicate_rows": "keep",
        }
    )
    cohort = read_cohort(data.model_copy(update={"out_of_range": "missing"}), 0)
    assert cohort.frame.height == rows and int(cohort.events.sum()) == events
    with pytest.raises(DataError, match="the first line looks like values"):
        read_cohort(data.model_copy(update={"column_names": None}), 0)


@pytest.mark.parametrize("files", [1, 2, 3])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("kind", [None, "text", "integer", "numeric", "categorical"])
@pytest.mark.parametrize("keep", [True, False])
def test_ids_of_any_type_are_kept_from_any_number_of_files(
    tmp_path: Path, kind: str | None, ending: str, files: int, keep: bool
) -> None:
    frame = build_toy_table(90)
    columns = dict(TOY_COLUMNS)
    if kind is None:
        frame, columns = frame.drop("patient_id"), {n: c for n, c in TOY_COLUMNS.items() if n != "patient_id"}
    elif kind != "text":
        ids = pl.Series("patient_id", range(1_234_560, 1_234_650))
        frame = frame.with_columns(ids + 0.5 if kind == "numeric" else ids)
        columns["patient_id"] = {"role": "id", "type": kind}
    named = {}
    for part, rows in enumerate(frame.iter_slices(90 // files)):
        named[("path", "test_path", "validation_path")[part]] = str(table(tmp_path, rows, f"{part}.{ending}"))
    cohort = read_cohort(config(named.pop("path"), columns, **named), 0, keep_row_ids=keep)
    found = cohort.frame[ROW_ID].to_list()
    assert len(set(found)) == 90
    if not keep:
        assert all(len(row_id) == 16 for row_id in found)
    elif kind is not None:
        assert sorted(found) == sorted(map(str, frame["patient_id"]))
    elif files == 1:
        assert found == [str(line) for line in range(1, 91)]
    else:
        assert found[0] == "train line 1" and f"test line {90 // files}" in found
