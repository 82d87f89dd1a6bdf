"""A table in pieces is the table."""

import gzip
from pathlib import Path

import polars as pl
import pytest

from cardiotune.data.chunks import TableChunks
from cardiotune.data.cohort import EVENT, read_rows
from cardiotune.errors import DataError
from cardiotune.settings import DataConfig
from conftest import TOY_COLUMNS, build_toy_table

COLUMNS = {**TOY_COLUMNS, "note": {"type": "text"}}
DATA = DataConfig.model_validate({"path": "training.csv", "columns": COLUMNS})


def table(rows: int = 23) -> pl.DataFrame:
    notes = ["plain", 'says "well"', "two\nlines", "a, b; c", None, "café"]
    return build_toy_table(rows).with_columns(note=pl.Series([notes[row % 6] for row in range(rows)], dtype=pl.String))


def written(folder: Path, kind: str) -> Path:
    frame, file = table(), folder / f"table.{kind}"
    text = frame.write_csv()
    content = {
        "csv": text.encode(),
        "no_end.csv": text.rstrip("\n").encode(),
        "crlf.csv": frame.write_csv(line_terminator="\r\n").encode(),
        "blank_lines.csv": text.replace("P00004", "\nP00004").encode() + b"\n\n",
        "separators.csv": text.replace("P00004", ",,,,,,,\n,,,,,,,\nP00004").encode() + b",,,,,,,\r\n  \n",
        "many_blank.csv": text.replace("P00004", "\n" * 30 + "P00004").encode() + b"\n" * 30,
        "excel.csv": b"\xef\xbb\xbfsep=;\r\n" + frame.write_csv(separator=";", line_terminator="\r\n").encode(),
        "utf16.csv": text.encode("utf-16"),
        "utf16le.csv": text.encode("utf-16-le"),
        "bom.csv": b"\xef\xbb\xbf" + text.encode(),
        "commented.csv": b"# an export\n# of today\n" + text.encode(),
        "semicolon.csv": frame.write_csv(separator=";").encode(),
        "windows.csv": text.encode("cp1252"),
        "csv.gz": gzip.compress(text.encode()),
        "jsonl": frame.write_ndjson().encode(),
        "jsonl.gz": gzip.compress(frame.write_ndjson().encode() + b"\n\n"),
        "json": frame.write_json().encode(),
    }
    if kind == "parquet":
        frame.write_parquet(file, row_group_size=5)
    else:
        file.write_bytes(content[kind])
    return file


KINDS = "csv no_end.csv crlf.csv blank_lines.csv separators.csv many_blank.csv excel.csv utf16.csv utf16le.csv bom.csv commented.csv semicolon.csv windows.csv csv.gz jsonl jsonl.gz json parquet"


@pytest.mark.parametrize("kind", KINDS.split())
@pytest.mark.parametrize("keep", [True, False])
def test_the_pieces_are_the_whole(tmp_path: Path, kind: str, keep: bool) -> None:
    file = str(written(tmp_path, kind))
    whole = read_rows(file, DATA, keep).frame.drop(EVENT, "disease")
    assert whole.height == 23
    for rows in (4, 23, 100):
        chunks = TableChunks(file, DATA, keep, rows=rows)
        frame = pl.concat(chunks.frame(number) for number in range(len(chunks)))
        assert chunks.rows == whole.height
        assert frame.equals(whole.select(frame.columns)), rows
        assert set(whole.columns) - set(frame.columns) <= {"patient_id"}
    again = TableChunks(file, DATA, keep, chunks.as_json())
    assert again.frame(0).equals(chunks.frame(0)), "known places need no second look"


def test_numbers_of_rows_are_those_of_patients(tmp_path: Path) -> None:
    """Blank lines are passed over, as pandas and R do."""
    file = tmp_path / "t.csv"
    text = table().drop("patient_id", "disease", "note").write_csv().splitlines()
    file.write_text("\n\n".join(text) + "\n,,,,\n\n")
    data = DataConfig.model_validate(
        {"path": "t.csv", "columns": {n: c for n, c in TOY_COLUMNS.items() if n != "patient_id"}}
    )
    for rows in (1, 7, 100):
        chunks = TableChunks(str(file), data, True, rows=rows)
        assert pl.concat(chunks.frame(n) for n in range(len(chunks)))["__row_id__"].to_list() == [
            str(n + 1) for n in range(23)
        ]
    assert read_rows(str(file), data, True).frame["__row_id__"].to_list() == [str(n + 1) for n in range(23)]


def test_a_row_keeps_its_number_where_there_are_no_ids(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    table().drop("patient_id", "disease").write_csv(file)
    chunks = TableChunks(str(file), DATA, True, rows=10)
    assert [c.first for c in chunks.chunks] == [0, 10, 20]
    assert chunks.frame(2)["__row_id__"].to_list() == ["21", "22", "23"]


def test_all_bad_cells_are_counted_before_a_row_is_given_out(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    bad = pl.Series([f"CANARY{row}" if row in (2, 15) else str(60 + row) for row in range(23)])
    pressure = pl.Series(["x" if row == 20 else "140" for row in range(23)])
    table().with_columns(age=bad, sbp=pressure).write_csv(file)
    with pytest.raises(DataError) as error:
        TableChunks(str(file), DATA, True, rows=4)
    assert "age: integer (<10 rows), sbp: integer (<10 rows)" in str(error.value) and "CANARY" not in str(error.value)


def test_what_is_out_of_range_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "t.csv"
    table().with_columns(age=pl.Series([17000 if row % 10 == 0 else 60 for row in range(23)])).write_csv(file)
    with caplog.at_level("WARNING", "cardiotune"):
        chunks = TableChunks(str(file), DATA, True, rows=4)
    assert [r.getMessage() for r in caplog.records] == [
        "t.csv: values out of range are taken as missing: age (<10 rows)"
    ]
    assert chunks.frame(0)["age"].to_list() == [None, 60, 60, 60]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"age,sex\n1,2\n", "not in the table: sbp, smoker, pain, note"),
        (table().write_csv().replace("P00020,", "P00020,,,,").encode(), "rows do not fit the header"),
        (gzip.compress(table().write_csv().encode())[:-30], "damaged or cut short"),
        (table().write_csv().splitlines()[0].encode() + b"\n", "has a header but no rows"),
    ],
)
def test_broken_tables_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=said):
        TableChunks(str(file), DATA, True, rows=4)
