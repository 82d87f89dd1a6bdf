"""Files on disk: what is detected, what is refused, and that a refusal shows no cell."""

import gzip
import io
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cardiotune.data.table import cells_of, column_names, locate, read_cells, sniff
from cardiotune.errors import DataError

CANARY = "ZZCANARY42"
PLAIN = "id,age,note\n1,63,a\n2,,b\n"


def write(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def refusal(file: Path, **options: str) -> str:
    with pytest.raises(DataError) as caught:
        read_cells(file, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert str(file) in message
    assert CANARY not in message.replace(str(file), "") and "\n" not in message
    return message


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode(),
        PLAIN.replace(",", "|").encode(),
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.replace("\n", "\r\n").encode(),
        gzip.compress(PLAIN.encode(), mtime=0),
        gzip.compress(b"\xef\xbb\xbf" + PLAIN.encode(), mtime=0),
        ("# a comment\n# another; with, marks\n" + PLAIN).encode(),
        b"id, age ,note\n1,63,a\n2,,b\n",
        b'"id","age","note"\n"1","63","a"\n"2",,"b"\n',
        PLAIN.rstrip().encode(),
    ],
)
def test_layouts_read_alike(tmp_path: Path, content: bytes) -> None:
    cells = read_cells(write(tmp_path, content))
    assert cells.to_dict(as_series=False) == {"id": ["1", "2"], "age": ["63", None], "note": ["a", "b"]}


OBJECTS = ['{"id": 1, "age": 63.0, "note": "a"}', '{"id": "2", "note": "b", "age": null}']


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(OBJECTS),
        "\n".join(OBJECTS) + "\n\n",
        f"[{','.join(OBJECTS)}]",
        f" [\n{OBJECTS[0]},\n{OBJECTS[1]}]\n",
        b"\xef\xbb\xbf" + "\r\n".join(OBJECTS).encode(),
        gzip.compress("\n".join(OBJECTS).encode(), mtime=0),
    ],
)
def test_json_and_jsonl_read_alike(tmp_path: Path, content: str | bytes) -> None:
    file = write(tmp_path, content, "t.json")
    cells = read_cells(file)
    assert cells.to_dict(as_series=False) == {"id": ["1", "2"], "age": ["63.0", None], "note": ["a", "b"]}
    assert column_names(file) == ["id", "age", "note"]
    assert read_cells(file, ["note"]).columns == ["note"]


def test_keys_that_come_and_go(tmp_path: Path) -> None:
    file = write(tmp_path, '\n{"a": 1}\n  \n{"b": 2, "a": null}\n{}\n', "t.jsonl")
    assert read_cells(file).rows() == [("1", None), (None, "2"), (None, None)]


def test_json_values_keep_their_writing(tmp_path: Path) -> None:
    """A long number stays whole, a truth becomes a word, line ends and other alphabets stay."""
    line = '{"a": 12345678901234567890, "b": true, "c": "x\\ny \\u00e9", "d": 1e-7}'
    assert read_cells(write(tmp_path, line)).row(0) == ("12345678901234567890", "true", "x\ny \u00e9", "1e-7")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f'{{"a": 1}}\n{{"a": {CANARY}}}\n', "not valid JSON at object 2"),
        (f'[{{"a": 1}},\n{{"a": "{CANARY}}}]', "not valid JSON at line 2"),
        (f'["{CANARY}"]', "expected a list of JSON objects"),
        (f'{{"a": 1}}\n"{CANARY}"\n', "expected a list of JSON objects"),
        (f'{{"a": "{CANARY}"}}\n'.encode() * 9000 + b'{"a": "\xe9"}', "is not UTF-8 text"),
        (f'{{"b": ["{CANARY}"], "a": {{}}}}', "lists or objects, not values: 2 of 2"),
        (f'{{"{CANARY}": {{"age": 61}}, "{CANARY} 2": {{"age": 62}}}}', "lists or objects, not values: 2 of 2"),
        (f'[{{"a": ["{CANARY}"], "b": 1}}]', "lists or objects, not values: 1 of 2"),
        ("[]", "no rows"),
    ],
)
def test_broken_json(tmp_path: Path, content: str | bytes, said: str) -> None:
    assert said in refusal(write(tmp_path, content, "t.jsonl"))


