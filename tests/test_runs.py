"""The run folder: made once, its manifest, and what each of its files was made from."""

import json
import shutil
from pathlib import Path

import pytest

from cardiotune import files, runs
from cardiotune.errors import ConfigError, ModelError, RunError
from cardiotune.runs import RunFolder


def test_create(tmp_path: Path) -> None:
    run = runs.create(tmp_path / "runs" / "a", "name: a\n", overwrite=False)
    assert run.config.read_text() == "name: a\n"
    manifest = run.read_manifest()
    assert manifest["schema_version"] == 1 and manifest["status"] == "running"
    assert manifest["versions"].keys() >= {"python", "torch", "polars", "cardiotune"}
    assert {path.name for path in run.path.iterdir()} == {"config.yaml", "manifest.json"}


def test_an_existing_run_is_kept_unless_asked(tmp_path: Path) -> None:
    run = runs.create(tmp_path / "a", "name: a\n", overwrite=False)
    with pytest.raises(
        ConfigError, match=r"exists already; choose another with name=NAME, or replace it with --overwrite"
    ):
        runs.create(tmp_path / "a", "name: b\n", overwrite=False)
    assert run.config.read_text() == "name: a\n"
    run.predictions.write_text("old")
    runs.create(tmp_path / "a", "name: b\n", overwrite=True)
    assert run.config.read_text() == "name: b\n" and not run.predictions.exists()


@pytest.mark.parametrize(
    "kept",
    ["split.parquet", "cohort.json", "audit.json", "predictions.jsonl", "tokens", "logs", "checkpoints", "notes.txt"],
)
def test_a_failed_run_is_replaced_only_if_it_holds_nothing(tmp_path: Path, kept: str) -> None:
    run = runs.create(tmp_path / "a", "name: a\n", overwrite=False)
    run.update_manifest(status="failed")
    runs.create(tmp_path / "a", "name: b\n", overwrite=False)
    (run.path / kept).mkdir() if "." not in kept else (run.path / kept).write_text("hours of work")
    for status in ("failed", "running", "interrupted", "finished"):
        run.update_manifest(status=status)
        with pytest.raises(ConfigError, match="exists already"):
            runs.create(tmp_path / "a", "name: c\n", overwrite=False)
    assert run.config.read_text() == "name: b\n" and (run.path / kept).exists()


@pytest.mark.parametrize("status", ["running", "finished"])
def test_what_may_be_at_work_is_not_replaced(tmp_path: Path, status: str) -> None:
    runs.create(tmp_path / "a", "name: a\n", overwrite=False).update_manifest(status=status)
    with pytest.raises(ConfigError, match="exists already"):
        runs.create(tmp_path / "a", "name: b\n", overwrite=False)


@pytest.mark.parametrize("overwrite", [True, False])
def test_what_is_not_ours_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.doc").write_text("years of work")
    with pytest.raises(ConfigError, match="is left alone"):
        runs.create(tmp_path / "a", "name: a\n", overwrite)
    assert (tmp_path / "a" / "thesis.doc").read_text() == "years of work"


def test_no_place_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="set runs_dir"):
        runs.create(tmp_path / "file" / "a", "name: a\n", overwrite=False)


