"""Every type and role has all that others ask for, and is named in one place."""

import re
from pathlib import Path

import polars as pl
import pytest

import cardiotune
from cardiotune.data import schema
from cardiotune.data.draft import draft
from cardiotune.data.writing import READINGS
from cardiotune.models.columns import ENCODINGS, learn_columns
from cardiotune.settings import COLUMN_ROLES, COLUMN_TYPES, Column, DataConfig

SOURCE = Path(cardiotune.__file__).parent


@pytest.mark.parametrize("name", COLUMN_TYPES)
def test_a_type_is_read_drawn_written_and_encoded(name: str) -> None:
    kind = COLUMN_TYPES[name]
    assert kind.reading is None or kind.reading in READINGS
    data = DataConfig.model_validate({"path": "x", "columns": {"x": {"type": name}, "died": {"role": "target"}}})
    rows = schema.synthetic_rows(data, 40, 0)
    assert 0 < rows["x"].null_count() < 40, "some are missing, and what is drawn is read"
    dtype = {"number": pl.Float64, "code": pl.String, "day": pl.Date, "text": pl.String}[kind.values]
    assert rows["x"].dtype == dtype
    column = data.columns["x"]
    written = rows["x"].drop_nulls().map_elements(lambda v: schema.words(v, column), return_dtype=pl.String)
    again = pl.Series([{word: code for code, word in schema.codes_of(column).items()}.get(w, w) for w in written])
    values, unreadable = schema.parse(again, column)
    assert (values.to_list(), unreadable) == (rows["x"].drop_nulls().to_list(), 0), "what is written is read again"
    assert kind.encoding in ENCODINGS
    learned = learn_columns(rows, data, ["x"])
    read = learned.read(rows)
    assert read.matrix.shape == (40, len(learned.fields)) and (read.terms is None) == (name != "text")
    assert schema.expected(column)


def test_a_column_without_a_type_has_that_of_its_role() -> None:
    assert {name: Column.model_validate({"role": name}).type for name in COLUMN_ROLES} == {
        **{"feature": "numeric", "text": "text", "target": "binary", "id": "text", "group": "text", "site": "text"},
        **{"time": "date", "split": "text", "ignore": "numeric"},
    }


def test_a_draft_names_every_type_and_role(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("a,died\n" + "".join(f"{row % 7}.5,{row % 2}\n" for row in range(30)))
    said = draft(str(table), "died", tmp_path / "out").dataset.read_text()
    for name, names in (("type", COLUMN_TYPES), ("role", COLUMN_ROLES)):
        (line,) = re.findall(rf"^# {name}: (.*)$", said, re.M)
        assert [part.split(" (")[0] for part in line.split(", ")] == list(names)


def test_no_room_asks_for_a_type_by_name() -> None:
    """It would be a list that nobody extends: `kind` and `is_number` tell."""
    asked = re.compile(r"\b(c|column|columns\[\w+\])\.type (==|!=|in|not in) [(\"]")
    files = [file for file in SOURCE.rglob("*.py") if (SOURCE / "settings") not in file.parents]
    assert [str(file) for file in files if asked.search(file.read_text())] == []
    assert not [str(file) for file in SOURCE.rglob("*.js") if "field.type" in file.read_text()]
