"""Tables of other columns: read by a dictionary of their own, scored by one model, and refused an
answer where they say too little."""

import json
import pickle
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
import yaml

from cardiotune import reopen, studies
from cardiotune.config import load_dataset
from cardiotune.data.prepare import read_prepared
from cardiotune.data.reading import COUNTS, reading
from cardiotune.deployment.scorer import RowScorer
from cardiotune.errors import ConfigError, DataError
from cardiotune.models.enough import fewest_columns
from cardiotune.risk_model import RiskModel
from conftest import TOY_COLUMNS, build_toy_table, write_toy_experiment
from serving import serving
from test_cli import call, check_refusal

ABROAD: dict[str, Any] = {
    "alter": {"type": "numeric", "unit": "months", "phrase": "age", "same_as": "age"},
    "druck": {"type": "integer", "unit": "mmHg", "phrase": "pressure", "same_as": "sbp"},
    "geschlecht": {"type": "binary", "codes": {"f": "woman", "m": "man"}, "same_as": "sex"},
    "krank": {"role": "target", "type": "binary"},
}
"""The second table's dictionary; a third has other columns again."""
THIRD: dict[str, Any] = {
    "jaren": {"type": "integer", "unit": "years", "phrase": "age", "same_as": "age"},
    "kalium": {"type": "numeric", "unit": "mmol/L", "phrase": "potassium"},
    "roker": {"type": "binary", "phrase": "smoker", "same_as": "smoker"},
    "ziek": {"role": "target", "type": "binary"},
}


def abroad(rows: int, seed: int) -> pl.DataFrame:
    """The toy table in the second hospital's columns."""
    own = build_toy_table(rows, seed)
    sex = pl.when(pl.col("sex") == 1).then(pl.lit("m")).otherwise(pl.lit("f"))
    return own.select(alter=pl.col("age") * 12, druck=pl.col("sbp"), geschlecht=sex, krank=pl.col("disease"))


def third(rows: int = 40, seed: int = 5) -> pl.DataFrame:
    """In the third hospital's, with potassium, which training never had; some ages missing."""
    own = build_toy_table(rows, seed)
    age = pl.when(pl.int_range(rows) % 4 > 0).then("age")
    return own.select(jaren=age, kalium=4.0 + pl.col("sbp") / 1000, roker=pl.col("smoker"), ziek=pl.col("disease"))


def write_others(folder: Path) -> None:
    """The second hospital's table, and the third's with its dictionary."""
    abroad(160, 3).write_csv(folder / "abroad.csv")
    third().write_csv(folder / "third.csv")
    (folder / "third.yaml").write_text(yaml.safe_dump({"data": {"columns": THIRD}}, sort_keys=False))


def write_two_tables(
    place: Path, toy_model: Path, part: str = "both", train: dict[str, Any] | None = None, **more: Any
) -> Path:
    """An experiment of the toy's table and of the second hospital's, which stands in `place`."""
    file = write_toy_experiment(place, toy_model)
    tree = yaml.safe_load(file.read_text())
    home = tree.pop("data")
    home["path"] = str(place / "table.csv")
    tree["tables"] = {
        "home": {"data": home},
        "abroad": {"data": {"path": str(place / "abroad.csv"), "columns": ABROAD}, "part": part},
    }
    tree |= {"models": ["tuned"], "method": {"kind": "full"}, **more}
    tree["train"] |= {"epochs": 3, "learning_rate": 0.003, **(train or {})}
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    write_others(folder)
    return folder


@pytest.fixture(scope="module")
def run(place: Path, toy_model: Path) -> Path:
    """A run of two tables."""
    file = write_two_tables(place, toy_model)
    folder = place / "runs" / "toy"
    for step in (("prepare", file), ("train", folder), ("predict", folder)):
        done = call(*step)
        assert done.exit_code == 0, done.output
    return folder


def scored(run: Path, table: Path, *options: str | Path) -> pl.DataFrame:
    out = table.with_suffix(".risks.csv")
    done = call("predict", run, table, "--out", out, *options)
    assert done.exit_code == 0, done.output
    return pl.read_csv(out)


# --------------------------------------------------------------------------------------------------
# what is read


def test_texts_are_in_the_words_and_order_of_the_given_dictionary(run: Path, place: Path) -> None:
    config = reopen.config_of(reopen.open_run(run))
    by = reading(config, [], place / "third.yaml", run)
    read = by.rows(str(place / "third.csv"))
    row = build_toy_table(40, 5).row(1, named=True)
    smokes = "yes" if row["smoker"] else "no"
    potassium = f"{4 + row['sbp'] / 1000:.6g}"
    assert by.texts(read.frame)[1] == f"age {row['age']} years, potassium {potassium} mmol/L, smoker {smokes}"
    assert by.texts(read.frame)[0].startswith("age not recorded, "), "missing is said, as the run says it"
    counts = by.counts(read.frame)
    assert counts["columns_known"].to_list()[:2] == [1, 2]
    assert set(counts["columns_unseen"]) == {1}
    assert set(counts["columns_absent"]) == {3}, "sex, pressure and pain"


