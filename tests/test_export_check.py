"""`export-check`: rows, ids and texts of patients planted in files of every kind are found;
aggregates pass."""

import bz2
import gzip
import html
import io
import json
import lzma
import pickle
import shutil
import sqlite3
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner, Result

from cardiotune import stages
from cardiotune.audit.export_check import ASK, LEAVE, STAY, Judged, check_export
from cardiotune.audit.export_check.contents import contents
from cardiotune.audit.export_check.folder import _judge_content
from cardiotune.audit.export_check.traces import Known, _telling, traces, undressed, words
from cardiotune.cli import app
from cardiotune.config import load_config, load_resolved, read_yaml, to_yaml
from cardiotune.data.prepare import read_prepared
from cardiotune.runs import RunFolder
from conftest import build_toy_table, toy_config, write_toy_experiment

FIRST_EID = 4_100_017


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> RunFolder:
    """A finished run whose patients have ids of seven digits, as in UK Biobank."""
    file = write_toy_experiment(tmp_path_factory.mktemp("run"), toy_model)
    eids = pl.Series("patient_id", range(FIRST_EID, FIRST_EID + 240))
    build_toy_table().with_columns(eids).write_csv(file.parent / "table.csv")
    experiment = yaml.safe_load(file.read_text())
    experiment["models"] = ["prevalence", "logistic_regression", "tuned"]
    file.write_text(yaml.safe_dump(experiment))
    return stages.run(load_config(file))


@pytest.fixture
def clean(finished: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy without what must stay by its name."""
    shutil.copytree(finished.path, tmp_path / "toy")
    run = RunFolder(tmp_path / "toy")
    run.predictions.unlink()
    run.split.unlink()
    run.exact_counts.unlink()
    shutil.rmtree(run.checkpoints)
    shutil.rmtree(run.path / "tokens", ignore_errors=True)
    return run


@pytest.fixture(scope="module")
def patient(finished: RunFolder) -> dict[str, str]:
    """What gives one patient away: the id, the run's row id, the text, and the row of the table."""
    prepared = read_prepared(load_resolved(finished.config))
    table = build_toy_table().row(7)
    return {
        "id": str(FIRST_EID + 7),
        "row id": prepared.cohort.frame["__row_id__"][7],
        "text": prepared.texts[7],
        "row": ",".join(map(str, table[1:])),
    }


def verdicts(run: RunFolder) -> dict[str, Judged]:
    return {entry.path: entry for entry in check_export(run)}


# --------------------------------------------------------------------------------------------------
# the folder


def test_what_is_derived_from_rows_must_stay_and_aggregates_may_leave(finished: RunFolder) -> None:
    found = verdicts(finished)
    assert set(found) == {str(path.relative_to(finished.path)) for path in finished.path.rglob("*") if path.is_file()}
    stay = {path for path, entry in found.items() if entry.verdict == STAY}
    assert {"predictions.jsonl", "split.parquet", "exact_counts.json"} <= stay
    assert all(path.startswith(("predictions", "split", "exact_counts", "checkpoints/", "tokens/")) for path in stay)
    assert any(path.endswith("optimizer.safetensors") for path in stay)
    for name in (
        "metrics.json",
        "report.html",
        "report.md",
        "config.yaml",
        "manifest.json",
        "table1.json",
        "model_card.md",
    ):
        assert found[name].verdict == LEAVE, found[name]
    (reason,) = found["adapter/adapter_model.safetensors"].reasons
    assert found["adapter/adapter_model.safetensors"].verdict == ASK and "ask the data holder" in reason


def test_a_clean_folder_passes(clean: RunFolder) -> None:
    found = verdicts(clean)
    assert not [entry for entry in found.values() if entry.verdict == STAY]
    result = call(clean.path)
    assert result.exit_code == 0, result.output


def test_token_ids_must_stay(clean: RunFolder) -> None:
    (clean.path / "tokens").mkdir()
    np.save(clean.path / "tokens" / "tokens.npy", np.arange(100, dtype=np.int32))
    assert verdicts(clean)["tokens/tokens.npy"].verdict == STAY


def test_a_file_that_a_run_does_not_write_is_for_a_person(clean: RunFolder) -> None:
    (clean.path / "notes.txt").write_text("the model was better than expected\n")
    found = verdicts(clean)["notes.txt"]
    assert (found.verdict, found.reasons) == (ASK, ["not a file that a run writes"])


# --------------------------------------------------------------------------------------------------
# planted, in files of every kind


def zipped(data: bytes, name: str = "inner.txt") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def tarred(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo("inner.md")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def as_parquet(secret: str) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"a": [1, 2], "b": ["nothing", secret]}).write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def as_sqlite(secret: str, folder: Path) -> bytes:
    file = folder / "made.sqlite"
    with sqlite3.connect(file) as database:
        database.execute("create table notes (said text)")
        database.execute("insert into notes values (?)", [secret])
    database.close()
    return file.read_bytes()


