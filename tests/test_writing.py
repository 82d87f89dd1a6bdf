"""How numbers and dates are written: one rule a column, learned from all of its cells; what nothing
tells is not read."""

import json
import shutil
import subprocess
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

import cardiotune
from cardiotune.config import load_config, load_resolved
from cardiotune.data import schema, writing
from cardiotune.data.chunks import TableChunks
from cardiotune.data.cohort import read_rows
from cardiotune.data.draft import draft
from cardiotune.data.table import cells_of
from cardiotune.deployment.card import FieldKind
from cardiotune.errors import DataError
from cardiotune.settings import Column, DataConfig
from cardiotune.stages import prepare

UNKNOWN = None


def read(cells: list[str], **settings: Any) -> list[Any]:
    return schema.parse(pl.Series("x", cells, pl.String), Column.model_validate(settings))[0].to_list()


NUMBERS: list[tuple[list[str], dict[str, Any], list[float | None]]] = [
    (["1.050", "6,1"], {}, [1050, 6.1]),
    (["1,250", "6.1"], {}, [1250, 6.1]),
    (["1.234.567,8", "-1.050", "0,125"], {}, [1234567.8, -1050, 0.125]),
    (["1.234.567", "1.050", "12"], {}, [1234567, 1050, 12]),
    (["1,234,567.8", "1,050"], {}, [1234567.8, 1050]),
    (["1 050", "1\u00a0050,5", "1\u202f050", "12 345 678", "1.050"], {}, [1050, 1050.5, 1050, 12345678, 1050]),
    (["1'050.5", "1\u2019050", "1,050"], {}, [1050.5, 1050, 1050]),
    (["1 050", "1.050"], {}, [1050, UNKNOWN]),
    (["576", "1.050"], {}, [576, UNKNOWN]),
    (["576", "1,050"], {}, [576, UNKNOWN]),
    (["1,050"], {}, [UNKNOWN]),
    (["1.050", "2.125"], {}, [1.05, 2.125]),
    (["1.000"], {"type": "integer"}, [UNKNOWN]),
    (["1.000", "2"], {"type": "integer", "decimal": ","}, [1000, 2]),
    (["1.000", "2"], {"type": "integer", "decimal": "."}, [1, 2]),
    (["1.050", "576"], {"decimal": "."}, [1.05, 576]),
    (["1.050", "576"], {"decimal": ","}, [1050, 576]),
    (["1.050", "6.1"], {"decimal": ","}, [UNKNOWN, 6.1]),
    (["1.5", "1,5", "1.050", "1,050"], {}, [1.5, 1.5, UNKNOWN, UNKNOWN]),
    (["1e3", "1.5e3", "1E+05", "1.0E5", "1,5e-3", "1e-07"], {}, [1000, 1500, 1e5, 1e5, 0.0015, 1e-7]),
    (["0E8", "1E5", "12D3", "0x1F", "1_000", "inf", "1e999"], {}, [UNKNOWN] * 7),
    (["١٢", "１２", "५", "½", "²"], {}, [UNKNOWN] * 5),
    (["<5", "> 89", "≥ 3", "120/80", "5 mg", "12%", "1-2", "1,23,456.7", "1.05.0"], {}, [UNKNOWN] * 9),
    (["\u22125", "1.", "+.5", "-.5"], {}, [-5, 1, 0.5, -0.5]),
    (["-1.8e38", "1e300", "1e39"], {}, [UNKNOWN] * 3),
]


@pytest.mark.parametrize(("cells", "settings", "values"), NUMBERS)
def test_numbers(cells: list[str], settings: dict[str, Any], values: list[float | None]) -> None:
    assert read(cells, **settings) == values
    assert read(cells[::-1], **settings) == values[::-1], "the order of the rows tells nothing"


@pytest.mark.parametrize(
    "cell", ["8.98846567431158e+307", "8.988e307", "1.701e38", "1.7014118346046923e+38", ".", ".a", ".Z", "._"]
)
def test_missing_as_stata_and_sas_write_it(cell: str) -> None:
    text, values = schema.texts_and_values(pl.Series("x", [cell, "25.1"]), Column())
    assert text.to_list() == [None, "25.1"] and values.to_list() == [None, 25.1]


@pytest.mark.parametrize(
    ("codes", "cells"),
    [
        (["999.9"], ["999,9", "6,1", "999.9", "999,90"]),
        ([-99], ["-99,0", "6,1", "-99", "-99.00"]),
        (["-9.0"], ["-9", "6.1", "-9.00", "-9,0"]),
    ],
)
def test_missing_codes_in_the_writing_of_the_table(codes: list[Any], cells: list[str]) -> None:
    assert read(cells, missing=codes) == [None, 6.1, None, None]