def test_columns_that_the_table_lacks_are_left_out_of_the_text_and_said_once(
    run: Path, place: Path, tmp_path: Path
) -> None:
    file = tmp_path / "less.csv"
    third().drop("kalium", "ziek").write_csv(file)
    done = call(
        "predict", run, file, "--dataset", place / "third.yaml", "--chunk-rows", "7", "--out", tmp_path / "o.csv"
    )
    assert done.exit_code == 0, done.output
    assert done.stderr.count("less.csv: not in the table and left out of the texts: kalium") == 1
    assert "2 of 5 quantities of the training are in the table; absent: pain, sbp, sex" in done.stderr
    frame = pl.read_csv(tmp_path / "o.csv")
    assert set(frame["columns_unseen"]) == {0} and frame.height == 40
    config = reopen.config_of(reopen.open_run(run))
    by = reading(config, [], load_dataset(str(place / "third.yaml")), run)
    assert "potassium" not in by.texts(by.rows(str(file)).frame)[1]


def test_an_unseen_column_is_said(run: Path, place: Path) -> None:
    done = call("predict", run, place / "third.csv", "--dataset", place / "third.yaml")
    assert "read by their description, never seen in training: kalium" in done.stderr
    assert done.stdout.startswith(
        "row,row_id,y_prob,y_prob_raw,prediction,threshold,values_missing,columns_known,columns_unseen,columns_absent,abstain"
    )


def test_by_the_name_of_its_own_table_rows_are_scored_as_in_the_run(run: Path, place: Path) -> None:
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    known = {line["row_id"]: line["y_prob"] for line in lines}
    for name in ("table.csv", "abroad.csv"):
        frame = scored(run, place / name, "--dataset", "home" if name == "table.csv" else "abroad")
        both = frame.filter(pl.col("row_id").is_in(list(known)))
        assert both.height > 20
        np.testing.assert_allclose(both["y_prob"], [known[row] for row in both["row_id"]], atol=1e-5)
        assert set(frame["columns_unseen"]) == {0}


def test_several_tables_need_a_dictionary(run: Path, place: Path, tmp_path: Path) -> None:
    said = "was made of several tables; say with --dataset (in Python, dataset=) how to read this one: as home, abroad"
    table = place / "third.csv"
    check_refusal(call("predict", run, table), 2, said)
    check_refusal(call("predict", run, table, "--out", tmp_path / "x.csv"), 2, said)
    check_refusal(call("evaluate", run, "--table", table), 2, said)
    check_refusal(call("explain", run, "--table", table, "--row", "1"), 2, said)
    check_refusal(call("recalibrate", run, table), 2, said)
    with pytest.raises(ConfigError, match="several tables"):
        RiskModel.load(run)
    said = "was made of several tables, and this asks for the columns of one"
    check_refusal(call("probe", run, "--rows", "20"), 2, said)
    check_refusal(call("explain", run, "--rows", "20"), 2, said + "; one patient's are told by explain --row")


def test_bad_dictionaries_get_a_line(run: Path, place: Path, tmp_path: Path) -> None:
    predict = ("predict", run, place / "third.csv", "--dataset")
    check_refusal(call(*predict, "clevland"), 2, "did you mean cleveland")
    check_refusal(call(*predict, tmp_path / "none.yaml"), 2, "no such file")
    bad = tmp_path / "bad.yaml"
    bad.write_text("data: {path: x.csv}")
    check_refusal(call(*predict, bad), 2, "no data dictionary")
    bad.write_text(yaml.safe_dump({"data": {"columns": {"jaren": {"typ": "integer"}}}}))
    check_refusal(call(*predict, bad), 2, "data.columns.jaren.typ: unknown key; did you mean type?")
    bad.write_text(yaml.safe_dump({"data": {"columns": {"t": {"role": "text"}, "ziek": {"role": "target"}}}}))
    check_refusal(call(*predict, bad), 2, "expected a dictionary of plain columns")
    check_refusal(call(*predict, "statlog_heart"), 3, "columns of the data dictionary that are not in the table: age")
    check_refusal(call("predict", run, "--dataset", "home"), 2, "--dataset goes with a new TABLE")
    check_refusal(call("evaluate", run, "--dataset", "home"), 2, "--dataset goes with --table")
    check_refusal(call("explain", run, "--dataset", "home"), 2, "--dataset goes with --table")