def as_safetensors(secret: str) -> bytes:
    header = json.dumps({"__metadata__": {"note": secret}, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    return struct.pack("<Q", len(header)) + header.encode() + b"\0" * 4


KINDS: dict[str, Callable[[str, Path], bytes]] = {
    "note.json": lambda s, _: json.dumps({"results": [{"deep": {"comment": s}}]}).encode(),
    "escaped.json": lambda s, _: json.dumps(json.dumps({"prompt": f"Patient:\n{s}\nAnswer:"})).encode(),
    "lines.jsonl": lambda s, _: (json.dumps({"step": 1}) + "\n" + json.dumps({"log": s}) + "\n").encode(),
    "table.csv": lambda s, _: f'number,comment\n1,"{s}"\n'.encode(),
    "table.tsv": lambda s, _: f"number\tcomment\n1\t{s}\n".encode(),
    "page.html": lambda s, _: f"<p>One case:</p><p><b>{html.escape(s)}</b></p>".encode(),
    "spread.html": lambda s, _: ("<td>" + "</td><td>".join(s.split(" ")) + "</td>").encode(),
    "notes.md": lambda s, _: f"## A case\n\n> {s}\n".encode(),
    "run.log": lambda s, _: f"12:00 warning: could not score {s}\n".encode(),
    "wide.txt": lambda s, _: f"one case: {s}".encode("utf-16"),
    "wide_without_mark.bin": lambda s, _: b"\x01\x02" + f"one case: {s} ".encode("utf-16-le"),
    "settings.yaml": lambda s, _: yaml.safe_dump({"example": s}).encode(),
    "array.npy": lambda s, _: b"\x93NUMPY\x01\x00\x00\x00" + s.encode() + b"\x00\x01",
    "object.pkl": lambda s, _: pickle.dumps({"a": s}, protocol=4),
    "data.parquet": lambda s, _: as_parquet(s),
    "base.sqlite": as_sqlite,
    "weights.safetensors": lambda s, _: as_safetensors(s),
    "packed.gz": lambda s, _: gzip.compress(s.encode()),
    "packed.bz2": lambda s, _: bz2.compress(s.encode()),
    "packed.xz": lambda s, _: lzma.compress(s.encode()),
    "packed.zip": lambda s, _: zipped(s.encode()),
    "packed.tar.gz": lambda s, _: tarred(s.encode()),
    "twice.zip": lambda s, _: zipped(gzip.compress(s.encode())),
    "disguised.png": lambda s, _: zipped(s.encode()),
}


@pytest.mark.parametrize("secret", ["id", "row id", "text", "row"])
def test_what_is_planted_in_any_kind_of_file_is_found(
    finished: RunFolder, clean: RunFolder, patient: dict[str, str], tmp_path: Path, secret: str
) -> None:
    shutil.copy(finished.split, clean.split)  # the row ids are known from it
    for name, made in KINDS.items():
        if not (name == "spread.html" and " " not in patient[secret]):
            (clean.path / name).write_bytes(made(patient[secret], tmp_path))
    found = verdicts(clean)
    planted = [name for name in KINDS if name in found]
    missed = {name: found[name] for name in planted if found[name].verdict != STAY}
    assert not missed
    said = {"id": "ids of the run's table", "row id": "row ids of the run"}.get(secret, "patients")
    unread = {"object.pkl"}  # must stay anyhow
    assert all(any(said in reason for reason in found[name].reasons) for name in planted if name not in unread)
    assert found["metrics.json"].verdict == LEAVE


@pytest.mark.parametrize("secret", ["id", "text", "row"])
def test_what_is_planted_in_a_run_s_own_files_is_found(clean: RunFolder, patient: dict[str, str], secret: str) -> None:
    from torch.utils.tensorboard import SummaryWriter

    next(clean.logs.glob("events.out.tfevents.*")).unlink()
    board = SummaryWriter(str(clean.logs))
    board.add_text("worst case", patient[secret])
    board.close()
    (events,) = clean.logs.glob("events.out.tfevents.*")
    for name in ("metrics.json", "manifest.json", "adapter/adapter_config.json", "logs/training.json"):
        file = clean.path / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {"example": patient[secret]}))
    for name in ("report.md", "report.html", "config.yaml"):
        file = clean.path / name
        file.write_text(file.read_text() + f"\n# {patient[secret]}\n")
    found = verdicts(clean)
    planted = {"metrics.json", "manifest.json", "adapter/adapter_config.json", "logs/training.json"}
    planted |= {"report.md", "report.html", "config.yaml", f"logs/{events.name}"}
    assert {name for name, entry in found.items() if entry.verdict == STAY} == planted


