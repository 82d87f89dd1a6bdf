"""Files and folders that are written whole or not at all, their names and their hashes.

What is written may hold rows, ids or weights, so its owner alone can read it, whatever the umask:
files 0600, folders 0700. Who wants to share a report makes a copy of it.
"""

import ctypes
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cardiotune.errors import ModelError, RunError

TABLE_ENDINGS = (".gz", ".csv", ".tsv", ".tab", ".txt", ".json", ".jsonl", ".ndjson", ".parquet")
LONGEST_NAME = 100
"""Bytes of a name that is made from another: temporary files beside it get a longer one."""
HASHES = "sha256.json"
"""In a folder that `write_folder` wrote: name -> sha256 of each of its files."""


# --------------------------------------------------------------------------------------------------
# files, for their owner alone


class _Umask:
    """The process's umask, narrowed while somebody is inside: threads come and go in any order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = self._before = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = os.umask(0o077)
                os.umask(self._before | 0o077)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                os.umask(self._before)


_UMASK = _Umask()


@contextmanager
def private() -> Iterator[None]:
    """Meanwhile libraries too write for the owner alone. Also a decorator."""
    with _UMASK:
        yield


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are not there, for their owner alone."""
    for place in reversed([folder, *folder.parents]):
        if not place.exists():
            place.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; on success it is flushed to disk and renamed, on failure
    removed."""
    try:
        make_folder(path.parent)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror})") from None
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o600)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file or nothing."""
    with atomic(path) as temporary:
        temporary.write_text(text, "utf-8")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of a run folder; empty when there is no such file. ModelError when it is
    damaged."""
    try:
        content = json.loads(file.read_text("utf-8"), parse_constant=_no_number) if file.is_file() else {}
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ModelError(f"{file}: damaged, so the run cannot be trusted; restore it, or start a new run")
    return content


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def write_json(path: Path, value: Any) -> None:
    """Write JSON, refusing NaN, which is not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def sha256(path: Path) -> str:
    """Hex digest of a file, or of the names and digests of a folder's files."""
    if path.is_dir():
        return hashlib.sha256(json.dumps(hash_files(path), sort_keys=True).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(folder: Path) -> dict[str, str]:
    """Relative name -> sha256 for every file in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path) for path in files}


# --------------------------------------------------------------------------------------------------
# folders


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a temporary folder, then publish it under its name. RunError when the
    disk refuses.

    At every instant what had the name before or the new folder is there, whole.
    """
    folder = Path(os.path.abspath(folder))  # `.` has no name
    saving = f".{folder.name}.saving-"
    try:
        make_folder(folder.parent)
        work = Path(tempfile.mkdtemp(prefix=saving, dir=folder.parent))
        try:
            fill(work)
            write_json(work / HASHES, hash_files(work))
            publish(work, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise RunError(
            f"{folder}: could not be saved ({error.strerror or error}); what was there before is whole"
        ) from None
    for left in folder.parent.glob(f"{glob.escape(saving)}*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)


def publish(work: Path, folder: Path) -> None:
    """Give a folder that is complete its name, in place of the one that has it, and delete that.

    Where the file system cannot exchange two names, the old folder is `.NAME.old` for an instant,
    and none has the name. A process that is killed then leaves it so: `recover` puts it back.
    """
    for path in [*work.rglob("*"), work]:
        path.chmod(0o700 if path.is_dir() else 0o600)
        _flush(path)
    recover(folder)
    if not folder.exists():
        work.replace(folder)
    elif not exchange(work, folder):
        old = _old(folder)
        if old.exists():  # beside a folder that has the name, it is left over
            delete_folder(old)
        folder.replace(old)
        work.replace(folder)
        delete_folder(old)
    _flush(folder.parent)


def recover(folder: Path) -> None:
    """Put a folder back that `publish` was about to replace when it was killed."""
    if not folder.exists() and _old(folder).is_dir():
        with suppress(OSError):  # on a disk that cannot be written it stays absent, which whoever looks for it will say
            _old(folder).replace(folder)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def exchange(one: Path, other: Path) -> bool:
    """Swap the names of two folders in one step; False, and nothing done, where the system or the
    file system cannot."""
    library = ctypes.CDLL(None)
    names = (os.fsencode(one), os.fsencode(other))
    swap = 2  # RENAME_EXCHANGE in linux/fs.h, RENAME_SWAP in macOS's stdio.h
    if hasattr(library, "renamex_np"):
        return bool(library.renamex_np(*names, swap) == 0)
    here = -100  # AT_FDCWD
    return hasattr(library, "renameat2") and bool(library.renameat2(here, names[0], here, names[1], swap) == 0)


def _flush(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def delete_folder(folder: Path) -> None:
    """Delete a whole folder: its name is free in one step, so a kill leaves no half of it under
    that name."""
    name = folder.name.removeprefix(".")
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{name}.deleted-", dir=folder.parent))
        folder.replace(aside)
        for left in folder.parent.glob(f".{glob.escape(name)}.deleted-*"):  # of a process that was killed, too
            shutil.rmtree(left)
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be deleted ({error.strerror or error}); delete it, or choose another"
        ) from None


# --------------------------------------------------------------------------------------------------
# names


def named_after(table: str) -> str:
    """A name that tells a table: its file's, without folder and ending. `north.2023.csv.gz` ->
    `north.2023`."""
    name = Path(table).name
    while any(name.lower().endswith(ending) and len(name) > len(ending) for ending in TABLE_ENDINGS):
        name = name.rpartition(".")[0]
    return plain_name(name)


def plain_name(text: str) -> str:
    """A text as a file's name on any system: letters and digits of any script, `.`, `-`, `_`; a
    long one ends in its digest."""
    composed = unicodedata.normalize("NFC", text)
    name = re.sub(r"[^\w.-]+", "_", composed).strip("._-") or "table"
    if len(name.encode()) > LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name.encode()[: LONGEST_NAME - 1 - len(digest)].decode(errors='ignore')}-{digest}"
    return name
