"""The synthetic UK Biobank: the same in every style, marked, near published margins, with known
risks and all traps."""

import json
import re
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest
from statsmodels.duration.hazard_regression import PHReg
from typer.testing import CliRunner, Result

from cardiotune.cli import app
from cardiotune.data.ukb import fields as dictionary
from cardiotune.synthetic_ukb import export as synth
from cardiotune.synthetic_ukb.disease import LOG_HAZARD_RATIOS
from cardiotune.synthetic_ukb.styles import Style

ROWS, SEED = 40_000, 3


def read(folder: Path, name: str, style: str = "csv") -> pl.DataFrame:
    tab = style == "tab"
    return pl.read_csv(
        folder / f"synthetic_{name}.{'tab' if tab else 'csv'}",
        infer_schema=False,
        separator="\t" if tab else ",",
        null_values="NA" if tab else "",
    )


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["synth", "ukb", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth") / "large"
    synth.write_export(folder, ROWS, SEED)
    return folder


@pytest.fixture(scope="module")
def answers(large: Path) -> pl.DataFrame:
    return read(large, "participants")


@pytest.fixture(scope="module")
def records(large: Path) -> pl.DataFrame:
    return read(large, "records")


@pytest.fixture(scope="module")
def truth() -> pl.DataFrame:
    return pl.concat(pl.DataFrame(who) for who, _ in synth.chunks(ROWS, SEED))


def number(frame: pl.DataFrame, name: str) -> pl.Series:
    return frame[name].cast(pl.Float64)


def day(frame: pl.DataFrame, name: str) -> pl.Series:
    return frame[name].str.to_date("%d/%m/%Y")


def coded_days(frame: pl.DataFrame, codes: int, pattern: str) -> pl.DataFrame:
    """Every date of a code that fits the pattern: columns eid, day."""
    slots = [name.split(".")[1] for name in frame.columns if name.startswith(f"{codes}-0.")]
    parts = [
        frame.select("eid", code=f"{codes}-0.{slot}", day=f"{codes + 10}-0.{slot}").filter(
            pl.col("code").str.contains(pattern)
        )
        for slot in slots
    ]
    return pl.concat(parts).select("eid", day=pl.col("day").str.to_date("%d/%m/%Y"))


@pytest.fixture(scope="module")
def course(answers: pl.DataFrame, records: pl.DataFrame) -> pl.DataFrame:
    """The disease as records and interview tell it, by an implementation of this test's own."""
    fatal = records.select("eid", code="40001-0.0", day="40000-0.0").filter(pl.col("code").str.contains("^I2[1-4]"))
    found = pl.concat(
        [
            coded_days(records, 41270, "^(I21|I22|I23|I24|I252)"),
            coded_days(records, 41271, "^(410|411|412)"),
            coded_days(records, 41272, "^(K40|K41|K42|K43|K44|K45|K46|K49|K501|K75)"),
            fatal.select("eid", day=pl.col("day").str.to_date("%d/%m/%Y")),
        ]
    )
    first = found.group_by("eid").agg(first=pl.col("day").min())
    slots = {"6150": ("1",), "20002": ("1075",), "20004": ("1070", "1095", "1523")}
    told = pl.any_horizontal(
        pl.col(name).is_in(codes)
        for field, codes in slots.items()
        for name in answers.columns
        if name.startswith(f"{field}-0.")
    ).fill_null(False)
    visits = answers.select("eid", told=told, visit=pl.col("53-0.0").str.to_date("%d/%m/%Y"))
    ends = records.select("eid", died=pl.col("40000-0.0").str.to_date("%d/%m/%Y"))
    return visits.join(first, "eid", "left", maintain_order="left").join(ends, "eid", "left", maintain_order="left")


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        synth.write_export(tmp_path / name, 300, seed, "rap")
    for file in sorted((tmp_path / "one").iterdir()):
        same = file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
        assert same, file.name
        assert file.read_bytes() != (tmp_path / "other" / file.name).read_bytes(), file.name


def canonical(name: str, style: str) -> str:
    """Classic name of a column, by patterns of this test's own."""
    bare = name.removeprefix("participant.")
    if bare in ("eid", "f.eid"):
        return "eid"
    if style == "tab":
        found = re.fullmatch(r"f\.(\d+)\.(\d+)\.(\d+)", bare)
    else:
        found = re.fullmatch(r"p(\d+)(?:_i(\d+))?(?:_a(\d+))?", bare)
    assert found, name
    field, instance, array = found.groups(default="0")
    return f"{field}-{instance}.{array}"


def spread(frame: pl.DataFrame, like: pl.DataFrame, style: str) -> pl.DataFrame:
    """Lists in one cell as arrays again, under the classic names, ISO dates."""
    frame = frame.rename({name: canonical(name, style) for name in frame.columns})
    columns = {}
    for name in like.columns:
        first = re.sub(r"\.\d+$", ".0", name)
        second = f"{first[:-2]}.1"
        if name in frame.columns and (second in frame.columns or second not in like.columns):
            columns[name] = frame[name]
        else:
            slot = int(name.rsplit(".", 1)[-1])
            cells = [split(cell) for cell in frame[first]]
            columns[name] = pl.Series([cell[slot] if slot < len(cell) else None for cell in cells], dtype=pl.String)
    return pl.DataFrame(columns)


def split(cell: str | None) -> list[str]:
    if cell is None:
        return []
    return [str(item) for item in json.loads(cell)] if cell.startswith("[") else cell.split("|")


def iso(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(pl.all().str.replace(r"^(\d\d)/(\d\d)/(\d{4})$", "$3-$2-$1"))


def test_every_style_holds_the_same(tmp_path: Path) -> None:
    for style in get_args(Style):
        synth.write_export(tmp_path / style, 400, 7, style)
    for name in ("participants", "records"):
        classic = iso(read(tmp_path / "csv", name))
        for style in ("tab", "rap", "rap_prefixed"):
            other = spread(read(tmp_path / style, name, style), classic, style)
            assert other.equals(classic), style
        titled, plain = read(tmp_path / "titles", name), read(tmp_path / "rap", name)
        assert titled.rows() == plain.rows()
        assert len(set(titled.columns)) == titled.width
        assert titled.columns[0] == "Participant ID"
        for title, code in zip(titled.columns[1:], plain.columns[1:], strict=True):
            field = int(re.match(r"p(\d+)", code)[1])  # type: ignore[index]
            bare = re.sub(r" \| (Instance|Array) \d+", "", title)
            assert field not in dictionary.fields() or bare == dictionary.fields()[field].title
            assert re.findall(r"\d+", title.removeprefix(bare)) == re.findall(r"\d+", code.removeprefix(f"p{field}"))
    for file in ("synthetic_withdraw.csv", "synthetic_ukb_rel.dat"):
        assert len({(tmp_path / style / file).read_bytes() for style in get_args(Style)}) == 1


def test_names_and_dates_of_the_styles(tmp_path: Path) -> None:
    expected = {
        "csv": ("21003-0.0", "4080-0.1", "31-0.0", "53-0.0"),
        "tab": ("f.21003.0.0", "f.4080.0.1", "f.31.0.0", "f.53.0.0"),
        "rap": ("p21003_i0", "p4080_i0_a1", "p31", "p53_i0"),
        "rap_prefixed": ("participant.p21003_i0", "participant.p4080_i0_a1", "participant.p31", "participant.p53_i0"),
        "titles": (
            "Age when attended assessment centre | Instance 0",
            "Systolic blood pressure, automated reading | Instance 0 | Array 1",
            "Sex",
            "Date of attending assessment centre | Instance 0",
        ),
    }
    for style in get_args(Style):
        synth.write_export(tmp_path / style, 20, 0, style)
        table = read(tmp_path / style, "participants", style)
        assert set(expected[style]) <= set(table.columns)
        pattern = r"\d\d/\d\d/\d{4}" if style == "csv" else r"\d{4}-\d\d-\d\d"
        assert table[expected[style][3]].str.contains(f"^{pattern}$").all()
    tab = (tmp_path / "tab" / "synthetic_participants.tab").read_text().splitlines()[1].split("\t")
    assert "NA" in tab and "" not in tab


def test_cells_keep_to_the_field_dictionary(answers: pl.DataFrame, records: pl.DataFrame) -> None:
    """Fields, instances, arrays, codes and negative numbers are those that fields.yaml knows."""
    known = dictionary.fields()
    made_up = {990000, *range(131297, 131308, 2)}
    for table in (answers, records):
        for name in table.columns[1:]:
            number_, instance, array = (int(part) for part in re.split(r"[-.]", name))
            if number_ in made_up:
                continue
            field = known[number_]
            assert instance < field.instances and array < field.arrays, name
            cells = table[name].drop_nulls()
            if field.coding and field.type in ("category", "multi") and number_ not in (20002, 20004):
                assert set(cells) <= {*field.coding, *field.missing}, name
            if field.type in ("integer", "continuous") and not field.signed:
                negative = cells.filter(cells.str.starts_with("-")).str.strip_suffix(".0")
                assert set(negative) <= {*field.missing, *field.values}, name


def test_every_file_is_marked(large: Path, answers: pl.DataFrame, records: pl.DataFrame) -> None:
    names = {file.name for file in large.iterdir()}
    assert {name for name in names if not name.startswith("synthetic_")} == {"README.txt"}
    assert len(names) == 5
    assert "SYNTHETIC" in (large / "README.txt").read_text()
    for table in (answers, records):
        assert (table["990000-0.0"] == "1").all()
        assert table["eid"].str.contains(r"^9\d{6}$").all() and table["eid"].n_unique() == ROWS
    assert answers["eid"].equals(records["eid"])
    withdrawn = (large / "synthetic_withdraw.csv").read_text().split()
    assert all(re.fullmatch(r"9\d{6}", eid) for eid in withdrawn)
    here = set(withdrawn) & set(answers["eid"])
    assert len(here) > 10 and len(set(withdrawn) - here) == 3, "some are in the tables still, some are not"


MARGINS = {  # field: mean, standard deviation, share missing; sources in synth_people
    "21003-0.0": (56.5, 8.1, 0.0),
    "189-0.0": (-1.4, 3.0, 0.001),
    "21001-0.0": (27.4, 4.8, 0.007),
    "48-0.0": (90.3, 13.5, 0.005),
    "4080-0.0": (137.4, 18.6, 0.07),
    "4079-0.0": (82.3, 10.1, 0.07),
    "30690-0.0": (5.69, 1.1, 0.065),
    "30760-0.0": (1.45, 0.4, 0.144),
    "30780-0.0": (3.55, 0.87, 0.067),
    "30870-0.0": (1.74, 1.0, 0.066),
    "30740-0.0": (5.12, 1.2, 0.145),
    "30750-0.0": (36.1, 6.8, 0.071),
    "26227-0.0": (0.0, 1.0, 0.03),
}


@pytest.mark.parametrize("name", MARGINS)
def test_margins(answers: pl.DataFrame, name: str) -> None:
    mean, deviation, missing = MARGINS[name]
    values = number(answers, name)
    assert values.mean() == pytest.approx(mean, abs=0.06 * deviation)
    assert values.std() == pytest.approx(deviation, rel=0.2)
    assert values.is_null().mean() == pytest.approx(missing, abs=0.015)


def test_shares(answers: pl.DataFrame) -> None:
    def share(name: str, *codes: str) -> float:
        return float(answers[name].is_in(codes).mean())  # type: ignore[arg-type]

    assert share("31-0.0", "1") == pytest.approx(0.456, abs=0.01)
    assert share("20116-0.0", "2") == pytest.approx(0.104, abs=0.01)
    assert share("20116-0.0", "0") == pytest.approx(0.548, abs=0.015)
    assert share("1558-0.0", "1") == pytest.approx(0.203, abs=0.01)
    assert share("2443-0.0", "1") == pytest.approx(0.05, abs=0.01)
    assert answers["21000-0.0"].str.starts_with("1").mean() == pytest.approx(0.94, abs=0.01)
    assert answers["21003-0.0"].cast(pl.Int64).is_between(40, 69).all()
    centres = answers["54-0.0"].value_counts(normalize=True)
    assert set(centres["54-0.0"]) == set(dictionary.centres())
    lpa = number(answers, "30790-0.0")
    assert lpa.min() >= 3.8 and lpa.max() <= 189
    why = answers.filter(lpa.is_null())["30796-0.0"].drop_nulls().value_counts()
    assert set(why["30796-0.0"]) == {"2", "3", "4", "5"}


def test_correlations_have_the_expected_signs(answers: pl.DataFrame) -> None:
    for one, other, low, high in (
        ("21001-0.0", "48-0.0", 0.6, 0.95),
        ("4080-0.0", "4079-0.0", 0.5, 0.75),
        ("30760-0.0", "30870-0.0", -0.6, -0.3),
        ("30690-0.0", "30640-0.0", 0.8, 0.99),
        ("21003-0.0", "4080-0.0", 0.2, 0.45),
    ):
        both = answers.select(pl.col(one, other).cast(pl.Float64)).drop_nulls()
        assert low < both.select(pl.corr(one, other)).item() < high, (one, other)


def test_records_show_the_truth(course: pl.DataFrame, truth: pl.DataFrame) -> None:
    """Who had the disease before can be told from records and interview, all of them and nobody
    else."""
    before = course["told"] | (course["first"] < course["visit"]).fill_null(False)
    assert before.equals(truth["prevalent"], check_names=False)
    assert 0.04 < before.mean() < 0.06
    england = (truth["nation"] == "England") & ~truth["prevalent"] & (truth["lost"] > truth["seen"])
    shown = course.filter(england)["first"]
    seen = truth.filter(england)["seen"]
    inside = seen <= pl.Series(["2021-03-31"]).str.to_date().item()
    assert shown.filter(inside).equals(seen.filter(inside), check_names=False)


def test_interview_tells_only_of_the_past(answers: pl.DataFrame) -> None:
    visit = day(answers, "53-0.0")
    now = visit.dt.year().to_numpy() + visit.dt.ordinal_day().to_numpy() / 365.25
    for name in (f"{field}-0.{slot}" for field in (20008, 20010) for slot in range(2)):
        years = number(answers, name).to_numpy()
        told = years[~np.isnan(years)]
        assert np.all(told <= now[~np.isnan(years)] + 0.01), name
        assert np.all((told > 1930) | np.isin(told, [-1, -3])), name
        assert np.any(told % 1 > 0.05), "decimal years"


def test_incidence_and_ceiling(tmp_path: Path) -> None:
    made = synth.write_export(tmp_path / "out", 20_000, 1)
    assert 0.025 < made.events / (made.rows - made.prevalent) < 0.035
    assert 0.75 < made.ceiling < 0.79
    assert f"{made.ceiling:.3f}" in (tmp_path / "out" / "README.txt").read_text()


@pytest.mark.parametrize("sex", ["men", "women"])
def test_hazard_ratios_are_recovered_from_the_files(answers: pl.DataFrame, course: pl.DataFrame, sex: str) -> None:
    """A Cox model on what stands in the tables finds the published coefficients that the events
    were drawn with."""
    relatives = [name for name in answers.columns if name.startswith(("20107-0", "20110-0", "20111-0"))]
    table = course.with_columns(
        male=answers["31-0.0"] == "1",
        age=(number(answers, "21003-0.0") - 60) / 5,
        smoker=(answers["20116-0.0"] == "2").cast(pl.Float64),
        sbp=((number(answers, "4080-0.0") + number(answers, "4080-0.1")) / 2 - 120) / 20,
        diabetes=(answers["2443-0.0"] == "1").cast(pl.Float64),
        cholesterol=number(answers, "30690-0.0") - 6,
        hdl=(number(answers, "30760-0.0") - 1.3) / 0.5,
        prs=number(answers, "26227-0.0"),
        townsend=number(answers, "189-0.0"),
        family=answers.select(
            pl.any_horizontal(pl.col(relatives) == "1").fill_null(False).cast(pl.Float64)
        ).to_series(),
    )
    free = ~(pl.col("told") | (pl.col("first") <= pl.col("visit")).fill_null(False))
    table = table.filter(free & (pl.col("male") == (sex == "men"))).with_columns(
        end=pl.min_horizontal("first", "died", pl.lit("2018-03-06").str.to_date())
    )
    table = table.with_columns(
        years=(pl.col("end") - pl.col("visit")).dt.total_days() / 365.25,
        event=(pl.col("first") == pl.col("end")).fill_null(False),
    )
    names = ["age", "smoker", "sbp", "diabetes", "cholesterol", "hdl", "prs", "townsend", "family"]
    complete = table.drop_nulls(names).filter(pl.col("years") > 0)
    fitted = PHReg(
        complete["years"].to_numpy(), complete.select(names).to_numpy(), complete["event"].cast(pl.Int64).to_numpy()
    ).fit(disp=0)
    known = np.array([LOG_HAZARD_RATIOS[sex][name] for name in names])
    scores = (fitted.params - known) / fitted.bse
    assert complete["event"].sum() > 120
    assert np.all(np.abs(scores) < 3), dict(zip(names, scores.round(2), strict=True))
    assert fitted.params[0] > 0.25 and fitted.params[1] > 0.3, "strong risks stand out"


def test_traps_are_set(answers: pl.DataFrame, records: pl.DataFrame, course: pl.DataFrame, truth: pl.DataFrame) -> None:
    def holds(frame: pl.DataFrame, field: str, *values: str) -> pl.Series:
        names = [name for name in frame.columns if name.startswith(f"{field}-")]
        return frame.select(pl.any_horizontal(pl.col(names).is_in(values)).fill_null(False)).to_series()

    for field in ("3456", "2887", "1309", "1289"):
        assert holds(answers, field, "-10").any(), "less than one"
    for field in ("2443", "864", "2976"):
        assert holds(answers, field, "-1").any() and holds(answers, field, "-3").any()
    for field in ("20116", "1558", "6138", "6153", "6177", "6150", "21000"):
        assert holds(answers, field, "-3").any(), field
    for field in ("6138", "6150", "6153", "6177"):
        assert holds(answers, field, "-7").any(), field
    for code in ("-11", "-13", "-17", "-21", "-23", "-27"):
        assert holds(answers, "20107", code).any(), code
    for date in ("01/01/1901", "02/02/1902", "03/03/1903", "07/07/2037"):
        assert holds(records, "131298", date).any(), date
    assert holds(records, "42000", "01/01/1900").any()
    undated = holds(answers, "20002", "1075") & holds(answers, "20008", "-1.0", "-3.0") & course["first"].is_null()
    assert undated.sum() > 5
    assert (course["first"] == course["visit"]).sum() > 5, "event on the day of the visit"
    wales = pl.Series(truth["nation"] == "Wales")
    after = coded_days(records.filter(wales), 41270, ".")["day"] > pl.Series(["2018-03-06"]).str.to_date().item()
    assert 0 < after.mean() < 0.02
    lost = records.select("eid", lost=pl.col("191-0.0").str.to_date("%d/%m/%Y")).drop_nulls()
    late = coded_days(records, 41270, ".").join(lost, "eid").filter(pl.col("day") > pl.col("lost"))
    assert late.height > 5, "codes after the loss"
    assert (answers["4080-0.0"].is_null() & answers["4080-1.0"].is_not_null()).sum() > 5, "instance 1 only"
    assert (answers["4080-0.0"].is_null() & answers["93-0.0"].is_not_null()).sum() > 100, "by hand only"
    assert records["40000-1.0"].is_not_null().any()
    assert (answers["6153-0.0"].is_not_null() & (answers["31-0.0"] == "1")).sum() == 0, "the women's question"


def test_relatives_share_genes_and_not_always_a_centre(large: Path, answers: pl.DataFrame) -> None:
    text = (large / "synthetic_ukb_rel.dat").read_text()
    assert text.startswith("ID1 ID2 HetHet IBS0 Kinship\n") and text.count("ID1") == 1
    pairs = pl.read_csv(large / "synthetic_ukb_rel.dat", separator=" ").with_columns(
        pl.col("ID1", "ID2").cast(pl.String)
    )
    related = pl.concat([pairs["ID1"], pairs["ID2"]]).n_unique() / ROWS
    assert related == pytest.approx(0.303, abs=0.01)
    known = answers.select("eid", centre="54-0.0", prs=pl.col("26227-0.0").cast(pl.Float64))
    both = pairs.join(known, left_on="ID1", right_on="eid").join(known, left_on="ID2", right_on="eid", suffix="_other")
    apart = both["centre"] != both["centre_other"]
    assert 0.25 < apart.mean() < 0.5
    close = both.filter(pl.col("Kinship") == 0.25).drop_nulls()
    assert close.select(pl.corr("prs", "prs_other")).item() == pytest.approx(0.45, abs=0.08)


def test_no_code_is_lost_for_want_of_arrays(records: pl.DataFrame) -> None:
    for field, last in ((41270, 19), (41271, 3), (41272, 7)):
        assert records[f"{field}-0.{last}"].is_null().all()
        assert records[f"{field}-0.0"].is_not_null().any()
        assert records[f"{field}-0.0"].is_null().equals(records[f"{field + 10}-0.0"].is_null())


def test_padding_adds_columns_and_changes_nothing_else(tmp_path: Path) -> None:
    plain = synth.write_export(tmp_path / "plain", 150, 2, "rap")
    wide = synth.write_export(tmp_path / "wide", 150, 2, "rap", columns=400)
    assert wide.columns == 400
    table = read(tmp_path / "wide", "participants")
    records = read(tmp_path / "wide", "records")
    assert table.width + records.width == 400 and plain.columns < 400
    assert table.select(read(tmp_path / "plain", "participants").columns).equals(
        read(tmp_path / "plain", "participants")
    )
    assert "p990001" in table.columns


def test_command(tmp_path: Path) -> None:
    result = call("--rows", 50, "--seed", 4, "--style", "tab", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "50 made-up participants" in result.stdout
    assert read(tmp_path / "out", "participants", "tab").height == 50


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rows", "0"), "--rows 0: expected 1 to 990000"),
        (("--rows", "2000000"), "--rows 2000000: expected 1 to 990000"),
        (("--rows", "10", "--columns", "3"), "--columns 3: expected at least 252"),
        (("--rows", "10", "--columns", "50000"), "--columns 50000: expected at most 20000"),
    ],
)
def test_refusals(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    result = call(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith(f"error: {said}")
    assert list(tmp_path.iterdir()) == [], "nothing half written"


def test_folder_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text("mine")
    result = call("--rows", 10, "--out", tmp_path)
    assert result.exit_code == 2 and "is there already" in result.stderr
    assert call("--rows", 10, "--out", tmp_path / "mine.csv").exit_code == 2
    assert call("--rows", 10, "--out", ".").exit_code == 2
    assert call("--rows", 10, "--out", tmp_path / "mine.csv" / "below").exit_code == 5
    assert (tmp_path / "mine.csv").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert call("--rows", 10, "--out", tmp_path / "empty").exit_code == 0, "an empty folder may be there"
    assert call("--rows", 10, "--style", "excel", "--out", tmp_path / "x").exit_code == 2