def test_every_style_of_text_is_found_without_the_table(finished: RunFolder, tmp_path: Path) -> None:
    """By the dictionary's phrases with values: somebody else's patients, in this run's words."""
    config = load_resolved(finished.config)
    known = Known(config.data.columns)
    for style in ("compact", "sentence", "list"):
        styled = config.serialize.model_copy(update={"style": style})
        text = read_prepared(config.model_copy(update={"serialize": styled})).texts[3]
        assert any("dictionary" in reason for reason in traces(f"as seen: {text}", known)), style
    harmless = "age, years: 58.4 (16.5); sex: woman 53 (44.5 %); smoker: yes 60 (50 %); age under 45, sex man"
    assert not list(traces(harmless, known))


def test_ids_of_excluded_rows_are_found_too(clean: RunFolder, tmp_path: Path) -> None:
    """Who was left out of the cohort is a patient still."""
    tree = read_yaml(clean.config)
    rows = build_toy_table().with_columns(pl.Series("patient_id", range(FIRST_EID, FIRST_EID + 240)))
    rows = rows.with_columns(age=pl.when(pl.int_range(240) == 5).then(200).otherwise("age"))
    rows.write_csv(tmp_path / "other.csv")
    tree["data"]["path"] = str(tmp_path / "other.csv")
    clean.config.write_text(to_yaml(tree))
    (clean.path / "notes.txt").write_text(f"left out: {FIRST_EID + 5}")
    assert "ids of the run's table (1 found)" in verdicts(clean)["notes.txt"].reasons


def test_running_numbers_as_ids_are_not_taken_for_counts(caplog: pytest.LogCaptureFixture) -> None:
    running = {str(number) for number in range(20_000, 60_000)}
    assert _telling(running | {"4100017", "P00017"}) == {"4100017", "P00017"}
    assert "40000 ids are running numbers" in caplog.text
    sparse = {str(number) for number in range(1_000_000, 1_500_000)}
    assert _telling(sparse) == sparse, "half a million of seven digits, as in UK Biobank"


