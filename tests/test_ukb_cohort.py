"""Sixty participants, each a trap, with label and exclusion worked out by hand; and the same cohort
from every style.

The usual visit is 2008-06-01 in Manchester; day 3652 after it, the last of the ten years, is
2018-06-01. Hospital records end in England on 2021-03-31, in Scotland on 2021-05-07, in Wales on
2018-03-06.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from cardiotune.config import load_config
from cardiotune.data.cohort import EVENT, STATUS, TIME, WEIGHT, Cohort, read_cohort, read_rows
from cardiotune.data.prepare import read_prepared
from cardiotune.data.ukb.build import INCOMPLETE, WITHDREW, build
from cardiotune.data.ukb.followup import (
    BEFORE,
    LOST,
    NO_NATION,
    NO_VISIT,
    NOBODY,
    NOT_FOLLOWED,
    RECORDS_END,
    THAT_DAY,
    TOLD,
    UNDATED,
)
from cardiotune.errors import ConfigError, DataError
from cardiotune.evaluation.censoring import at_horizon
from cardiotune.settings import Config
from ukb_table import RECORDS, STYLES, people, place, write_export


def icd10(code: str, day: str | None) -> dict[str, Any]:
    return {"41270-0.1": code, "41280-0.1": day}


def icd9(code: str, day: str) -> dict[str, Any]:
    return {"41271-0.0": code, "41281-0.0": day}


def opcs(code: str, day: str) -> dict[str, Any]:
    return {"41272-0.0": code, "41282-0.0": day}


def died(day: str, cause: str, **more: Any) -> dict[str, Any]:
    return {"40000-0.0": day, "40001-0.0": cause, **more}


WALES, SCOTLAND = {"54-0.0": 11003}, {"54-0.0": 11005}
WITHDRAWN = (45, 48)
TRAPS: list[tuple[str, dict[str, Any], int | str]] = [
    ("nothing happens", {}, 0),
    ("heart attack", icd10("I219", "2012-03-04"), 1),
    ("old heart attack coded after the visit", icd10("I252", "2012-03-04"), 1),
    ("chronic ischaemia is not of this endpoint", icd10("I251", "2012-03-04"), 0),
    ("nor is angina", icd10("I200", "2012-03-04"), 0),
    ("bypass graft present", icd10("Z951", "2012-03-04"), 1),
    ("angioplasty", opcs("K491", "2012-03-04"), 1),
    ("K50.2 is not K50.1", opcs("K502", "2012-03-04"), 0),
    ("stent", opcs("K751", "2012-03-04"), 1),
    ("heart attack the day before", icd10("I219", "2008-05-31"), BEFORE),
    ("heart attack on the day of the visit", icd10("I219", "2008-06-01"), THAT_DAY),
    ("the day after", icd10("I219", "2008-06-02"), 1),
    ("on the last day of ten years", icd10("I219", "2018-06-01"), 1),
    ("one day later", icd10("I219", "2018-06-02"), 0),
    ("ICD-9 long ago", icd9("4109", "1995-02-03"), BEFORE),
    ("ICD-9 angina", icd9("4139", "1995-02-03"), 0),
    ("ICD-9 with a letter", icd9("V4581", "1994-02-03"), BEFORE),
    ("told: heart attack", {"6150-0.0": 1}, TOLD),
    ("told: angina", {"6150-0.0": 2, "6150-0.1": 4}, 0),
    ("told without a year", {"20002-0.1": 1075, "20008-0.1": -1}, TOLD),
    ("told with a year after the visit", {"20002-0.1": 1075, "20008-0.1": 2008.9}, TOLD),
    ("told: angina, to the nurse", {"20002-0.1": 1074, "20008-0.1": 2001.5}, 0),
    ("told: bypass", {"20004-0.0": 1095}, TOLD),
    ("told: none", {"6150-0.0": -7}, 0),
    ("told nothing", {"6150-0.0": -3}, 0),
    ("told at the second visit only", {"6150-1.0": 1}, 0),
    ("date unknown", icd10("I219", "1900-01-01"), UNDATED),
    ("no date", icd10("I219", None), UNDATED),
    ("date in the future", icd10("I219", "2037-07-07"), UNDATED),
    ("the date of another code", {"41280-0.0": "2007-01-01", **icd10("I214", "2013-01-01")}, 1),
    ("death from it", died("2013-04-05", "I219"), 1),
    ("death from something else", died("2013-04-05", "C349"), 0),
    ("contributory, of another kind", died("2013-04-05", "C349", **{"40002-0.0": "I251"}), 0),
    ("contributory", died("2013-04-05", "C349", **{"40002-0.0": "I252"}), 1),
    ("second certificate", died("2013-04-05", "C349", **{"40000-1.0": "2013-04-05", "40001-1.0": "I219"}), 1),
    ("event, then another death", {**icd10("I219", "2012-03-04"), **died("2013-04-05", "C349")}, 1),
    ("heart attack after loss", {"191-0.0": "2011-01-01", **icd10("I219", "2012-03-04")}, LOST),
    ("lost", {"190-0.0": 3, "191-0.0": "2011-01-01"}, LOST),
    ("lost after the horizon", {"191-0.0": "2019-01-01"}, 0),
    ("lost before the visit", {"191-0.0": "2008-01-01"}, NOT_FOLLOWED),
    ("Wales", WALES, RECORDS_END),
    ("Wales, a case", WALES | icd10("I219", "2012-03-04"), RECORDS_END),
    ("Wales, after its records", WALES | icd10("I219", "2018-05-01"), RECORDS_END),
    ("Scotland", SCOTLAND, 0),
    ("withdrew", icd10("I219", "2012-03-04"), WITHDREW),
    ("an imaging centre", {"54-0.0": 11025}, NO_NATION),
    ("no visit", {"53-0.0": None}, NO_VISIT),
    ("withdrew, no visit", {"53-0.0": None}, WITHDREW),
    ("died that day", died("2008-06-01", "C349"), NOT_FOLLOWED),
    ("told, and on record", {"6150-0.0": 1, **icd10("I219", "2001-02-03")}, TOLD),
    ("tenth anniversary is day 3653", {"53-0.0": "2006-03-20", "54-0.0": 10003, **icd10("I219", "2016-03-20")}, 0),
    ("event and death on one day", {**icd10("I219", "2013-04-05"), **died("2013-04-05", "C349")}, 1),
    ("coded after death", {**icd10("I219", "2013-04-08"), **died("2013-04-05", "C349")}, 0),
    ("late visit", {"53-0.0": "2010-09-30", **icd10("I219", "2020-09-28")}, 1),
    ("-3 where a number should be", {"20116-0.0": -3, "1309-0.0": -10, "904-0.0": -1}, 0),
    ("pressure both ways", {"4080-0.0": 140, "4080-0.1": 150, "93-0.0": 130}, 0),
    ("pressure by hand", {"4080-0.0": None, "4080-0.1": None, "93-0.0": 120, "93-0.1": 126}, 0),
    ("pressure at the second visit", {"4080-0.0": None, "4080-0.1": None, "4080-1.0": 190, "4080-1.1": 190}, 0),
    ("lipoprotein(a) beyond the assay", {"30790-0.0": None, "30796-0.0": 5}, 0),
    ("a woman's medication", {"31-0.0": 0, "6153-0.0": 2, "6177-0.0": None, "20107-0.0": 1, "20110-0.0": -11}, 0),
]


@pytest.fixture(scope="module")
def traps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_of([change for _, change, _ in TRAPS], tmp_path_factory.mktemp("traps"))


def export_of(changes: list[dict[str, Any]], folder: Path, style: str = "csv", **how: Any) -> Path:
    write_export(folder, people(*changes), style, **how)
    (folder / "w12345_20230425.csv").write_text("".join(f"{1000000 + n}\n" for n in WITHDRAWN))
    return folder


def config(folder: Path, *overrides: str) -> Config:
    return load_config("ukb_cad_demo", [f"data.path={folder}", "split.train_rows=null", *overrides])


def cohort_of(folder: Path, *overrides: str) -> Cohort:
    return read_cohort(config(folder, *overrides).data, seed=0, keep_row_ids=True)


def test_sixty_traps(traps: Path) -> None:
    assert len(TRAPS) == 60
    built = build(traps, config(traps).data)
    for (name, _, expected), label, left in zip(TRAPS, built.follow["label"], built.follow["left"], strict=True):
        if isinstance(expected, str):
            assert left == expected, name
        else:
            assert (label, left) == (expected, None), name


def test_counts_of_the_flow(traps: Path) -> None:
    cohort = cohort_of(traps)
    reasons = [expected for _, _, expected in TRAPS if isinstance(expected, str)]
    excluded = {step.step: step.excluded for step in cohort.flow[1:]}
    assert excluded == {reason: reasons.count(reason) for reason in reasons}
    assert cohort.flow[0].left == 60 and cohort.flow[-1].left == cohort.frame.height == 60 - len(reasons)
    assert cohort.events.sum() == sum(expected == 1 for _, _, expected in TRAPS)


def test_follow_up_of_the_traps(traps: Path) -> None:
    follow = build(traps, config(traps).data).follow

    def of(name: str) -> tuple[int, int]:
        row = next(i for i, trap in enumerate(TRAPS) if trap[0] == name)
        return follow["time"][row], follow["status"][row]

    assert of("nothing happens") == (3652, 0)
    assert of("the day after") == (1, 1)
    assert of("on the last day of ten years") == (3652, 1)
    assert of("one day later") == (3652, 0)
    assert of("death from something else") == (1769, 2)
    assert of("lost") == (944, 0)
    assert of("Wales") == (3565, 0), "2008-06-01 to 2018-03-06"
    assert of("coded after death") == (1769, 2)


def test_predictors_of_the_traps(traps: Path) -> None:
    frame = cohort_of(traps).frame

    def of(name: str) -> dict[str, Any]:
        row = next(i for i, trap in enumerate(TRAPS) if trap[0] == name)
        return frame.row(by_predicate=pl.col("eid") == str(1000001 + row), named=True)

    refused = of("-3 where a number should be")
    assert (refused["smoking"], refused["fresh_fruit"], refused["vigorous_days"]) == (None, 0.5, None)
    assert of("nothing happens")["sbp"] == 138 and of("nothing happens")["townsend"] == -2.1
    assert of("pressure both ways")["sbp"] == (145 + 130) / 2
    assert of("pressure by hand")["sbp"] == 123
    assert of("pressure at the second visit")["sbp"] is None
    assert of("lipoprotein(a) beyond the assay")["lpa"] == 189
    woman, man = of("a woman's medication"), of("nothing happens")
    assert (woman["sex"], woman["bp_medication"], woman["lipid_medication"], woman["insulin"]) == ("0", "1", "0", "0")
    assert (woman["father_heart_disease"], woman["mother_heart_disease"]) == ("1", None)
    assert (man["bp_medication"], man["father_heart_disease"]) == ("0", "0")
    assert man["pack_years"] == 0 and man["ethnicity"] == "1" and man["education"] == "1"
    assert man["illnesses"] == "asthma" and man["centre"] == "Manchester"


def test_weights_stand_for_the_censored(traps: Path) -> None:
    cohort = cohort_of(traps, "data.ukb.censored=ipcw")
    excluded = {step.step: step.excluded for step in cohort.flow[1:]}
    assert excluded[NOBODY] == 3 and excluded[LOST] == 2 and RECORDS_END not in excluded
    follow = build(traps, config(traps, "data.ukb.censored=ipcw").data).follow
    cells = build(traps, config(traps, "data.columns.nation.role=feature", "data.ukb.censored=ipcw").data).cells
    at_risk = follow["left"].is_null() | (follow["left"] == LOST)
    rows = follow.filter(at_risk)
    judged = at_horizon(
        rows["time"].to_numpy().astype(float),
        rows["status"].to_numpy(),
        3652,
        cells["nation"].filter(at_risk).to_list(),
    )
    assert np.allclose(rows["weight"], judged.weight)
    assert np.allclose(cohort.weights, judged.weight[rows["left"].is_null().to_numpy()])
    assert cohort.weights.max() > 1 and {TIME, STATUS, WEIGHT, EVENT} <= set(cohort.frame.columns)


def test_other_deaths_as_censored(traps: Path) -> None:
    both = ("data.ukb.censored=ipcw", "data.ukb.other_deaths=censored")
    labels = build(traps, config(traps, *both).data).follow["label"]
    row = next(i for i, trap in enumerate(TRAPS) if trap[0] == "death from something else")
    assert labels[row] is None
    with pytest.raises(ConfigError, match="other_deaths: censored needs"):
        config(traps, "data.ukb.other_deaths=censored")


@pytest.mark.parametrize("files", [1, 2])
def test_five_styles_give_the_same_bytes(tmp_path: Path, files: int) -> None:
    changes = [change for _, change, _ in TRAPS]
    written = {}
    for style in STYLES:
        folder = export_of(changes, tmp_path / style, style, files=files)
        cohort = read_cohort(config(folder).data, seed=0)
        file = tmp_path / f"{style}.parquet"
        cohort.frame.write_parquet(file)
        written[style] = (file.read_bytes(), cohort.flow)
    assert all(written[style] == written["csv"] for style in STYLES)
    parquet = export_of(changes, tmp_path / "parquet", "rap", files=files, parquet=True)
    assert read_cohort(config(parquet).data, seed=0).frame.equals(pl.read_parquet(tmp_path / "csv.parquet"))


def test_a_single_file(tmp_path: Path) -> None:
    folder = write_export(tmp_path / "one", people({}, icd10("I219", "2012-01-01")), files=1)
    cohort = read_cohort(config(folder / "people.csv").data, seed=0, keep_row_ids=True)
    assert cohort.events.tolist() == [0, 1]


def test_other_endpoints(tmp_path: Path) -> None:
    changes = [{}, icd10("I200", "2012-01-01"), icd10("I219", "2012-01-01"), {"6150-0.0": 2}]
    for row in changes:
        row |= {"42000-0.0": None, "42001-0.0": None}
    changes[2]["42000-0.0"] = "2012-01-01"
    changes.append({"42000-0.0": "1900-01-01", "42001-0.0": 0})
    folder = write_export(tmp_path, people(*changes), files=1)

    def labels(endpoint: str) -> list[Any]:
        follow = build(folder, config(folder, f"data.ukb.endpoint={endpoint}").data).follow
        return [left or label for label, left in follow.select("label", "left").iter_rows()]

    assert labels("ihd_broad") == [0, 1, 1, TOLD, 0]
    assert labels("mi_algorithmic") == [0, 0, 1, 0, UNDATED]
    own = tmp_path / "own.yaml"
    own.write_text("title: asthma in hospital\nicd10: [J45]\n")
    assert labels(str(own)) == [0] * 5
    own.write_text("title: nothing\nself_report: {6150: ['1']}\n")
    with pytest.raises(ConfigError, match="no source with dates"):
        labels(str(own))
    with pytest.raises(ConfigError, match="did you mean ihd_broad"):
        labels("ihd_braod")


def test_horizon_and_freeze(tmp_path: Path) -> None:
    folder = write_export(tmp_path, people(WALES, icd10("I219", "2010-06-01"), icd10("I219", "2012-06-01")), files=1)

    def follow(*overrides: str) -> pl.DataFrame:
        return build(folder, config(folder, *overrides).data).follow

    assert follow("data.ukb.horizon_years=3")["label"].to_list() == [0, 1, 0]
    assert follow("data.ukb.freeze=2023-03")["label"].to_list() == [0, 1, 1]
    dates = "{England: 2011-01-01, Scotland: 2011-01-01, Wales: 2019-01-01}"
    own = follow(f"data.ukb.censoring_dates={dates}")
    assert own["label"].to_list() == [0, 1, None] and own["left"].to_list() == [None, RECORDS_END, RECORDS_END]
    with pytest.raises(ConfigError, match="freeze: 2022-12 is not known"):
        follow("data.ukb.freeze=2022-12")


def test_participants_that_a_file_lacks(tmp_path: Path) -> None:
    folder = write_export(tmp_path, people(*[{}] * 3, icd10("I219", "2012-01-01")))
    records = folder / "records.csv"
    records.write_text("".join(line for line in records.read_text().splitlines(True) if not line.startswith("1000002")))
    left = build(folder, config(folder).data).follow["left"]
    assert left.to_list() == [None, INCOMPLETE, None, None]


def test_an_export_to_be_scored(traps: Path, tmp_path: Path) -> None:
    data = config(traps).data
    scored = read_rows(str(traps), data)
    assert scored.frame.height == 60 - len(WITHDRAWN), "everybody but those who withdrew"
    known = scored.frame[EVENT].drop_nulls()
    assert len(known) == sum(isinstance(expected, int) for _, _, expected in TRAPS)
    rows = people({}, {"4080-0.0": 160})
    bare = [{n: v for n, v in row.items() if n == "eid" or place(n)[0] not in (*RECORDS, 6150, 20004)} for row in rows]
    bare[0]["4080-0.1"] = bare[1]["4080-0.1"] = 160
    folder = write_export(tmp_path / "new", bare, "rap", files=1)
    new = read_rows(str(folder), data)
    assert new.frame[EVENT].null_count() == 2 and new.frame["sbp"].to_list() == [150, 160]


def test_relatives_stay_together(tmp_path: Path) -> None:
    changes = [icd10("I219", "2012-01-01") if i // 8 % 2 == 0 and i % 2 == 0 else {} for i in range(80)]
    for i, change in enumerate(changes):
        change["54-0.0"] = (11001, 11009, 11010, 11016)[3 if i % 16 == 1 else i // 2 % 4]
    folder = write_export(tmp_path, people(*changes), files=1)
    pairs = [(1000001 + i, 1000002 + i) for i in range(0, 80, 2)]
    lines = [f"{one} {other} 0.1 0.01 0.25\n" for one, other in pairs]
    (folder / "ukb_rel.dat").write_text("ID1 ID2 HetHet IBS0 Kinship\n" + "".join(lines) + "1000001 1000003 0 0 0.01\n")
    ours = config(folder, "split.test=0.3", "split.validation=0.2")
    prepared = read_prepared(ours)
    part = dict(zip(prepared.cohort.frame["eid"], prepared.parts, strict=True))
    assert all(part[str(one)] == part[str(other)] for one, other in pairs)
    assert prepared.cohort.frame["family"].n_unique() == 40, "0.01 is no kinship"
    sites = read_prepared(config(folder, "split.by=site", "split.test_sites=[Liverpool]", "split.validation=0.2"))
    assert set(sites.cohort.frame["centre"].filter(pl.Series(sites.parts == "test"))) == {"Liverpool"}
    assert (sites.parts == "unused").any(), "relatives in other towns"
    nations = ("data.columns.nation.role=site", "data.columns.centre.role=ignore", "split.by=site")
    with pytest.raises(DataError, match="both outcomes are needed"):
        read_prepared(config(folder, *nations))


def test_split_by_time(tmp_path: Path) -> None:
    changes = [
        {"53-0.0": f"2008-{1 + i // 3:02d}-1{i % 3}"} | (icd10("I219", "2012-01-01") if i % 3 else {})
        for i in range(36)
    ]
    folder = write_export(tmp_path, people(*changes), files=1)
    prepared = read_prepared(config(folder, "split.by=time", "split.test=0.3", "split.validation=0.2"))
    days = prepared.cohort.frame["visit_date"]
    assert (
        days.filter(pl.Series(prepared.parts == "test")).min() > days.filter(pl.Series(prepared.parts == "train")).max()
    )