@pytest.mark.parametrize("name", ["", "*", "^.*$", "a, b"])
def test_any_name_of_a_column(name: str) -> None:
    for cells, column, value in (
        ("6,1", Column(missing=["999,9"]), 6.1),
        ("31.1.2020", Column(type="date"), date(2020, 1, 31)),
    ):
        assert schema.parse(pl.Series(name, [cells, "999.9"], pl.String), column)[0].to_list() == [value, None]


def test_codes_with_a_decimal_comma() -> None:
    assert read(["1,0", "0,0", "2,00", "1,000", "1,5"], type="categorical") == ["1", "0", "2", "1,000", "1,5"]


DATES: list[tuple[list[str], dict[str, Any], list[date | None]]] = [
    (["05/12/2019", "13/12/2019"], {}, [date(2019, 12, 5), date(2019, 12, 13)]),
    (["05/12/2019", "12/13/2019"], {}, [date(2019, 5, 12), date(2019, 12, 13)]),
    (["05/12/2019", "13/12/2019", "12/13/2019", "2019-12-05"], {}, [None, None, None, date(2019, 12, 5)]),
    (["05/12/2019"], {}, [None]),
    (["05-12-2019", "2019-01-31"], {}, [None, date(2019, 1, 31)]),
    (["05/12/2019"], {"day_first": True}, [date(2019, 12, 5)]),
    (["05/12/2019", "13/12/2019"], {"day_first": False}, [date(2019, 5, 12), None]),
    (["12/13/2019", "05/12/2019"], {"day_first": True}, [None, date(2019, 12, 5)]),
    (["05.12.2019", "3.4.2020"], {}, [date(2019, 12, 5), date(2020, 4, 3)]),
    (["05.12.2019", "12.31.2019"], {}, [date(2019, 5, 12), date(2019, 12, 31)]),
    (["03/03/2019"], {}, [date(2019, 3, 3)]),
    (["2019/12/31", "2019.12.31", "2019-1-5"], {}, [date(2019, 12, 31), date(2019, 12, 31), date(2019, 1, 5)]),
    (["31.12.2019 10:15", "31/12/2019 9:05:00 PM", "2019-12-31T23:59:00-08:00"], {}, [date(2019, 12, 31)] * 3),
    (["05/12/99", "05/12/00", "31.12.99", "5-Dec-99", "05DEC99"], {}, [None] * 5),
    (["0000-01-01", "0099-12-05", "05/12/0000", "99-12-05", "1/1/0001"], {}, [None] * 5),
    (["43831", "2019", "2019-12", "12/2019", "31/02/2019", "2019-02-30", "soon"], {}, [None] * 7),
]
IN_WORDS = [
    "5-Dec-2019",
    "05DEC2019",
    "05DEC2019:10:11:12",
    "5 December 2019",
    "Dec 5, 2019",
    "20191205",
    "5. Dec 2019",
]


@pytest.mark.parametrize(("cells", "settings", "values"), DATES)
def test_dates(cells: list[str], settings: dict[str, Any], values: list[date | None]) -> None:
    assert read(cells, type="date", **settings) == values


def test_dates_in_words() -> None:
    assert read(IN_WORDS, type="date") == [date(2019, 12, 5)] * len(IN_WORDS)
    assert read(["5. Dezember 2019", "5-Dok-2019", "32DEC2019"], type="date") == [None] * 3


@how(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=9), st.integers(1, 2))
def test_numbers_in_every_writing(numbers: list[float], decimals: int) -> None:
    for grouped, decimal, thousands in (
        ("", ".", ""),
        (",", ".", ","),
        (",", ",", "."),
        (",", ",", " "),
        (",", ".", "'"),
    ):
        cells = [f"{n:{grouped}.{decimals}f}".translate({ord("."): decimal, ord(","): thousands}) for n in numbers]
        assert read(cells) == [float(f"{n:.{decimals}f}") for n in numbers], cells


@how(deadline=None)
@given(st.lists(st.dates(date(1900, 1, 1), date(2100, 1, 1)), min_size=1, max_size=9), st.booleans())
def test_no_date_is_transposed(days: list[date], day_first: bool) -> None:
    """Read right, or, where no day above 12 tells, not at all."""
    cells = [d.strftime("%d/%m/%Y" if day_first else "%m/%d/%Y") for d in days]
    tells = any(d.day > 12 for d in days)
    found = read(cells, type="date")
    assert found == days or (not tells and all(f in (None, d) for f, d in zip(found, days, strict=True)))
    assert read(cells, type="date", day_first=day_first) == days


