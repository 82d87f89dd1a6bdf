"""One rule a column: cells to values, ranges, derived columns, words."""

from datetime import date
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardiotune.data import schema
from cardiotune.settings import Column, DataConfig


def column(**settings: Any) -> Column:
    return Column.model_validate(settings)


def parsed(cells: list[str | None], **settings: Any) -> tuple[list[Any], int]:
    values, unreadable = schema.parse(pl.Series("x", cells, pl.String), column(**settings))
    return values.to_list(), unreadable


def test_missing_marks() -> None:
    cells = ["", " ", "NA", "nan", "N/A", "NULL", "?", None, " 5 "]
    for kind in ("numeric", "categorical", "date", "text"):
        assert parsed(cells[:-1], type=kind) == ([None] * 8, 0), kind
    assert parsed(cells)[0][-1] == 5.0


def test_a_named_code_is_not_missing() -> None:
    assert parsed(["none", "NA", "?"], type="categorical", codes={"none": "no pain", "NA": "sodium"})[0] == [
        "none",
        "NA",
        None,
    ]


def test_missing_codes_as_a_data_frame_writes_them() -> None:
    for code in ("-9", "-9.0", " -9.00 "):
        assert parsed([code, "3.0"], type="categorical", missing=[-9]) == ([None, "3"], 0)
        assert parsed([code, "3.0"], missing=["-9.0"]) == ([None, 3.0], 0)


def test_numbers() -> None:
    assert parsed(["1.5", "1,5", "+2", "-3", ".5", "1e3", "120,0", "0,125"]) == (
        [1.5, 1.5, 2, -3, 0.5, 1000, 120, 0.125],
        0,
    )
    assert parsed(["1e999", "inf", "-inf", "abc", "5 mmHg", "<5", "0x10"]) == ([None] * 7, 7)


def test_a_thousands_mark_is_not_guessed() -> None:
    assert parsed(["1,234", "-12,500"]) == ([None, None], 2)


def test_dates() -> None:
    cells = ["2020-01-31", "2020-01-31 10:11:12", "2020-01-31T10:11", "31/01/2020", "01/31/2020", "soon"]
    assert parsed(cells, type="date") == ([date(2020, 1, 31)] * 3 + [None] * 3, 3), "neither order fits all cells"
    assert parsed(cells[:4], type="date") == ([date(2020, 1, 31)] * 4, 0)


@pytest.mark.parametrize(
    ("yes", "no"), [("1", "0"), ("1.0", "0.0"), ("True", "False"), ("true", "false"), ("YES", "no")]
)
def test_binary_cells(yes: str, no: str) -> None:
    assert parsed([yes, no, None, "maybe"], type="binary") == (["1", "0", None, "maybe"], 0)


def test_binary_words_that_the_dictionary_names() -> None:
    assert parsed(["Yes", "No"], type="binary", codes={"Yes": "a", "No": "b"})[0] == ["Yes", "No"]
    assert parsed(["True", "False"], role="target", positive=["True"])[0] == ["True", "0"]


def test_leading_zeros_are_codes() -> None:
    assert parsed(["010", "10"], type="categorical")[0] == ["010", "10"]


def test_line_ends_in_cells_become_blanks() -> None:
    assert parsed(["a\n- b", "a\r\n\tb"], type="text")[0] == ["a - b", "a b"]
    assert parsed(["a\n- b"], type="categorical")[0] == ["a - b"]


@pytest.mark.parametrize(
    ("settings", "cells", "outside"),
    [
        ({"range": [60, 260]}, ["59.9", "60", "260", "261", None], [True, False, False, True, False]),
        ({"type": "integer"}, ["1", "1.5", None], [False, True, False]),
        ({"type": "integer", "range": [0, 9]}, ["1", "1.5", "10", None], [False, True, True, False]),
        ({"type": "binary"}, ["0", "1", "2", None], [False, False, True, False]),
        ({"type": "categorical", "codes": {"a": "A"}}, ["a", "A", "b", None], [False, False, True, False]),
        ({"type": "categorical"}, ["a", "anything", None], [False, False, False]),
    ],
)
def test_out_of_range(settings: dict[str, Any], cells: list[str | None], outside: list[bool]) -> None:
    rule = column(**settings)
    values, _ = schema.parse(pl.Series("x", cells, pl.String), rule)
    assert schema.out_of_range(values, rule).to_list() == outside