def test_without_the_table_ids_are_told_by_their_seven_digits(
    clean: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = read_yaml(clean.config)
    tree["data"]["path"] = str(tmp_path / "gone.csv")
    clean.config.write_text(to_yaml(tree))
    (clean.path / "one.txt").write_text("trained 1234567 parameters")
    (clean.path / "many.txt").write_text("see 1234567, 2345678 and 3456789")
    (clean.path / "none.txt").write_text("0.1234567 12345678 sha a1234567b 1234567.5")
    found = verdicts(clean)
    assert [found[name].verdict for name in ("one.txt", "many.txt", "none.txt")] == [ASK, STAY, ASK]
    assert found["many.txt"].reasons == ["whole numbers of seven digits, as ids of UK Biobank are (3 different)"]
    assert found["none.txt"].reasons == ["not a file that a run writes"]
    assert found["metrics.json"].verdict == LEAVE
    assert "the run's table cannot be read" in caplog.text


# --------------------------------------------------------------------------------------------------
# records, counts, what cannot be opened


def judged(data: Any, **known: Any) -> list[tuple[str, str]]:
    raw = data if isinstance(data, bytes) else data.encode() if isinstance(data, str) else json.dumps(data).encode()
    about = Known(toy_config(Path("none")).data.columns, **known)
    return list(dict.fromkeys(found for content in contents(raw) for found in _judge_content(content, "file", about)))


@pytest.mark.parametrize(
    "data",
    [
        [{"age": 61, "sex": 1}, {"age": 50, "sex": 0}],
        {"cases": [{"id": 1, "input": {"sbp": 145, "age": 61}}]},
        {"age": list(range(30, 60)), "sbp": list(range(100, 130))},
        {"patient_id": 3, "note": "x"},
        {"rows": [{"y_prob": 0.3}, {"y_prob": 0.4}]},
        '{"age": 61, "smoker": 1}\nsome other line\n{"age": 50, "smoker": 0}\n',
        "age;sex;other\n61;1;a\n50;0;b\n",
        "EID,finding\n1,2\n3,4\n",
        "'age'\t'sex'\n61\t0\n",
    ],
    ids=lambda data: str(data)[:30],
)
def test_rows_are_told_by_their_keys(data: Any) -> None:
    assert any(verdict == STAY and "row level" in reason for verdict, reason in judged(data))


@pytest.mark.parametrize(
    "data",
    [
        {"missing": {"age": 0, "sex": 12, "sbp": 100}},
        {"importance": [{"column": "age", "value": 0.3}, {"column": "sex", "value": 0.1}]},
        {"columns": {"age": {"type": "integer"}, "sex": {"type": "binary"}}},
        {"n": 40, "n_events": 10, "value": 3},
        "| age | sex |\n|---|---|\n",
    ],
    ids=lambda data: str(data)[:30],
)
def test_aggregates_with_the_columns_names_are_no_rows(data: Any) -> None:
    assert not [found for found in judged(data) if found[0] == STAY]


def test_counts_under_10_are_shown_to_a_person() -> None:
    assert judged({"flow": [{"step": "no date", "excluded": 3}, {"left": 0}]}) == [(ASK, "counts under 10 (1 places)")]
    assert judged("| smoker | 7 (2.9 %) | 31 (12 %) |") == [(ASK, "counts under 10 (1 places)")]
    assert judged("there were 4 events in 25 patients") == [(ASK, "counts under 10 (1 places)")]
    assert judged('{"n": 12, "n_events": 10, "value": 1.5, "n_places": 3}') == []


def test_a_list_as_long_as_a_part_is_shown_to_a_person() -> None:
    assert judged({"values": [0.1] * 60}, sizes=frozenset({60})) == [
        (ASK, "a list as long as a part of the cohort (60 rows)")
    ]
    assert judged([[61, 1]] * 60, sizes=frozenset({60}))[0][0] == ASK
    assert judged({"values": [0.1] * 99}, sizes=frozenset({60})) == []


def test_ids_with_letters_in_text_and_binary_files() -> None:
    known = {"ids": frozenset({hash("p00017")}), "id_lengths": frozenset({6})}
    for data in ("x P00017 y", "case_P00017_b", "[P00017]", b"\x00\x01\x07P00017J\x99"):
        assert any("ids of the run's table" in reason for _, reason in judged(data, **known)), data
    assert not judged("P000170 and XP00017Y", **known)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (zipped(zipped(zipped(zipped(zipped(b"x"))))), "too deep"),
        (zipped(b"abc" * 50)[:-40], "damaged"),
        (gzip.compress(b"abc" * 50)[:-12], "damaged or encrypted"),
        (b"PAR1" + b"\0" * 50, "damaged Parquet"),
        (b"7z\xbc\xaf\x27\x1c" + b"\0" * 50, "not opened here"),
        (pickle.dumps([1], protocol=4), "pickle"),
    ],
    ids=["deep", "zip", "gz", "parquet", "7z", "pickle"],
)
def test_what_cannot_be_looked_into_must_stay(data: bytes, said: str) -> None:
    assert any(verdict == STAY and said in reason for verdict, reason in judged(data))


