"""The run folder: made once, written whole, and its ids and hashes."""

import hashlib
import hmac
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
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


KILL = """
import json, os, signal, sys
from pathlib import Path
from cardiotune import runs

work, what = Path(sys.argv[1]), sys.argv[2]
if what == "renames":
    runs.exchange = lambda one, other: False

def fill(name):
    def write(folder):
        (folder / "weights").mkdir()
        for file in ("a.bin", "weights/b.bin"):
            (folder / file).write_text(name)
    return write

def read(folder):
    if not folder.exists():
        return "none"
    words = {file.read_text() for file in folder.rglob("*.bin")}
    whole = runs.hash_files(folder).keys() == {"a.bin", "weights/b.bin", "sha256.json"}
    return words.pop() if whole and len(words) == 1 else "broken"

def kill_at(number):
    left = [number]
    def count(call):
        def counted(*given, **more):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given, **more)
        return counted
    for name in ("replace", "rename", "mkdir", "rmdir", "unlink", "chmod", "fsync", "open", "close"):
        setattr(os, name, count(getattr(os, name)))
    runs.exchange = count(runs.exchange)

found, number, code = [], 0, -9
while code:
    number += 1
    place = work / f"{what}{number}"
    folder = place / "adapter"
    if what != "first":
        runs.write_folder(folder, fill("old"))
    child = os.fork()
    if child == 0:
        kill_at(number)
        runs.write_folder(folder, fill("new"))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen = read(folder)
    runs.recover(folder)
    then = read(folder)
    runs.write_folder(folder, fill("next"))
    found.append([code, seen, then, read(folder), sorted(path.name for path in place.iterdir())])
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("what", "seen"),
    [("exchange", {"old", "new"}), ("renames", {"old", "none", "new"}), ("first", {"none", "new"})],
)
def test_killed_at_any_step_the_old_or_the_new_folder_is_there(tmp_path: Path, what: str, seen: set[str]) -> None:
    """Two renames (where names cannot be exchanged) leave a moment without the name, which
    `recover` mends."""
    if what == "exchange":
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        if not runs.exchange(tmp_path / "one", tmp_path / "two"):
            pytest.skip("this file system cannot exchange two names")
    done = subprocess.run([sys.executable, "-c", KILL, tmp_path, what], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert len(found) > 15 and {code for code, *_ in found[:-1]} == {-9} and found[-1][0] == 0
    assert {entry[1] for entry in found} == seen
    assert {entry[2] for entry in found} == ({"none", "new"} if what == "first" else {"old", "new"})
    assert all(after == "next" and names == ["adapter"] for *_, after, names in found), "no left-over is in the way"


def test_a_left_over_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "exchange", lambda one, other: False)
    folder = tmp_path / "adapter"
    for name in (".adapter.old", ".adapter.saving-12345678", ".old.adapter"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("left over")
    for content in ("one", "two"):
        runs.write_folder(folder, lambda work, content=content: (work / "file").write_text(content))
        assert (folder / "file").read_text() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == [".old.adapter", "adapter"], "what is not ours stays"


def test_what_was_about_to_be_replaced_is_found_by_its_readers(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    (tmp_path / ".adapter.old").mkdir()
    (tmp_path / ".adapter.old" / "file").write_text("old")
    assert (run.tuned_folder("lora") / "file").read_text() == "old"
    assert not (tmp_path / ".adapter.old").exists()


# --------------------------------------------------------------------------------------------------
# for the owner alone


@pytest.mark.parametrize("umask", [0, 0o022, 0o027, 0o077])
def test_files_are_their_owners_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        run = runs.create(tmp_path / "runs" / "a", "name: a\n", overwrite=False)
        runs.write_folder(run.adapter, lambda work: (work / "weights.bin").write_text("w") and (work / "in").mkdir())
        with runs.private(), runs.private():
            (run.path / "by_a_library.txt").write_text("x")
        assert os.umask(umask) == umask, "it is put back"
    finally:
        os.umask(before)
    modes = {str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert len(modes) == 9
    assert all(mode == (0o700 if (tmp_path / name).is_dir() else 0o600) for name, mode in modes.items()), modes


def test_the_umask_is_put_back_when_the_last_thread_leaves(tmp_path: Path) -> None:
    before = os.umask(0o022)
    first, second = threading.Event(), threading.Event()

    def outer() -> None:
        with runs.private():
            first.set()
            second.wait(10)

    try:
        thread = threading.Thread(target=outer)
        thread.start()
        first.wait(10)
        with runs.private():
            second.set()
            thread.join()
            (tmp_path / "file").write_text("")
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


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


def recorded(folder: Path) -> RunFolder:
    """A run whose stages have each left a file, as far as these tests need them."""
    run = runs.create(folder, "name: a\n", overwrite=False)
    for file in (run.cohort, run.adapter / "sha256.json", run.predictions, run.calibration):
        runs.write_text(file, "{}\n")
        run.record(file)
    for file in (run.metrics, run.explanations, run.audit):
        runs.write_text(file, "{}\n")
        run.record(file)
    runs.write_text(run.path / "sites" / "north.json", "{}\n")
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
    runs.write_text(run.path / changed, "[]\n")
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