def derived(function: str, rows: list[tuple[float | None, ...]], **options: Any) -> list[Any]:
    names = ["a", "b"][: len(rows[0])]
    data = DataConfig.model_validate(
        {
            "path": "t.csv",
            "columns": {
                **{name: {} for name in names},
                "y": {"role": "target"},
                "new": {"derive": {"function": function, "inputs": names, **options}},
            },
        }
    )
    frame = pl.DataFrame(
        {name: [row[place] for row in rows] for place, name in enumerate(names)},
        schema=dict.fromkeys(names, pl.Float64),
    )
    return schema.derive(frame, data)["new"].to_list()


NORMAL, ELEVATED, ONE, TWO = "normal", "elevated", "hypertension stage 1", "hypertension stage 2"


@pytest.mark.parametrize(
    ("systolic", "diastolic", "guideline", "published"),
    [
        (119, 79, NORMAL, NORMAL),
        (120, 79, ELEVATED, ELEVATED),
        (129, 79, ELEVATED, ELEVATED),
        (119, 80, ONE, ONE),
        (130, 79, ONE, ONE),
        (139, 89, ONE, ONE),
        (139.5, 79, ONE, ONE),
        (140, 79, TWO, TWO),
        (119, 90, TWO, TWO),
        (140, 90, TWO, TWO),
        (150, 85, TWO, ONE),
        (135, 95, TWO, ONE),
        (None, 80, None, None),
        (120, None, None, None),
    ],
)
def test_bp_category(
    systolic: float | None, diastolic: float | None, guideline: str | None, published: str | None
) -> None:
    assert derived("bp_category", [(systolic, diastolic)]) == [guideline]
    assert derived("bp_category", [(systolic, diastolic)], bp_rule="stage_1_first") == [published]


def test_other_derived_columns() -> None:
    assert derived("bmi", [(180, 81), (0, 80), (None, 80)]) == [25.0, None, None]
    assert derived("pulse_pressure", [(120, 80), (None, 80)]) == [40, None]
    assert derived("age_years_from_days", [(18262,), (18263,), (None,)]) == [49, 50, None]


@pytest.mark.parametrize(
    ("value", "settings", "text"),
    [
        (61.0, {"unit": "years"}, "61 years"),
        (1.25, {}, "1.25"),
        (1 / 3, {}, "0.333333"),
        (1234567.0, {}, "1234570"),
        (1234567.0, {"type": "integer"}, "1234567"),
        (1e-7, {}, "0.0000001"),
        (-0.0, {}, "0"),
        (-0.04, {"decimals": 1}, "0.0"),
        (2.345, {"decimals": 1}, "2.3"),
        (3.0, {"decimals": 2, "unit": "mm"}, "3.00 mm"),
        ("1", {"type": "binary"}, "yes"),
        ("2", {"type": "ordinal", "codes": {"2": "flat"}, "unit": "u"}, "flat u"),
        ("odd", {"type": "categorical"}, "odd"),
        (date(2020, 1, 31), {"type": "date"}, "2020-01-31"),
    ],
)
def test_words(value: Any, settings: dict[str, Any], text: str) -> None:
    assert schema.words(value, column(**settings)) == text


@given(st.floats(-1e12, 1e12))
def test_number_format_is_stable(value: float) -> None:
    """Written and read again, a number is written the same: no exponent, no minus zero, six digits
    kept."""
    text = schema.words(value, column())
    assert "e" not in text and text not in ("-0", "")
    assert schema.words(float(text), column()) == text
    assert abs(float(text) - value) <= 1e-5 * abs(value) + 1e-300