def test_manifest(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(ConfigError, match="not a run folder"):
        run.read_manifest()
    run.update_manifest(status="running", files={"a": "1"})
    run.update_manifest(status="finished", files={"b": "2"})
    assert run.read_manifest() == {"status": "finished", "files": {"a": "1", "b": "2"}}
    with run.stage("prepare"):
        pass
    stage = run.read_manifest()["stages"]["prepare"]
    assert stage["seconds"] >= 0 and stage["peak_memory_mib"] > 10
    with pytest.raises(ZeroDivisionError), run.stage("train"):
        1 / 0  # noqa: B018
    assert "train" not in run.read_manifest()["stages"]


@pytest.mark.parametrize("content", ['{"status": "fin', "[]", "\xff", "", '{"a": NaN}', "[" * 100_000])
def test_damaged_manifest(tmp_path: Path, content: str) -> None:
    run = RunFolder(tmp_path)
    run.manifest.write_bytes(content.encode("latin-1"))
    with pytest.raises(ModelError, match=r"manifest.json: damaged"):
        run.read_manifest()
    with pytest.raises(ModelError):
        run.update_manifest(status="finished")
    assert run.manifest.read_bytes() == content.encode("latin-1")


def recorded(folder: Path) -> RunFolder:
    """A run whose stages have each left a file, as far as these tests need them."""
    run = runs.create(folder, "name: a\n", overwrite=False)
    for file in (run.cohort, run.adapter / "sha256.json", run.predictions, run.calibration):
        files.write_text(file, "{}\n")
        run.record(file)
    for file in (run.metrics, run.explanations, run.audit):
        files.write_text(file, "{}\n")
        run.record(file)
    files.write_text(run.path / "sites" / "north.json", "{}\n")
    run.record(run.path / "sites" / "north.json")
    return run


RECORDED = {
    "config.yaml": "start a new run",
    "cohort.json": "start a new run",
    "adapter/sha256.json": "`cardiotune train",
    "predictions.jsonl": "`cardiotune predict",
    "calibration.json": "`cardiotune predict",
    "metrics.json": "`cardiotune evaluate",
    "explanations.json": "`cardiotune explain",
    "audit.json": "`cardiotune audit",
    "sites/north.json": "`cardiotune recalibrate",
}
LAST = {"metrics.json", "sites/north.json", "explanations.json"}


@pytest.mark.parametrize(("name", "remedy"), RECORDED.items(), ids=str)
def test_a_recorded_file_is_checked(tmp_path: Path, name: str, remedy: str) -> None:
    run = recorded(tmp_path / "a")
    assert run.read_manifest()["files"].keys() == RECORDED.keys()
    file = run.path / name
    assert run.checked(file) == file
    file.write_text(file.read_text() + " ")
    with pytest.raises(ModelError, match=f"{name}: differs from what the run recorded; restore it, or .*{remedy}"):
        run.checked(file)
    file.unlink()
    with pytest.raises(ModelError, match=f"{name}: recorded by the run, but not there; .*{remedy}"):
        run.checked(file)


def test_a_file_that_nobody_recorded_is_refused_and_one_that_is_not_there_is_not(tmp_path: Path) -> None:
    run = recorded(tmp_path / "a")
    assert run.checked(run.probes) == run.probes
    run.probes.write_text("{}")
    with pytest.raises(ModelError, match=r"probes.json: not recorded by the run, .*`cardiotune probe"):
        run.checked(run.probes)
    shutil.copytree(run.path, tmp_path / "moved")
    assert RunFolder(tmp_path / "moved").checked(tmp_path / "moved" / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("changed", "stale"),
    [
        ("adapter/sha256.json", {"predictions.jsonl", "calibration.json", *LAST}),
        ("calibration.json", LAST),
        ("metrics.json", set()),
        ("explanations.json", set()),
        ("audit.json", set()),
        ("sites/north.json", set()),
    ],
)
def test_what_was_made_of_something_that_has_changed_is_out_of_date(
    tmp_path: Path, changed: str, stale: set[str]
) -> None:
    run = recorded(tmp_path / "a")
    run.record(run.path / changed)  # the same content
    assert all(run.checked(run.path / name) for name in RECORDED)
    files.write_text(run.path / changed, "[]\n")
    run.record(run.path / changed)
    for name in RECORDED:
        if name in stale:
            with pytest.raises(ModelError, match="made of what has changed since"):
                run.checked(run.path / name)
        else:
            run.checked(run.path / name)


def test_an_edited_manifest_is_refused(tmp_path: Path) -> None:
    run = recorded(tmp_path / "a")
    run.update_manifest(training={"odds_multiplier": 1.0})
    run.manifest.write_text(run.manifest.read_text().replace('"odds_multiplier": 1.0', '"odds_multiplier": 9.0'))
    for use in (run.read_manifest, lambda: run.checked(run.config), lambda: run.update_manifest(status="finished")):
        with pytest.raises(ModelError, match=r"manifest.json: has been changed by hand or damaged"):
            use()


def test_a_manifest_without_its_own_hash_is_refused(tmp_path: Path) -> None:
    run = recorded(tmp_path / "a")
    manifest = json.loads(run.manifest.read_text())
    del manifest[runs.OWN]
    run.manifest.write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=r"manifest.json: has been changed by hand or damaged"):
        run.read_manifest()