def test_pictures_links_and_isotonic_steps(clean: RunFolder, finished: RunFolder) -> None:
    (clean.path / "roc.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 20)
    (clean.path / "link.csv").symlink_to(finished.predictions)
    tree = json.loads(clean.calibration.read_text())
    tree["models"]["tuned"] = {"method": "isotonic", "logits": [-1.5, 0.2], "risks": [0.1, 0.6]}
    clean.calibration.write_text(json.dumps(tree))
    found = verdicts(clean)
    assert found["roc.png"].verdict == ASK and found["link.csv"].verdict == STAY
    assert found["calibration.json"].reasons == ["steps of an isotonic calibrator are single patients' logits"]


def test_words_are_the_same_in_every_dress() -> None:
    def bare(text: str) -> list[str]:
        return words(undressed(text))

    plain = bare("age 61 years, sex woman, note: A&B")
    assert bare("<td>age</td><td>61.0</td> <i>years</i> sex woman note A&amp;B</td>") == plain
    assert bare('{"x": "- age: 61 years\\n- sex: woman\\n- note: A\\u0026B"}')[1:] == plain
    assert bare('"{\\"x\\": \\"- age: 61 years\\\\n- sex: woman\\\\n- note: A\\\\u0026B\\"}"')[1:] == plain


# --------------------------------------------------------------------------------------------------
# the command


def call(run: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["export-check", str(run), *options])


def test_the_command_says_what_must_stay_and_never_what_it_found(clean: RunFolder, patient: dict[str, str]) -> None:
    (clean.path / f"case_{patient['id']}.txt").write_text(f"{patient['text']} {patient['row']}")
    (clean.path / "notes.txt").write_text(f"{patient['id']}: {patient['text']}")
    for options in ((), ("--json",)):
        result = call(clean.path, *options)
        assert result.exit_code == 3
        said = "".join((result.stdout + result.stderr).split())
        assert "2of" in said and "filesmuststay" in said
        assert patient["id"] not in said and "".join(patient["text"].split()) not in said
        assert patient["row"] not in said
    paths = {entry["path"]: entry["verdict"] for entry in json.loads(result.stdout)["files"]}
    assert paths["***"] == paths["notes.txt"] == STAY


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    result = call(tmp_path)
    assert result.exit_code == 2 and "not a run folder" in result.stderr


def test_the_place_of_a_tensor_in_its_file_is_nobodys_id() -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [1234567, 1234571]}})
    (content,) = contents(struct.pack("<Q", len(header)) + header.encode() + b"\0" * 4)
    assert "shape" in content.text
    assert "1234567" not in content.text
