"""Files and folders are written whole, for their owner alone, and hashed."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cardiotune import files, runs
from cardiotune.errors import RunError
from cardiotune.runs import RunFolder

KILL = """
import json, os, signal, sys
from pathlib import Path
from cardiotune import files, runs

work, what = Path(sys.argv[1]), sys.argv[2]
if what == "renames":
    files.exchange = lambda one, other: False

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
    whole = files.hash_files(folder).keys() == {"a.bin", "weights/b.bin", "sha256.json"}
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
    files.exchange = count(files.exchange)

found, number, code = [], 0, -9
while code:
    number += 1
    place = work / f"{what}{number}"
    folder = place / "adapter"
    if what != "first":
        files.write_folder(folder, fill("old"))
    child = os.fork()
    if child == 0:
        kill_at(number)
        files.write_folder(folder, fill("new"))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seen = read(folder)
    files.recover(folder)
    then = read(folder)
    files.write_folder(folder, fill("next"))
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
        if not files.exchange(tmp_path / "one", tmp_path / "two"):
            pytest.skip("this file system cannot exchange two names")
    done = subprocess.run([sys.executable, "-c", KILL, tmp_path, what], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert len(found) > 15 and {code for code, *_ in found[:-1]} == {-9} and found[-1][0] == 0
    assert {entry[1] for entry in found} == seen
    assert {entry[2] for entry in found} == ({"none", "new"} if what == "first" else {"old", "new"})
    assert all(after == "next" and names == ["adapter"] for *_, after, names in found), "no left-over is in the way"


def test_a_left_over_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "exchange", lambda one, other: False)
    folder = tmp_path / "adapter"
    for name in (".adapter.old", ".adapter.saving-12345678", ".old.adapter"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("left over")
    for content in ("one", "two"):
        files.write_folder(folder, lambda work, content=content: (work / "file").write_text(content))
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
        files.write_folder(run.adapter, lambda work: (work / "weights.bin").write_text("w") and (work / "in").mkdir())
        with files.private(), files.private():
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
        with files.private():
            first.set()
            second.wait(10)

    try:
        thread = threading.Thread(target=outer)
        thread.start()
        first.wait(10)
        with files.private():
            second.set()
            thread.join()
            (tmp_path / "file").write_text("")
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.json"
    files.write_json(file, {"ü": 1})
    assert json.loads(file.read_text("utf-8")) == {"ü": 1}
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(file, {"x": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        files.write_text(file, "half \ud800")
    assert json.loads(file.read_text("utf-8")) == {"ü": 1}
    assert [path.name for path in file.parent.iterdir()] == ["a.json"]
    with pytest.raises(RunError, match="cannot be written"):
        files.write_text(file / "below a file", "x")


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b" / "c.txt").write_bytes(b"")
    assert files.hash_files(tmp_path) == {
        "a.txt": hashlib.sha256(b"x" * 3_000_000).hexdigest(),
        "b/c.txt": hashlib.sha256(b"").hexdigest(),
    }
