"""A first line of patients, or keys that are patients, are not shown: in no message, no log and no
file that may leave."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from cardiotune import RiskModel
from cardiotune.data.draft import draft
from cardiotune.errors import DataError
from conftest import build_toy_table
from serving import train_toy_run
from test_cli import call

NAMES = ["Zzquist", "Zzberger", "Zzova", "Zzson"]
"""Canaries: whatever shows one of these words shows a patient."""
ROW = {"age": 61, "sex": 1, "sbp": 140, "smoker": 0, "pain": "none"}


def people(line: Callable[[int, str], str], rows: int = 60) -> str:
    return "\n".join(line(n, NAMES[n % len(NAMES)]) for n in range(rows)) + "\n"


FORMS: dict[str, str | pl.DataFrame] = {
    "text.csv": people(lambda n, name: f"{name},M,Zzborough,{'died' if n % 2 else 'alive'}"),
    "mixed.csv": people(lambda n, name: f"{name},M,Zzborough,{61 + n % 9},5.{n % 7},died,x,y"),
    "numbers.csv": people(lambda n, name: f"{61 + n},1,140,{name}"),
    "german.csv": people(lambda n, name: f"{name};6,{n % 9};4,{n % 7};m"),
    "dates.csv": people(lambda n, name: f"{name},1950-03-{n % 28 + 1:02d},12/05/2019,m,died"),
    "titled.csv": people(lambda n, name: f"{name} of Zzborough,,,\nid,age,sbp,died\n1,2,3,4", 1),
    "twice.csv": people(lambda n, name: f"{name},{name},x,y"),
    "nameless.csv": people(lambda n, name: f"{name},,{61 + n},x"),
    "close.csv": people(lambda n, name: f"agee,dieed,{name},x" if n == 0 else f"{name},{name},{name},x"),
    "keyed.json": json.dumps({name: ROW for name in NAMES}),
    "keyed_rows.json": json.dumps([{name: 60 + n for name in NAMES} for n in range(9)]),
    "one_object.json": json.dumps({name: 60 for name in NAMES}),
    "columns.json": json.dumps({"age": {name: 60 for name in NAMES}, "died": {name: 1 for name in NAMES}}),
    "keyed.jsonl": people(lambda n, name: json.dumps({name: ROW}), 4),
    "list.json": json.dumps([[name, 61, 140] for name in NAMES]),
    "broken.json": json.dumps([{"age": name} for name in NAMES])[:-9],
    "transposed.csv": "variable," + ",".join(NAMES) + "\nage,61,62,63,64\nsbp,140,150,160,170\n",
    "long.csv": "protein," + ",".join(NAMES) + "\n" + "".join(f"P{n},1.{n},2.{n},3.{n},4.{n}\n" for n in range(60)),
    "transposed.parquet": pl.DataFrame({"variable": ["age", "sbp"], **{name: [61, 140] for name in NAMES}}),
    "nested.parquet": pl.DataFrame({"age": [61, 62], "note": [NAMES[:2], NAMES[2:]]}),
    "unclosed.csv": f'age,sbp\n61,"{NAMES[0]}\n62,3\n',
}


def written(folder: Path, form: str) -> Path:
    content, file = FORMS[form], folder / form
    if isinstance(content, str):
        file.write_text(content)
    else:
        content.write_parquet(file)
    return file


def check_silent(said: str) -> None:
    assert "zz" not in said.casefold(), said
    assert "Traceback" not in said and "internal error" not in said


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    return train_toy_run(tmp_path_factory.mktemp("run"), toy_model)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("target", ["outcome", "died", "zzquit"])
def test_init(tmp_path: Path, form: str, target: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError) as error:
        draft(str(written(tmp_path, form)), target, tmp_path / "study")
    check_silent(str(error.value).replace(target, "") + caplog.text)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("form", FORMS)
def test_run_and_predict(tmp_path: Path, form: str, run: Path, toy_experiment: Path) -> None:
    file = written(tmp_path, form)
    for command in (
        ("run", toy_experiment, f"data.path={file}", f"runs_dir={tmp_path / 'runs'}"),
        ("prepare", toy_experiment, f"data.path={file}", "--show", "2", "--real-rows"),
        ("predict", run, file, "--out", tmp_path / "risks.csv"),
    ):
        done = call(*command)
        assert done.exit_code == 3, done.output
        check_silent(done.stdout + done.stderr)
    assert not (tmp_path / "runs").exists()


def test_the_api(run: Path) -> None:
    model = RiskModel.load(run)
    for rows in (
        [{name: ROW for name in NAMES}],
        [{name: 61 for name in NAMES}],
        [{**ROW, NAMES[0]: 1}],
        [{**ROW, "age": NAMES[0]}],
        pl.DataFrame({name: [61] for name in NAMES}),
        pl.DataFrame({**ROW, NAMES[0]: [[1]]}),
        {name: ROW for name in NAMES},
        [NAMES],
    ):
        for ask in (model.predict_proba, model.check_rows):
            try:
                ask(rows)
            except DataError as error:
                check_silent(str(error))
            else:
                assert ask == model.check_rows and rows == [{**ROW, "age": NAMES[0]}]


def test_further_keys_of_objects_are_only_counted(tmp_path: Path, toy_experiment: Path) -> None:
    """The dictionary's keys are there, and beside them, in some rows, what may be anything."""
    rows = build_toy_table().to_dicts()
    rows[3][NAMES[0]] = rows[5][NAMES[1]] = 1
    (tmp_path / "t.json").write_text(json.dumps(rows))
    done = call("prepare", toy_experiment, f"data.path={tmp_path / 't.json'}", "models=[logistic_regression]")
    assert done.exit_code == 0, done.output
    folder = toy_experiment.parent / "runs" / "toy"
    check_silent(done.output + "".join(f.read_text() for f in folder.glob("*.json")))
    assert json.loads((folder / "cohort.json").read_text())["notes"]["columns_ignored"] == ["2 other keys"]


def test_names_that_are_certain_help(tmp_path: Path) -> None:
    """A header above numbers is one; above words alone it may be a patient."""
    (tmp_path / "t.csv").write_text("id,age,sbp,died\n" + "".join(f"{n},6{n},14{n},{n % 2}\n" for n in range(9)))
    with pytest.raises(DataError, match="no column outcome; found: id, age, sbp, died"):
        draft(str(tmp_path / "t.csv"), "outcome", tmp_path / "study")
    (tmp_path / "w.csv").write_text("name,died\n" + "".join(f"x{n},{'ny'[n % 2]}\n" for n in range(9)))
    with pytest.raises(DataError, match=r"no column dead; is it column 2\?"):
        draft(str(tmp_path / "w.csv"), "dead", tmp_path / "study")