def test_keys_of_the_dictionary_are_named(tmp_path: Path) -> None:
    file = write(tmp_path, f'{{"b": ["{CANARY}"], "{CANARY}": {{}}}}')
    with pytest.raises(DataError, match="lists or objects, not values: b;"):
        read_cells(file, ["b", "c"])


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ('"Age\n(years)",sex\n61,1\n', ["Age (years)", "sex"]),
        ('"Age\r\n (years)", "sex"\r\n61,1\r\n'.replace(' "sex"', '"sex"'), ["Age (years)", "sex"]),
        ("sep=;\nage;sex\n61;1\n", ["age", "sex"]),
        ('"sep=|"\r\nage|sex\r\n61|1\r\n', ["age", "sex"]),
        (b'\xef\xbb\xbfsep=;\n"age";"sex"\n61;1\n', ["age", "sex"]),
        ("\n \n# comment\nage,sex\n61,1\n", ["age", "sex"]),
        ("age,sex,,\n61,1,,\n", ["age", "sex"]),
        ("age,,sex\n61,,1\n", ["age", "sex"]),
        ("age,sex\n61,1,\n", ["age", "sex"]),
        ("age;sex;;\n61;1;;\n".encode("utf-16"), ["age", "sex"]),
        ("age,sex\n61,1\n".encode("utf-16"), ["age", "sex"]),
        ("\ufeffage,sex\n61,1\n".encode("utf-16-be"), ["age", "sex"]),
        ("age,sex\n61,1\n".encode("utf-16-be"), ["age", "sex"]),
        ("age,sex\n61,1\n".encode("utf-16-le"), ["age", "sex"]),
        (gzip.compress("sep=;\nage;sex;\n61;1;\n".encode("utf-16"), mtime=0), ["age", "sex"]),
        ('"age; (years)";sex\n61;1\n', ["age; (years)", "sex"]),
        ('"2019","2020"\n61,1\n', ["2019", "2020"]),
        ("1433B,9Q\n61,1\n", ["1433B", "9Q"]),
    ],
)
def test_headers(tmp_path: Path, content: str | bytes, names: list[str]) -> None:
    file = write(tmp_path, content)
    assert column_names(file) == names
    assert read_cells(file).to_dict(as_series=False) == {names[0]: ["61"], names[1]: ["1"]}
    assert read_cells(file, [names[1]]).to_dict(as_series=False) == {names[1]: ["1"]}


def test_a_text_below_a_name_is_no_header(tmp_path: Path) -> None:
    file = write(tmp_path, "note\nfever, cough, chills\n")
    assert read_cells(file, separator="\t")["note"].to_list() == ["fever, cough, chills"]
    assert read_cells(write(tmp_path, 'note\n"fever, cough, chills"\n')).height == 1


def test_years_are_names(tmp_path: Path) -> None:
    assert column_names(write(tmp_path, "id,2019,2020,2021\n1,2,3,4\n")) == ["id", "2019", "2020", "2021"]
    assert "looks like values" in refusal(write(tmp_path, "id,2019,2021\n1,2,3\n"))


def test_utf_16_can_be_named(tmp_path: Path) -> None:
    marked = write(tmp_path, "\ufeffage,sex\n61,1\n".encode("utf-16-le"))
    assert read_cells(marked, encoding="utf-16-le").columns == ["age", "sex"]
    for encoding in ("utf-16-le", "utf-16-be", "utf-16"):
        file = write(tmp_path, "лет,ort\n61,Zürich\n".encode(encoding))
        assert read_cells(file, encoding=encoding).to_dict(as_series=False) == {"лет": ["61"], "ort": ["Zürich"]}


def test_the_row_number_of_a_data_frame_stays(tmp_path: Path) -> None:
    assert read_cells(write(tmp_path, ",age\n0,61\n")).to_dict(as_series=False) == {"": ["0"], "age": ["61"]}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blank_lines_are_no_patients(tmp_path: Path, end: str, caplog: pytest.LogCaptureFixture) -> None:
    lines = ["id,age,note", "1,63,a", "", "  ", ",,", ' , ,""', "2,,b", "", ""]
    assert read_cells(write(tmp_path, end.join(lines))).rows() == [("1", "63", "a"), ("2", None, "b")]
    assert "lines hold no value in any column" in caplog.text
    assert read_cells(write(tmp_path, f'id,note{end}1,"a{end}{end}b"{end}')).row(0) == ("1", f"a{end}{end}b")


def test_a_blank_cell_of_a_single_column_is_a_missing_one(tmp_path: Path) -> None:
    assert read_cells(write(tmp_path, "note\na\n\nb\n"))["note"].to_list() == ["a", None, "b"]


def test_chosen_columns_keep_their_names(tmp_path: Path) -> None:
    file = write(tmp_path, "a, b ,c\n1,2,3\n")
    assert read_cells(file, ["b"]).to_dict(as_series=False) == {"b": ["2"]}
    assert set(read_cells(file, ["c", "a"]).row(0, named=True).items()) == {("a", "1"), ("c", "3")}