# --------------------------------------------------------------------------------------------------
# the commands beside predict


def test_another_table_is_judged_as_a_whole(run: Path, place: Path) -> None:
    table, dataset = place / "third.csv", place / "third.yaml"
    done = call("evaluate", run, "--table", table, "--dataset", dataset)
    assert done.exit_code == 0, done.output
    folder = run / "evaluations" / "third-as-third"
    judged = json.loads((folder / "metrics.json").read_text())
    assert judged["parts"]["test"]["n"] == 40
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([line["y_prob"] for line in lines], scored(run, table, "--dataset", dataset)["y_prob"])
    assert call("evaluate", run, "--table", table, "--dataset", dataset).exit_code == 0, "again, the same"
    changed = place / "other" / "third.yaml"
    changed.parent.mkdir()
    changed.write_text(dataset.read_text().replace("potassium", "serum potassium"))
    check_refusal(call("evaluate", run, "--table", table, "--dataset", changed), 2, "--overwrite")
    blind = place / "blind.csv"
    third().drop("ziek").write_csv(blind)
    refused = call("evaluate", run, "--table", blind, "--dataset", dataset)
    assert refused.exit_code == 3 and "the outcome ziek is known in no row" in refused.stderr


def test_a_checkpoint_is_judged_on_another_table(run: Path, place: Path) -> None:
    newest = sorted((run / "checkpoints").iterdir())[-1]
    new = studies.NewTable(str(place / "third.csv"), str(place / "third.yaml"))
    target, judged = studies.evaluate_checkpoint(reopen.open_run(run), newest, new)
    assert target.name == f"{newest.name}-third-as-third"
    assert judged["parts"]["test"]["n"] == 40


