"""Names of columns in five styles, and files that must be refused."""

from pathlib import Path

import polars as pl
import pytest

from cardiotune.data.ukb.columns import Place, detect_style, locate_columns, parse_name
from cardiotune.data.ukb.fields import centres, check_showcase, fields
from cardiotune.data.ukb.read import open_export
from cardiotune.errors import DataError
from ukb_table import STYLES, people, write_export

HERE = Path("export.csv")
NAMES = {
    "csv": ["eid", "21003-0.0", "4080-0.1", "31-0.0"],
    "tab": ["f.eid", "f.21003.0.0", "f.4080.0.1", "f.31.0.0"],
    "rap": ["eid", "p21003_i0", "p4080_i0_a1", "p31"],
    "rap_prefixed": ["participant.eid", "participant.p21003_i0", "participant.p4080_i0_a1", "participant.p31"],
    "titles": [
        "Participant ID",
        "Age when attended assessment centre | Instance 0",
        "Systolic blood pressure, automated reading | Instance 0 | Array 1",
        "Sex",
    ],
}


@pytest.mark.parametrize("style", STYLES)
def test_the_five_styles(style: str) -> None:
    names = NAMES[style]
    assert detect_style(names, HERE) == style
    places = locate_columns(names, style, HERE)  # type: ignore[arg-type]
    assert places == dict(zip([Place(21003, 0, 0), Place(4080, 0, 1), Place(31, 0, 0)], names[1:], strict=True))


def test_names_that_are_no_fields() -> None:
    assert parse_name("p21003_i0_a1_b", "rap") is None
    assert parse_name("21003-0", "csv") is None
    assert parse_name("Favourite colour | Instance 0", "titles") is None
    assert detect_style(["id", "age"], HERE) is None


def test_mixed_styles_are_refused() -> None:
    with pytest.raises(DataError, match=r"named in 2 ways \(21003-0.0, p31\)"):
        detect_style(["eid", "21003-0.0", "p31"], HERE)
    with pytest.raises(DataError, match="named in 2 ways"):
        detect_style(["f.eid", "21003-0.0"], HERE)


def test_a_visit_that_is_not_said() -> None:
    with pytest.raises(DataError, match=r"do not say the visit \(instance\): p21003;"):
        locate_columns(["eid", "p21003", "p31"], "rap", HERE)
    with pytest.raises(DataError, match="same field, visit and array"):
        locate_columns(["p31", "p31_i0"], "rap", HERE)


def test_another_visit_only(tmp_path: Path) -> None:
    row = {name.replace("21001-0", "21001-1"): value for name, value in people({})[0].items()}
    export = open_export(write_export(tmp_path, [row]))
    with pytest.raises(DataError, match=r"field 21001 \(Body mass index \(BMI\)\) is there for instance 1 only"):
        export.baseline([21001])
    assert "30000" not in export.baseline([30000, 31]).columns


@pytest.mark.parametrize("style", STYLES)
def test_answers_and_readings(tmp_path: Path, style: str) -> None:
    changes = [{"6150-0.0": 1, "6150-0.1": 4, "4080-0.0": None}, {"6150-0.0": None}]
    frame = open_export(write_export(tmp_path, people(*changes), style)).baseline([6150, 4080, 31])
    assert frame["6150"].to_list() == [["1", "4"], None]
    assert frame["4080"].to_list() == [[None, "136"], ["140", "136"]]
    assert frame["eid"].to_list() == ["1000001", "1000002"]


def test_files_of_other_applications(tmp_path: Path) -> None:
    write_export(tmp_path, people({}, {}, {}, {}))
    other = write_export(tmp_path / "other", people({}, {}, {}, {}, first=1000004))
    (other / "records.csv").replace(tmp_path / "records.csv")
    with pytest.raises(DataError, match="share 1 of 4 participants: they are of different applications"):
        open_export(tmp_path)


def test_a_file_that_was_cut_short(tmp_path: Path) -> None:
    file = write_export(tmp_path, people({}, {}), files=1) / "people.csv"
    file.write_text(file.read_text()[:-30])
    with pytest.raises(DataError, match="the file was cut short"):
        open_export(tmp_path)


def test_repeated_participants(tmp_path: Path) -> None:
    write_export(tmp_path, people({}, {}) + people({}), files=1)
    with pytest.raises(DataError, match="0 rows have no eid, 2 share one") as raised:
        open_export(tmp_path)
    assert "100000" not in str(raised.value)


def test_a_column_in_two_files(tmp_path: Path) -> None:
    write_export(tmp_path, people({}, {}))
    pl.read_csv(tmp_path / "people.csv").select("eid", "31-0.0").write_csv(tmp_path / "more.csv")
    with pytest.raises(DataError, match=r"stand in two files: 31-0\.0 \(more.csv and people.csv\)"):
        open_export(tmp_path)


def test_two_styles_in_one_folder(tmp_path: Path) -> None:
    write_export(tmp_path, people({}, {}))
    (write_export(tmp_path / "tab", people({}, {}), "tab") / "records.tab").replace(tmp_path / "records.tab")
    (tmp_path / "records.csv").unlink()
    with pytest.raises(DataError, match="name columns in different ways"):
        open_export(tmp_path)


def test_no_export(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no table with UK Biobank's columns"):
        open_export(tmp_path)


def test_the_field_dictionary() -> None:
    assert fields()[4080].title == "Systolic blood pressure, automated reading"
    assert fields()[131300].title.startswith("Date I22 first"), "public code has it as I25"
    assert {c.name for c in centres().values() if c.nation == "Wales"} == {"Cardiff", "Swansea", "Wrexham"}
    assert {c.name for c in centres().values() if c.nation == "Scotland"} == {"Glasgow", "Edinburgh"}
    assert len(centres()) == 22


def test_the_showcase_is_the_judge(tmp_path: Path) -> None:
    file = tmp_path / "Data_Dictionary_Showcase.tsv"
    file.write_text(
        'Path\tFieldID\tField\nx\t31\tSex\nx\t4080\t"Systolic blood pressure, automated reading"\nx\t7\tOther\n'
    )
    assert check_showcase(file) == 2
    file.write_text("Path\tFieldID\tField\nx\t31\tSex\nx\t4080\tBody mass index\n")
    with pytest.raises(DataError, match="4080 \\(Body mass index; here Systolic"):
        check_showcase(file)
    file.write_text("a,b\n")
    with pytest.raises(DataError, match="columns FieldID and Field"):
        check_showcase(file)