def test_a_row_with_too_many_fields_is_refused_whatever_is_read(tmp_path: Path) -> None:
    file = write(tmp_path, f"id,age,note\n1,2,x\n3,{CANARY},4,5\n")
    for columns in (None, ["id"], ["note"], ["id", "note"]):
        with pytest.raises(DataError, match=r"rows do not fit the header \(3 columns\)"):
            read_cells(file, columns)


def test_windows_1252_is_read_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path, "id,ort\n1,Zürich\n2,Köln\n".encode("cp1252"))
    assert read_cells(file)["ort"].to_list() == ["Zürich", "Köln"]
    assert sniff(file).encoding == "Windows-1252"


def test_encoding_can_be_named(tmp_path: Path) -> None:
    file = write(tmp_path, "id,ort\n1,Łódź\n".encode("iso-8859-2"))
    assert read_cells(file, encoding="iso-8859-2")["ort"].to_list() == ["Łódź"]
    assert "is not utf-8 text" in refusal(file, encoding="utf-8")
    assert "is not klingon text" in refusal(file, encoding="klingon")


def test_no_header(tmp_path: Path) -> None:
    file = write(tmp_path, "63,1,ZZCANARY42\n41,0,x\n")
    said = refusal(file)
    assert "the first line looks like values" in said and "3 columns in data.column_names" in said
    cells = read_cells(file, ["c", "a"], header=["a", "b", "c"])
    assert cells["a"].to_list() == ["63", "41"] and cells["c"].to_list() == [CANARY, "x"]


def test_header_is_seen_although_names_are_given(tmp_path: Path) -> None:
    file = write(tmp_path, "b,a\n1,2\n")
    assert read_cells(file, header=["a", "b"]).to_dict(as_series=False) == {"b": ["1"], "a": ["2"]}


def test_given_names_must_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 fields on the first line, but data\.column_names has 3"):
        read_cells(write(tmp_path, "1,2\n3,4\n"), header=["a", "b", "c"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,age,age\n1,2,3\n", "1 column names stand twice in the header (columns 2 and 3)"),
        (f"{CANARY},{CANARY},x,5\n1,2,3,4\n", "stand twice in the header (columns 1 and 2)"),
        ("id,age\n", "a header but no rows"),
        ("\n\n", "no header line"),
        ("# only a comment\n", "no header line"),
        (f"id,age\n1,2\n{CANARY},2,3\n", "rows do not fit the header (2 columns)"),
        (f'id,age\n1,"{CANARY}\n', "rows do not fit the header"),
        (b"id,age\n1,\x00\n", "NUL bytes"),
        ("id,age\n1,2\n".encode("utf-32"), "a binary file"),
        (
            f"{CANARY} export,,,\nid,age,sbp,died\n1,2,3,4\n",
            "has one field and the next has 4, so it looks like a title",
        ),
        (f"{CANARY}\nid;age;sbp;died\n1;2;3;4\n", "has one field and the next has 4, so it looks like a title"),
        (f"id,age,,\n1,2,,{CANARY}\n", "columns without a name that hold values: 4 (by place, from 1)"),
        (f"id,age\n1,2,\n3,4,{CANARY}\n", "rows do not fit the header (2 columns)"),
        (f"61,3.4,{CANARY}\n1,2,3\n", "the first line looks like values"),
        (f"6,1;3,4;{CANARY}\n6,1;3,4;x\n", "the first line looks like values"),
        (f"{CANARY},12/05/1950,1950-12-05\na,b,c\n", "the first line looks like values"),
        (f'"61","3","{CANARY}"\n"1","2","3"\n', "the first line looks like values"),
        (b"id,age\r1,2\r", "only carriage returns"),
        (b"PK\x03\x04\x00\x00" + CANARY.encode(), "a binary file"),
        (b"PAR1" + CANARY.encode() * 9, "cannot be read as Parquet"),
        (gzip.compress(PLAIN.encode(), mtime=0)[:-9], "gzip file is damaged"),
        (gzip.compress(PLAIN.encode(), mtime=0)[:12] + b"\xff" * 30, "gzip file is damaged"),
        (CANARY.encode() * 30_000, "cannot be read as column names"),
    ],
)
def test_refused(tmp_path: Path, content: str | bytes, said: str) -> None:
    assert said in refusal(write(tmp_path, content))