def test_one_row_is_explained_and_a_site_recalibrated(run: Path, place: Path) -> None:
    table, dataset = place / "third.csv", place / "third.yaml"
    done = call("explain", run, "--table", table, "--dataset", dataset, "--row", "2", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {field["column"] for field in found["fields"]} == {"jaren", "kalium", "roker"}
    assert found["risk"] == pytest.approx(scored(run, table, "--dataset", dataset)["y_prob"][1], abs=1e-5)
    line = json.loads((run / "predictions.jsonl").read_text().splitlines()[0])
    own = json.loads(call("explain", run, "--row", line["row_id"], "--json").stdout)
    assert own["risk"] == pytest.approx(line["y_prob"], abs=1e-5)
    done = call("recalibrate", run, table, "--dataset", dataset, "--site", "there")
    assert done.exit_code == 0, done.output
    shifted = scored(run, table, "--dataset", dataset, "--site", "there")
    assert shifted["y_prob"].mean() == pytest.approx(third()["ziek"].mean(), abs=0.02)


def test_python_reads_any_columns(run: Path, place: Path) -> None:
    model = RiskModel.load(run, dataset=place / "third.yaml")
    risks = model.predict_proba(third())[:, 1]
    np.testing.assert_allclose(
        risks, scored(run, place / "third.csv", "--dataset", place / "third.yaml")["y_prob"], atol=1e-5
    )
    np.testing.assert_allclose(pickle.loads(pickle.dumps(model)).predict_proba(third())[:, 1], risks, atol=1e-6)
    assert model.predict_proba(third().select("jaren")).shape == (40, 2)
    assert model.predict_proba([{"jaren": 61}, {"roker": "1"}]).shape == (2, 2)
    with pytest.raises(DataError, match="not in the table"):
        model.predict_proba(third().select("ziek", age="jaren"))
    with pytest.raises(ConfigError, match="fits the rows of one table"):
        RiskModel(reopen.config_of(reopen.open_run(run))).fit(third().drop("ziek"), [0, 1] * 20)


def test_the_server_and_its_page_ask_for_the_dictionary_s_columns(run: Path, place: Path) -> None:
    scorer = RowScorer.load(run, dataset=str(place / "third.yaml"))
    scorer.fewest_columns = 2
    with serving(run, lambda: scorer) as (client, _):
        assert [field["column"] for field in client.get("/v1/model").json()["fields"]] == ["jaren", "kalium", "roker"]
        rows = [{"jaren": 61, "roker": "1"}, {"jaren": 61, "kalium": 4.1}]
        first, second = predictions(client, rows)
        assert not first["abstain"] and first["decision"] in (0, 1)
        assert second["abstain"] and second["decision"] is None, "one value that training had, of two that are needed"
        assert second["probability"] == pytest.approx(scorer.risks(rows)[1], abs=1e-5)
        counts = [[found[name] for name in COUNTS] for found in (first, second)]
        assert counts == [[2, 0, 3], [1, 1, 3]], "age and smoker known, potassium unseen; pain, pressure and sex absent"
        (alone,) = predictions(client, rows[1:])
        assert [alone[name] for name in COUNTS] == counts[1], "whatever rows come with it"
        schema = client.get("/openapi.json").json()["components"]["schemas"]["Prediction"]["properties"]
        assert set(COUNTS) < set(schema)
        assert client.post("/v1/explain", json={"rows": rows[:1]}).json()["fields"]
        assert client.post("/v1/predict", json={"rows": [{"age": 61}]}).status_code == 422
        assert client.get("/").status_code == 200
    written = place / "asked.csv"
    pl.DataFrame(rows, schema={"jaren": pl.Int64, "kalium": pl.Float64, "roker": pl.String}).write_csv(written)
    assert scored(run, written, "--dataset", place / "third.yaml").select(COUNTS).rows() == [(2, 0, 3), (1, 1, 3)]


def predictions(client: httpx.Client, rows: list[dict[str, Any]]) -> Any:
    return client.post("/v1/predict", json={"rows": rows}).json()["predictions"]


def test_an_export_keeps_the_first_table_s_dictionary(run: Path, place: Path) -> None:
    out = place / "merged"
    done = call("export", run, "--to", "merged", "--out", out)
    assert done.exit_code == 0, done.output
    by_run = scored(run, place / "table.csv", "--dataset", "home")
    plain = scored(out, place / "table.csv")
    assert "columns_known" not in plain.columns
    np.testing.assert_allclose(plain["y_prob"], by_run["y_prob"], atol=1e-4)
    other = scored(out, place / "third.csv", "--dataset", place / "third.yaml")
    expected = scored(run, place / "third.csv", "--dataset", place / "third.yaml")
    np.testing.assert_allclose(other["y_prob"], expected["y_prob"], atol=1e-4)
    assert other["columns_absent"].equals(expected["columns_absent"])
    assert json.loads((out / "export.json").read_text())["trained"] == ["age", "pain", "sbp", "sex", "smoker"]
    done = call("export", run, "--to", "merged", "--out", out, "--check")
    assert done.exit_code == 0, done.output


# --------------------------------------------------------------------------------------------------
# too little to go on


def test_a_row_that_says_too_little_abstains(run: Path, place: Path, tmp_path: Path) -> None:
    kept = json.loads((run / "calibration.json").read_text())["fewest_columns"]
    assert 1 <= kept <= 6
    table = tmp_path / "third.csv"
    rows = third().with_columns(jaren=None, roker=pl.when(pl.int_range(40) > 0).then("roker"))
    rows.write_csv(table)
    frame = scored(run, table, "--dataset", place / "third.yaml")
    assert frame["columns_known"].to_list()[:2] == [0, 1]
    assert frame["abstain"].to_list() == (frame["columns_known"] < kept).to_list()
    assert frame["abstain"][0] and frame["prediction"][0] is None and 0 < frame["y_prob"][0] < 1


@pytest.mark.parametrize(("needed", "found"), [(1, 1), (3, 3), (5, 5), (9, 6)])
def test_the_fewest_columns_are_those_with_which_risks_beat_the_prevalence(run: Path, needed: int, found: int) -> None:
    config = reopen.config_of(reopen.open_run(run))
    prepared = read_prepared(config)
    events = prepared.cohort.events[prepared.rows("validation")]
    asked = []

    def risks(texts: list[str]) -> np.ndarray:
        asked.append(len(texts))
        said = max(text.count(",") + 1 for text in texts)
        return 0.1 + 0.8 * events if said >= needed else np.full(len(texts), 0.5)

    assert fewest_columns(risks, prepared, config.serialize, 0) == found
    assert len(asked) <= 4 and max(asked) <= 200


def test_runs_whose_texts_do_not_vary_learn_no_rule_and_read_any_columns_too(toy_experiment: Path, place: Path) -> None:
    from test_cli import run_tuned_alone

    own = run_tuned_alone(toy_experiment)
    assert "fewest_columns" not in json.loads((own / "calibration.json").read_text())
    frame = scored(own, place / "third.csv", "--dataset", place / "third.yaml")
    assert set(frame["columns_absent"]) == {3} and set(frame["columns_known"]) <= {1, 2}
    plain = scored(own, toy_experiment.parent / "table.csv")
    assert plain.columns[-1] == "values_missing"
    done = call("evaluate", own, "--table", toy_experiment.parent / "table.csv")
    assert done.exit_code == 0 and (own / "evaluations" / "table" / "metrics.json").is_file()
    assert set(TOY_COLUMNS) >= {"age", "sex"}
