"""What becomes of a baseline cell: codes, arrays, units; and the lists of people."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cardiotune.config import load_config
from cardiotune.data.cohort import read_cohort
from cardiotune.data.schema import synthetic_rows
from cardiotune.data.serialize import column_order, serialize_rows
from cardiotune.data.ukb.followup import uncensored_before
from cardiotune.data.ukb.people import families, read_kinship, read_withdrawals
from cardiotune.data.ukb.predictors import NAMED, egfr, make_columns
from cardiotune.errors import ConfigError, DataError
from cardiotune.settings import Column, DataConfig
from ukb_table import people, write_export


def data_of(**columns: dict[str, Any]) -> DataConfig:
    made = {name: Column.model_validate(column) for name, column in columns.items()}
    return DataConfig(path="x", format="ukb", columns={"y": Column(role="target", type="binary"), **made})


def made(raw: dict[str, list[Any]], **columns: dict[str, Any]) -> dict[str, list[Any]]:
    frame = pl.DataFrame(
        {name: pl.Series(values, dtype=pl.List(pl.String) if any(isinstance(v, list) for v in values) else pl.String)
         for name, values in raw.items()}
    )  # fmt: skip
    return make_columns(frame, data_of(**columns), columns).to_dict(as_series=False)


def test_egfr() -> None:
    """55-year-old man with 1.2 mg/dL: 71 (kidney.org calculator); the others by hand from the
    formula."""
    frame = pl.DataFrame(
        {"s": [1.2 * 88.4, 0.6 * 88.4, 0.9 * 88.4, None], "age": [55.0, 60, 50, 50], "male": [True, False, True, True]}
    )
    rate = frame.select(egfr(pl.col("s"), pl.col("age"), pl.col("male"))).to_series().to_list()
    assert round(rate[0]) == 71
    assert rate[1] == pytest.approx(142 * (0.6 / 0.7) ** -0.241 * 0.9938**60 * 1.012)
    assert rate[2] == pytest.approx(142 * 0.9938**50)
    assert rate[3] is None


def test_special_codes_are_never_numbers() -> None:
    found = made(
        {
            "3456": ["-10", "-1", "-3", "20", None],
            "864": ["-2", "7", "-3", None, "0"],
            "2443": ["1", "-1", "-3", "0", None],
        },
        cigarettes={"field": 3456},
        walks={"field": 864},
        diabetes={"field": 2443, "type": "binary"},
    )
    assert found["cigarettes"] == [0.5, None, None, 20, None]
    assert found["walks"] == [0, 7, None, None, 0]
    assert found["diabetes"] == ["1", None, None, "0", None]


def test_an_unmapped_negative_is_an_error() -> None:
    with pytest.raises(DataError, match=r"30690 \(Cholesterol\): 2 cells; they are codes"):
        made({"30690": ["-4", "5.1", "-9.5"]}, cholesterol={"field": 30690})
    with pytest.raises(DataError, match=r"4080 .*: 1 cells"):
        made({"4080": [["-1", "120"]], "93": [None]}, sbp={})
    assert made({"189": ["-2.5"]}, townsend={"field": 189})["townsend"] == [-2.5], "a score may be below zero"
    with pytest.raises(DataError, match=r"neither numbers nor codes: 30690 \(Cholesterol\): 1 cells"):
        made({"30690": ["high"]}, cholesterol={"field": 30690})
    with pytest.raises(DataError, match=r"31 \(Sex\): 2 cells; export codes as they are \(RAW\), not in words"):
        made({"31": ["Male", "Female"]}, sex={"field": 31, "type": "binary"})


def test_pressure_by_rule() -> None:
    raw = {
        "4080": [["140", "150"], ["140", None], [None, None], None],
        "93": [["130", None], None, ["120", "126"], None],
    }
    assert made(raw, sbp={})["sbp"] == [137.5, 140, 123, None]


def test_beyond_the_assay() -> None:
    raw = {"30790": [None, None, None, "50", None], "30796": ["4", "3", "1", "1", None]}
    assert made(raw, lpa={"field": 30790})["lpa"] == [3.8, 189, None, 50, None]


def test_questions_with_several_answers() -> None:
    raw = {
        "6153": [["2", "3"], ["-7"], None, ["-1"], None],
        "6177": [None, None, ["1"], None, None],
        "20107": [["8", "-27"], ["1", "9"], ["-11", "-27"], ["-17", "-23"], None],
        "6138": [["2", "5"], ["-7"], ["-3"], None, ["6", "1"]],
        "20002": [["1065", "99"], None, ["1220"], ["1065", "1065"], None],
    }
    found = made(raw, bp_medication={}, father_heart_disease={}, education={}, illnesses={"type": "text"})
    assert found["bp_medication"] == ["1", "0", "0", None, None]
    assert found["father_heart_disease"] == ["0", "1", None, "0", None]
    assert found["education"] == ["5", "0", None, None, "1"]
    assert found["illnesses"] == ["hypertension; illness code 99", "none", "diabetes", "hypertension", "none"]


def test_who_never_smoked_has_no_pack_years() -> None:
    raw = {"20116": ["0", "2", "1", "-3"], "20161": [None, "12.5", None, None]}
    assert made(raw, pack_years={})["pack_years"] == [0, 12.5, None, None]


def test_columns_that_nobody_can_make() -> None:
    with pytest.raises(ConfigError, match=r"data\.columns\.spb: give it `field:`; without one, did you mean sbp"):
        made({}, spb={})
    with pytest.raises(ConfigError, match=r"12345 is not in fields\.yaml"):
        made({}, x={"field": 12345})
    with pytest.raises(ValueError, match=r"only for data\.format: ukb"):
        DataConfig(path="x", columns={"y": Column(role="target", type="binary"), "x": Column(field=31)})


def test_fields_that_the_export_lacks(tmp_path: Path) -> None:
    rows = [{n: v for n, v in row.items() if not n.startswith(("26227", "93"))} for row in people({}, {})]
    config = load_config("ukb_cad_demo", [f"data.path={write_export(tmp_path, rows)}"])
    with pytest.raises(DataError, match=r"not in the export: 26227 \(Standard PRS .*\) for polygenic_score; add them"):
        read_cohort(config.data, 0)
    without_records = [{n: v for n, v in row.items() if not n.startswith("412")} for row in people({}, {})]
    config = load_config("ukb_cad_demo", [f"data.path={write_export(tmp_path / 'b', without_records)}"])
    with pytest.raises(DataError, match="the endpoint reads fields that the export lacks: icd10: 41270"):
        read_cohort(config.data, 0)


def test_every_named_column_has_known_fields() -> None:
    from cardiotune.data.ukb.fields import fields

    for name, predictor in NAMED.items():
        assert {*predictor.fields, *predictor.optional} <= fields().keys(), name


# --------------------------------------------------------------------------------------------------
# lists of people, and the Kaplan-Meier of censoring


def test_withdrawals(tmp_path: Path) -> None:
    file = tmp_path / "w1.csv"
    file.write_text("eid\n1000001\n1000002,x\n\n1000001\n")
    assert sorted(read_withdrawals(file)) == ["1000001", "1000002"]
    file.write_text("1000001\nnobody\nno one\n")
    with pytest.raises(DataError, match="2 lines are no eids"):
        read_withdrawals(file)


def test_families_are_connected(tmp_path: Path) -> None:
    file = tmp_path / "ukb_rel.dat"
    file.write_text("ID1 ID2 HetHet IBS0 Kinship\n1 2 0 0 0.25\n3 2 0 0 0.05\n4 5 0 0 0.04\n6 9 0 0 0.1\n9 7 0 0 0.1\n")
    pairs = read_kinship(file)
    assert pairs.height == 4, "0.04 is below the third degree"
    found = families(pl.Series([str(i) for i in range(1, 8)]), pairs)
    assert found.to_list() == ["1", "1", "1", "4", "5", "6", "6"], "6 and 7 by 9, who is not in the table"
    with pytest.raises(DataError, match="of another application"):
        families(pl.Series(["100"]), pairs)
    file.write_text("a b\n1 2\n")
    with pytest.raises(DataError, match="header with ID1, ID2 and Kinship"):
        read_kinship(file)


def test_uncensored_before_against_a_loop() -> None:
    draw = np.random.default_rng(0)
    time, censored = draw.integers(1, 30, 200).astype(float), draw.random(200) < 0.4
    slow = []
    for mine in time:
        chance = 1.0
        for day in np.unique(time[time < mine]):
            there = (time > day).sum() + (censored & (time == day)).sum()
            chance *= 1 - (censored & (time == day)).sum() / there
        slow.append(chance)
    assert np.allclose(uncensored_before(time, censored), slow)


# --------------------------------------------------------------------------------------------------
# sections of the text


@pytest.mark.parametrize("style", ["sentence", "list", "compact", "template"])
def test_sections_are_left_out_in_every_style(style: str) -> None:
    how = ["serialize.style=" + style, "serialize.leave_out=[bloods, history]"]
    how += ["serialize.template=Sex {{ sex }}{% if hdl %}, HDL {{ hdl }}{% endif %}."] if style == "template" else []
    config = load_config("ukb_cad_demo", ["data.path=x", *how])
    rows = synthetic_rows(config.data, 20, 0)
    order = column_order(rows, config.data, config.serialize)
    text = "\n".join(serialize_rows(rows, order, config.data, config.serialize))
    assert not any(word in text for word in ("HDL", "LDL", "illnesses", "diabetes"))
    assert "hdl" not in order and "sbp" in order and "hdl" in config.data.features
    assert ("ex female" in text) or ("ex is female" in text) or ("sex: female" in text)
    whole = load_config("ukb_cad_demo", ["data.path=x", *how, "serialize.leave_out=[]"])
    order = column_order(rows, whole.data, whole.serialize)
    assert "HDL" in "\n".join(serialize_rows(rows, order, whole.data, whole.serialize))


def test_unknown_sections_are_named() -> None:
    with pytest.raises(ConfigError, match=r"serialize.leave_out: blood is no section; did you mean bloods\?"):
        load_config("ukb_cad_demo", ["data.path=x", "serialize.leave_out=[blood]"])
    sections = "[demographics,measurements,bloods,lifestyle,history,medication,family,genetics]"
    with pytest.raises(ConfigError, match="no column is left for the text"):
        load_config("ukb_cad_demo", ["data.path=x", f"serialize.leave_out={sections}"])


def test_a_long_history_is_whole(tmp_path: Path) -> None:
    """Thirty-four illnesses are all in the text, which the limit on tokens then refuses; none is
    cut."""
    row = people({})[0] | {f"20002-0.{i}": 2000 + i for i in range(34)}
    config = load_config(
        "ukb_cad_demo",
        [
            f"data.path={write_export(tmp_path, [row, row | {'eid': '1', '41270-0.1': 'I21', '41280-0.1': '2010-01-01'}])}"
        ],
    )
    frame = read_cohort(config.data, 0).frame
    assert frame["illnesses"][0].split("; ") == [f"illness code {2000 + i}" for i in range(34)]
