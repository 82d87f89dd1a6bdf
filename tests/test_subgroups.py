"""Subgroups: which are found unasked, how numbers are cut into bands, and pairs."""

import polars as pl
import pytest

from cardiotune.data.cohort import ROW_ID
from cardiotune.errors import ConfigError
from cardiotune.evaluation.subgroups import subgroups
from cardiotune.settings import DataConfig

COLUMNS = {
    "age": {"type": "integer", "unit": "years", "range": [18, 110]},
    "gender": {"type": "binary", "codes": {"1": "woman", "2": "man"}, "phrase": "sex"},
    "chol": {"type": "numeric"},
    "clinic": {"role": "site"},
    "cardio": {"role": "target"},
}
FRAME = pl.DataFrame(
    {
        ROW_ID: ["a", "b", "c", "d"],
        "age": [44.0, 45.0, 80.0, None],
        "gender": ["1", "2", "2", "1"],
        "chol": [1.0, 2.0, 3.0, 4.0],
        "clinic": ["north", "north", "south", None],
    }
)
BANDS = [45, 65]


def data(columns: dict[str, object] | None = None) -> DataConfig:
    return DataConfig.model_validate({"path": "t.csv", "columns": columns or COLUMNS})


def test_sex_age_and_site_unasked() -> None:
    found = subgroups(FRAME, data(), None, BANDS)
    assert list(found) == ["sex", "age", "clinic"]
    assert found["sex"] == {"a": "woman", "b": "man", "c": "man", "d": "woman"}
    assert found["age"] == {"a": "under 45", "b": "45 to under 65", "c": "65 and above", "d": None}
    assert found["clinic"]["d"] is None


def test_age_in_days_is_not_cut_at_years() -> None:
    found = subgroups(FRAME, data({**COLUMNS, "age": {"type": "integer", "range": [10_000, 25_000]}}), None, BANDS)
    assert list(found) == ["sex", "clinic"]


def test_named_columns_pairs_and_quartiles() -> None:
    found = subgroups(FRAME, data(), ["gender x age", "chol"], BANDS)
    assert found["sex x age"] == {
        "a": "woman, under 45",
        "b": "man, 45 to under 65",
        "c": "man, 65 and above",
        "d": None,
    }
    assert len(set(found["chol"].values())) == 4
    assert subgroups(FRAME, data(), [], BANDS) == {}


def test_unknown_columns_are_named() -> None:
    with pytest.raises(ConfigError, match="gendr: no such column"):
        subgroups(FRAME, data(), ["gendr x age"], BANDS)