def test_damage_beyond_the_first_block(tmp_path: Path) -> None:
    packed = gzip.compress(("id,note\n" + "".join(f"{n},{n * 7919 % 10**9}\n" for n in range(200_000))).encode(), 1)
    assert "gzip file is damaged" in refusal(write(tmp_path, packed[: len(packed) * 3 // 4]))


def test_damaged_parquet_column_names(tmp_path: Path) -> None:
    whole = io.BytesIO()
    pl.DataFrame({"a": [CANARY]}).write_parquet(whole)
    file = write(tmp_path, whole.getvalue()[:-6], "t.parquet")
    with pytest.raises(DataError, match="damaged or cut short"):
        column_names(file)
    assert "damaged or cut short" in refusal(file)


def test_parquet_types(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    frame = pl.DataFrame(
        {"sex": [1.0, None], "day": [date(2020, 1, 31), None], "yes": [True, False], "n": [3, 4], "c": ["a", None]},
    ).with_columns(pl.col("c").cast(pl.Categorical))
    frame.write_parquet(file)
    cells = read_cells(file)
    assert cells.dtypes == [pl.String] * 5
    assert cells.row(0) == ("1.0", "2020-01-31", "true", "3", "a")
    assert cells["sex"].null_count() == 1


def test_parquet_with_lists(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    pl.DataFrame({"id": [1], "notes": [[CANARY]], "raw": [CANARY.encode()]}).write_parquet(file)
    assert "columns that hold lists or bytes, not values: notes, raw" in refusal(file)
    assert read_cells(file, ["id"])["id"].to_list() == ["1"]


DAYS = timedelta(days=3, hours=12)


def test_parquet_of_many_types(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    pl.DataFrame(
        {
            "stay": [DAYS, None],
            "at": [datetime(2020, 1, 31, 23, tzinfo=UTC), None],
            "hour": [time(9, 5), None],
            "dose": [Decimal("1.050"), None],
            "exact": [1.125, float("nan")],
            "endless": [float("inf"), float("-inf")],
            "many": pl.Series([2**64 - 1, None], dtype=pl.UInt64),
            "half": pl.Series([2.5, None], dtype=pl.Float32),
            "nothing": [None, None],
            "kind": pl.Series(["a", None], dtype=pl.Enum(["a", "b"])),
        }
    ).write_parquet(file)
    cells = read_cells(file)
    assert cells["stay"].to_list() == ["3.5", None]
    assert cells["at"][0].startswith("2020-01-31") and cells["hour"].to_list() == ["09:05:00", None]
    assert cells["dose"].to_list() == ["1.0500", None], "so that it is no thousand and fifty"
    assert cells["exact"].to_list() == ["1.1250", "NaN"] and cells["endless"].to_list() == ["inf", "-inf"]
    assert cells["many"].to_list() == ["18446744073709551615", None] and cells["half"].to_list() == ["2.5", None]
    assert cells["nothing"].null_count() == 2 and cells["kind"].to_list() == ["a", None]


def test_values_of_python(tmp_path: Path) -> None:
    row = {
        "a": DAYS,
        "b": np.timedelta64(84, "h"),
        "c": np.datetime64("2020-01-31T10:00", "ns"),
        "d": np.float64(1.125),
        "e": Decimal("1.050"),
        "f": np.datetime64("NaT"),
        "g": np.timedelta64("NaT"),
        "h": "1.125",
        "i": np.bool_(True),
        "j": 1125,
    }
    cells = cells_of([row]).row(0)
    assert cells[:2] == ("3.5", "3.5") and cells[2].startswith("2020-01-31T10:00")
    assert cells[3:] == ("1.1250", "1.0500", None, None, "1.125", "true", "1125")
    for strange in ([1], {"a": 1}, b"x", np.array([1, 2])):
        with pytest.raises(DataError, match="lists, objects or bytes"):
            cells_of([{"a": strange}])


def test_odd_file_names(tmp_path: Path) -> None:
    assert read_cells(write(tmp_path, PLAIN, "a[1]*.csv")).height == 2
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "b[1]*.parquet")
    assert read_cells(tmp_path / "b[1]*.parquet").height == 1


def test_locate(tmp_path: Path) -> None:
    write(tmp_path, PLAIN, "there.csv")
    with pytest.raises(DataError, match=r"no such file; tables in that folder: there.csv"):
        locate(str(tmp_path / "thre.csv"))
    with pytest.raises(DataError, match="is a folder"):
        locate(str(tmp_path))
    with pytest.raises(DataError, match="the file is empty"):
        locate(str(write(tmp_path, "", "empty.csv")))
    with pytest.raises(DataError, match="shipped are: cleveland, hungarian, statlog_heart, switzerland, va"):
        locate("builtin:statlog")
    assert read_cells(locate("builtin:statlog_heart")).shape == (270, 14)
