"""The run folder: made once, written whole, and its ids and hashes."""

import hashlib
import hmac
import json
from pathlib import Path

import pytest

from cardiotune import runs
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


def test_a_failed_run_that_holds_nothing_is_replaced(tmp_path: Path) -> None:
    run = runs.create(tmp_path / "a", "name: a\n", overwrite=False)
    run.update_manifest(status="failed")
    runs.create(tmp_path / "a", "name: b\n", overwrite=False)
    run.update_manifest(status="failed")
    run.checkpoints.mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        runs.create(tmp_path / "a", "name: c\n", overwrite=False)


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


@pytest.mark.parametrize("content", ['{"status": "fin', "[]", "\xff", ""])
def test_damaged_manifest(tmp_path: Path, content: str) -> None:
    run = RunFolder(tmp_path)
    run.manifest.write_bytes(content.encode("latin-1"))
    with pytest.raises(ModelError, match=r"manifest.json: damaged"):
        run.read_manifest()
    with pytest.raises(ModelError):
        run.update_manifest(status="finished")
    assert run.manifest.read_bytes() == content.encode("latin-1")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.json"
    runs.write_json(file, {"ü": 1})
    assert json.loads(file.read_text("utf-8")) == {"ü": 1}
    with pytest.raises(ValueError, match="JSON compliant"):
        runs.write_json(file, {"x": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        runs.write_text(file, "half \ud800")
    assert json.loads(file.read_text("utf-8")) == {"ü": 1}
    assert [path.name for path in file.parent.iterdir()] == ["a.json"]
    with pytest.raises(RunError, match="cannot be written"):
        runs.write_text(file / "below a file", "x")


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b" / "c.txt").write_bytes(b"")
    assert runs.hash_files(tmp_path) == {
        "a.txt": hashlib.sha256(b"x" * 3_000_000).hexdigest(),
        "b/c.txt": hashlib.sha256(b"").hexdigest(),
    }


def test_row_ids_need_the_table(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(b"id\n1\n" * 400_000)
    key = runs.row_key(table)
    assert key == hashlib.sha256(b"cardiotune row id\n" + table.read_bytes()).digest()
    assert key.hex() != runs.sha256(table), "what the manifest shows is not the key"
    assert runs.hashed_id(key, "1") == hmac.new(key, b"1", "sha256").hexdigest()[:16]