@given(st.floats(-1e6, 1e6), st.integers(0, 6))
def test_decimals_are_stable(value: float, decimals: int) -> None:
    text = schema.words(value, column(decimals=decimals))
    assert schema.words(float(text), column(decimals=decimals)) == text
    assert len(text.partition(".")[2]) == decimals


def test_synthetic_rows_come_from_the_dictionary_alone() -> None:
    data = DataConfig.model_validate(
        {
            "path": "nowhere.csv",
            "columns": {
                "sex": {"type": "binary", "codes": {"1": "woman", "2": "man"}},
                "days": {"role": "ignore", "type": "integer", "range": [7000, 30000]},
                "age": {"type": "integer", "derive": {"function": "age_years_from_days", "inputs": ["days"]}},
                "note": {"type": "text"},
                "y": {"role": "target"},
            },
        }
    )
    rows = schema.synthetic_rows(data, 50, seed=1)
    assert rows.columns == ["sex", "age", "note"] and rows.height == 50
    assert set(rows["sex"].drop_nulls()) == {"1", "2"}
    assert rows["age"].drop_nulls().is_between(19, 82).all()
    assert rows.null_count().sum_horizontal().item() > 0
    assert schema.synthetic_rows(data, 50, seed=1).equals(rows)


# --------------------------------------------------------------------------------------------------
# spellings of codes


@pytest.mark.parametrize(
    ("settings", "cells", "expected"),
    [
        ({"codes": {"m": "man", "f": "woman"}}, ["M", "m ", "F", "\u00a0f", "x"], ["m", "m", "f", "f", "x"]),
        ({"codes": {1: "a", 2: "b"}}, ["1", "1.0", "1.00", "1,0", "01", "2"], ["1", "1", "1", "1", "01", "2"]),
        ({"codes": {"1.0": "a", "2.0": "b"}}, ["1", "2.0"], ["1.0", "2.0"]),
        ({"codes": {"01": "a", "1": "b"}}, ["01", "1", "1.0"], ["01", "1", "1"]),
        ({"codes": {"M": "male", "m": "married", "s": "x"}}, ["M", "m", "S"], ["M", "m", "s"]),
        ({"codes": {"not known": "a"}}, ["Not  Known", "NOT\u00a0KNOWN", "not\tknown"], ["not known"] * 3),
        ({"codes": {"ﬁne": "a"}}, ["fine", "FINE"], ["ﬁne"] * 2),
        ({"missing": ["Not known", "-9"]}, ["NOT  KNOWN", "not\u00a0known", "-9.0", "a"], [None, None, None, "a"]),
        ({}, ["Never", "never ", "NEVER", "1.0"], ["never", "never", "never", "1"]),
        ({"type": "binary", "codes": {"yes": "a", "no": "b"}}, ["TRUE", "0", "No", "1.0"], ["yes", "no", "no", "yes"]),
        ({"type": "binary", "codes": {1: "woman", 2: "man"}}, ["yes", "1", "true"], ["yes", "1", "true"]),
    ],
)
def test_spellings_of_a_code_are_one(settings: dict[str, Any], cells: list[str], expected: list[str | None]) -> None:
    assert parsed(cells, **{"type": "categorical", **settings})[0] == expected


def test_where_two_codes_differ_in_case_alone_it_counts() -> None:
    rule = column(type="categorical", codes={"M": "male", "m": "married", "Né": "c"})
    values, _ = schema.parse(pl.Series("x", ["M", "m", " M", "né"]), rule)
    assert values.to_list() == ["M", "m", "M", "Né"]
    assert not schema.out_of_range(values, rule).any()


@given(st.lists(st.text(max_size=6), min_size=1, max_size=5))
def test_a_code_of_the_dictionary_reads_as_itself(codes: list[str]) -> None:
    rule = column(type="categorical", codes={code: "x" for code in codes})
    read = schema.code_reader(rule)
    assert [read(code) for code in codes] == codes