PAGE = """
const fs = require("fs"), vm = require("vm");
vm.runInThisContext(fs.readFileSync(process.argv[1], "utf8"));
const out = JSON.parse(fs.readFileSync(0, "utf8")).map(([cells, field]) => {
  const parsed = { header: ["x"], rows: cells.map(cell => [cell]) };
  return checkTable(parsed, [field], [""]).rows.map(row => row ? row.x : null);
});
console.log(JSON.stringify(out));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_page_reads_likewise() -> None:
    asked: list[tuple[list[Any], dict[str, Any]]] = []
    for kind, cases in (("numeric", NUMBERS), ("date", DATES)):
        for cells, settings, _ in cases:
            plain = {"column": "x", "type": kind, "codes": None, "missing": [], "range": None}
            field = {**plain, "decimal": None, "day_first": None, **settings}
            asked.append((cells, {**field, "kind": FieldKind.of(Column(type=field["type"])).model_dump()}))
    script = Path(cardiotune.__file__).parent / "deployment" / "web" / "table.js"
    told = subprocess.run(["node", "-e", PAGE, str(script)], input=json.dumps(asked), capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    for (cells, field), found in zip(asked, json.loads(told.stdout), strict=True):
        settings = {key: value for key, value in field.items() if key in ("type", "decimal", "day_first")}
        wanted = read(cells, **settings)
        if field["type"] == "integer":  # a row with half a number is not sent
            wanted = [value if value is None or value == round(value) else None for value in wanted]
        assert found == [value.isoformat() if isinstance(value, date) else value for value in wanted], cells


CODES: list[tuple[list[str], dict[str, Any]]] = [
    (["M", "m ", "f", "\u00a0F", "x", "NA"], {"codes": {"m": "man", "f": "woman"}}),
    (["1", "1.0", "1.00", "1,0", "01", "yes"], {"codes": {"1": "a", "2": "b"}}),
    (["M", "m", "S", "s"], {"codes": {"M": "male", "m": "married", "s": "x"}}),
    (["Not  Known", "not\u00a0known", "-9", "-9.0"], {"codes": {"not known": "a"}, "missing": ["-9"]}),
    (["UN\u200bKNOWN", "unknown", "a"], {"codes": {"a": "a"}, "missing": ["Unknown"]}),
    (["TRUE", "0", "No", "1.0", "Ja"], {"type": "binary", "codes": {"yes": "a", "no": "b"}}),
    (["Yes", "FALSE", "1", "2"], {"type": "binary", "codes": {"0": "no", "1": "yes"}}),
    (["yes", "1", "true"], {"type": "binary", "codes": {"1": "woman", "2": "man"}}),
    (["na", "NA", "b"], {"codes": {"na": "no answer", "b": "b"}}),
]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_page_reads_codes_likewise() -> None:
    plain = {"column": "x", "range": None, "decimal": None, "day_first": None}
    rules = [Column.model_validate({"type": "categorical", **settings}) for _, settings in CODES]
    asked = [
        (
            cells,
            {
                **plain,
                "kind": FieldKind.of(rule).model_dump(),
                "missing": rule.missing,
                "codes": [{"code": c} for c in rule.codes or {}],
            },
        )
        for (cells, _), rule in zip(CODES, rules, strict=True)
    ]
    script = Path(cardiotune.__file__).parent / "deployment" / "web" / "table.js"
    page = PAGE.replace('[""]', json.dumps(schema.MISSING))
    told = subprocess.run(["node", "-e", page, str(script)], input=json.dumps(asked), capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    for (cells, _), rule, found in zip(CODES, rules, json.loads(told.stdout), strict=True):
        values = schema.parse(pl.Series("x", cells), rule)[0]
        known = [
            None if strange else value for value, strange in zip(values, schema.out_of_range(values, rule), strict=True)
        ]
        assert found == known, cells


# --------------------------------------------------------------------------------------------------
# whole tables


def table_of(folder: Path, text: str, name: str = "t.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


COLUMNS = {"chol": {}, "bnp": {}, "seen": {"type": "date"}, "died": {"role": "target"}}


def of(path: str, **columns: Any) -> DataConfig:
    return DataConfig.model_validate({"path": path, "columns": {**COLUMNS, **columns}})


def test_other_columns_of_the_file_tell(tmp_path: Path) -> None:
    for chol, bnp in (("4,8", 1050.0), ("4.8", 1.05)):
        file = table_of(tmp_path, f"chol;bnp;seen;died\n{chol};576;2020-01-31;0\n5;1.050;;1\n")
        assert read_rows(file, of(file)).frame["bnp"].to_list() == [576, bnp]
    mixed = table_of(tmp_path, "chol;bnp;seen;died\n4,8;576;;0\n4.8;1.050;;1\n")
    with pytest.raises(DataError, match=r"bnp: numeric \(<10 rows\); bnp: 1.050 or 1,050 may be a thousand .*decimal"):
        read_rows(mixed, of(mixed))
    assert read_rows(mixed, of(mixed, bnp={"decimal": ","})).frame["bnp"].to_list() == [576, 1050]


def test_a_table_that_contradicts_the_dictionary_is_refused(tmp_path: Path) -> None:
    """Fitted on decimal commas, scored with decimal points: a mark before three digits is not
    guessed."""
    file = table_of(tmp_path, "chol;bnp;seen;died\n4.8;1.050;;0\n")
    with pytest.raises(DataError, match=r"bnp: 1\.050 or 1,050 may be"):
        read_rows(file, of(file, bnp={"decimal": ","}, chol={"decimal": ","}))
    days = table_of(tmp_path, "chol;bnp;seen;died\n4.8;1;12/13/2019;0\n4.8;1;05/12/2019;0\n")
    with pytest.raises(DataError, match="seen: day and month in another order than day_first says"):
        read_rows(days, of(days, seen={"type": "date", "day_first": True}))


def test_pieces_are_read_as_the_whole(tmp_path: Path) -> None:
    """What tells may stand in another piece than the cell that needs it."""
    rows = [f"{n};{n + 576};05/12/2019;0" for n in range(1, 30)] + ["4,8;1.050;05/12/2019;0"] + ["5;2.100;31/12/2019;1"]
    file = table_of(tmp_path, "chol;bnp;seen;died\n" + "\n".join(rows) + "\n")
    whole = read_rows(file, of(file)).frame.select("chol", "bnp", "seen")
    chunks = TableChunks(file, of(file), True, rows=4)
    again = TableChunks(file, of(file), True, json.loads(json.dumps(chunks.as_json())), rows=4)
    for cut in (chunks, again):
        assert pl.concat(cut.frame(n) for n in range(len(cut))).select(whole.columns).equals(whole)
    assert whole["bnp"].to_list()[-2:] == [1050, 2100] and whole["seen"][0] == date(2019, 12, 5)


def test_a_run_remembers(tmp_path: Path) -> None:
    """A batch of one row is read by what the training table told, though the dictionary does not
    say it."""
    rows = [
        f"{n % 9},{n % 7};{900 + n if n % 2 else '1.0' + str(10 + n % 80)};{n % 28 + 1:02d}/03/2020;{n % 2}"
        for n in range(80)
    ]
    data = of(table_of(tmp_path, "chol;bnp;seen;died\n" + "\n".join(rows) + "\n"))
    config = load_config(
        shipped(tmp_path, data), ["models=[logistic_regression]", f"runs_dir={tmp_path}", "data.duplicate_rows=keep"]
    )
    folder, _ = prepare(config)
    learned = load_resolved(folder.config).data
    assert learned.columns["bnp"].decimal == "," and learned.columns["seen"].day_first is True
    one = table_of(tmp_path, "chol;bnp;seen\n5;1.050;05/12/2019\n", "one.csv")
    assert read_rows(one, learned).frame.row(0)[:3] == (5, 1050, date(2019, 12, 5))
    with pytest.raises(DataError, match="seen: no day above 12 tells whether the day or the month comes first"):
        read_rows(one, data)
    typed = pl.DataFrame({"chol": [5.0], "bnp": [1.125], "seen": [date(2019, 12, 5)]})
    typed.write_parquet(tmp_path / "one.parquet")
    (tmp_path / "one.json").write_text('[{"chol": 5.0, "bnp": 1.125, "seen": "2019-12-05"}]')
    for name in ("one.parquet", "one.json"):
        assert read_rows(str(tmp_path / name), learned).frame["bnp"].to_list() == [1.125], "a number is not a text"
    for source in (typed, typed.to_dicts(), typed.to_arrow() if find_spec("pyarrow") else typed):
        cells = cells_of(source)
        writings = schema.writings(cells, learned.columns)
        assert schema.parse(cells["bnp"], learned.columns["bnp"], writings["bnp"])[0].to_list() == [1.125]


def shipped(folder: Path, data: DataConfig) -> Path:
    tree = {"name": "r", "use": {"model": "gemma3-270m", "method": "lora"}, "task": {"outcome": "death"}}
    file = folder / "experiment.yaml"
    file.write_text(json.dumps({**tree, "data": data.model_dump(mode="json", exclude_defaults=True)}))
    return file


CASES = Path(__file__).parents[2] / "shared" / "cases"


def drafted(folder: Path, text: str) -> tuple[str, dict[str, Column], Path]:
    table = table_of(folder, text)
    made = draft(table, "died", folder / "study")
    return "\n".join(made.notes), load_config(made.experiment).data.columns, made.experiment


def lines(head: str, rows: list[str]) -> str:
    return head + "\n" + "".join(f"{row}\n" for row in rows)


def test_german_thousands_at_init(tmp_path: Path) -> None:
    rows = [f"{n};{n % 9},{n % 7};{900 + n if n % 2 else '1.0' + str(10 + n)};{n % 2}" for n in range(60)]
    notes, columns, experiment = drafted(tmp_path, lines("id;chol;bnp;died", rows))
    assert "bnp: role feature, numbers read with a decimal comma" in notes
    assert (columns["bnp"].type, columns["bnp"].decimal) == ("integer", ",")
    data = load_config(experiment).data
    assert read_rows(data.path, data).frame["bnp"][:2].to_list() == [1010, 901]


def test_dates_at_init(tmp_path: Path) -> None:
    rows = [f"{n},{60 + n % 20},{n % 12 + 1:02d}/0{n % 9 + 1}/2019,{n % 28 + 1:02d}/03/99,{n % 2}" for n in range(60)]
    notes, columns, _ = drafted(tmp_path, lines("id,age,seen,born,died", rows))
    assert "dates read as day/month/year, though no day above 12 is there to tell; where" in notes
    assert (columns["seen"].type, columns["seen"].day_first) == ("date", True)
    assert "born: role feature, type text, dates but for 60 cells; years of two digits: write four" in notes
    other = tmp_path / "other"
    other.mkdir()
    rows = [f"{n},{60 + n % 20},{n % 12 + 1:02d}/0{n % 9 + 1}/2019,03/{n % 28 + 1:02d}/2020,{n % 2}" for n in range(60)]
    notes, columns, _ = drafted(other, lines("id,age,seen,born,died", rows))
    assert (columns["seen"].day_first, columns["born"].day_first) == (False, False), "the other column tells"
    assert (
        "born: role feature, a date: what happened after the outcome must not be among them; dates read as month/"
        in notes
    )


def test_what_is_almost_a_number_at_init(tmp_path: Path) -> None:
    rows = [
        f"{n},{'> 89' if n % 30 == 0 else 40 + n},{'<5' if n % 3 == 0 else n * 7},{100 + n}/80,"
        f'"{n * 37 if n < 27 else f"{n * 37:,}"}",{n} mg,{n % 2}'
        for n in range(60)
    ]
    notes, columns, _ = drafted(tmp_path, lines("id,age,crp,bp,ferritin,dose,died", rows))
    assert "age: role feature, type text, numbers but for <10 cells (such as a value below a detection limit)" in notes
    assert "crp: role feature, type text, numbers but for 20 cells" in notes
    assert "bp: role feature, type text, it looks like two numbers in a cell (systolic/diastolic?): split it" in notes
    assert (
        "ferritin: role feature, type text, numbers but for 32 cells" in notes and "set decimal to '.' or ','" in notes
    )
    assert "dose: role feature, type text, numbers with a unit: take it off, and name it in unit" in notes
    assert "<5" not in notes and "> 89" not in notes and {columns[n].type for n in ("age", "crp", "bp")} == {"text"}


def test_days_without_marks_are_dates_at_init(tmp_path: Path) -> None:
    rows = [f"{n},{60 + n % 20},201912{n % 28 + 1:02d},{20_000_000 + n % 9},{n % 2}" for n in range(60)]
    _, columns, _ = drafted(tmp_path, lines("id,age,seen,eight,died", rows))
    assert (columns["seen"].type, columns["eight"].type) == ("date", "integer")


def test_signs_of_pieces_add_up() -> None:
    cells = pl.Series("x", ["1.050", "6,1", "12", "8.99e307", None, "3.4.2020"])
    for column in (Column(), Column(type="date")):
        whole = writing.signs(cells, column)
        pieces = [writing.signs(cells[place : place + 1], column) for place in range(len(cells))]
        assert frozenset().union(*pieces) == whole
