"""The run folder: the names of its files, its manifest, hashes, and writes that are whole or not
there at all.

What is written may hold rows, ids or weights, so its owner alone can read it, whatever the umask:
files 0600, folders 0700. Who wants to share a report makes a copy of it.
"""

import ctypes
import glob
import hashlib
import hmac
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from cardiotune.errors import ConfigError, ModelError, RunError

BLOCK = 1 << 20
TABLE_ENDINGS = (".gz", ".csv", ".tsv", ".tab", ".txt", ".json", ".jsonl", ".ndjson", ".parquet")
LONGEST_NAME = 100
"""Bytes of a name that is made from another: temporary files beside it get a longer one."""
HASHES = "sha256.json"
"""In a folder that `write_folder` wrote: name -> sha256 of each of its files."""
OWN = "own_sha256"
"""In the manifest: the sha256 of all its other entries."""
MADE_OF = (
    ("config.yaml",),
    ("cohort.json", "split.parquet"),
    ("adapter/sha256.json", "model/sha256.json"),
    ("predictions.jsonl", "calibration.json"),
    ("metrics.json", "sites/", "probes.json", "explanations.json"),
)
"""Recorded files, or folders of them, each made of those before: where one has changed, those
behind it are out of date."""
MADE_BY = {
    "adapter/": "train",
    "model/": "train",
    "logs/": "train",
    "predictions.jsonl": "predict",
    "calibration.json": "predict",
    "metrics.json": "evaluate",
    "audit.json": "audit",
    "probes.json": "probe",
    "explanations.json": "explain",
}
"""Recorded file, or folder of them -> the command that makes it anew. What is not here needs a new
run."""


@dataclass(frozen=True)
class RunFolder:
    """`runs/<name>/`. A folder whose manifest does not say `finished` is not a finished run."""

    path: Path

    @property
    def config(self) -> Path:
        """Resolved settings; written once, never edited."""
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        """Hashes, versions, device, seconds and peak memory a stage, status."""
        return self.path / "manifest.json"

    @property
    def cohort(self) -> Path:
        """Counts at each exclusion, and of what is shared between parts."""
        return self.path / "cohort.json"

    @property
    def exact_counts(self) -> Path:
        """What `cohort.json` says, small counts included: for its owner's eyes, and never to leave
        the machine."""
        return self.path / "exact_counts.json"

    @property
    def split(self) -> Path:
        """Row id and part."""
        return self.path / "split.parquet"

    @property
    def adapter(self) -> Path:
        """The selected adapter, in PEFT's format."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """The selected model after full fine-tuning, as transformers saves it."""
        return self.path / "model"

    def tuned_folder(self, kind: str) -> Path:
        """Where a method of this kind leaves its weights; put back there, if `publish` was killed
        half way."""
        folder = self.adapter if kind == "lora" else self.model
        recover(folder)
        return folder

    @property
    def checkpoints(self) -> Path:
        """Adapters kept during training."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        """TensorBoard events and `training.json`."""
        return self.path / "logs"

    @property
    def training(self) -> Path:
        """Loss and validation metrics over the steps."""
        return self.logs / "training.json"

    @property
    def predictions(self) -> Path:
        """One object a row and model."""
        return self.path / "predictions.jsonl"

    @property
    def calibration(self) -> Path:
        """Calibrators and decision thresholds, and the part that they were fitted on."""
        return self.path / "calibration.json"

    @property
    def audit(self) -> Path:
        """Findings of the leak and quality audit."""
        return self.path / "audit.json"

    @property
    def table1(self) -> Path:
        """The cohort in a table, by outcome, small cells suppressed."""
        return self.path / "table1.json"

    @property
    def probes(self) -> Path:
        """How risks change when a text is written otherwise."""
        return self.path / "probes.json"

    @property
    def explanations(self) -> Path:
        """Which columns matter to the models."""
        return self.path / "explanations.json"

    @property
    def metrics(self) -> Path:
        """Metrics a part and model, with intervals."""
        return self.path / "metrics.json"

    @property
    def report(self) -> Path:
        """The report, one HTML file; its text twin is `report.md`."""
        return self.path / "report.html"

    def read_manifest(self) -> dict[str, Any]:
        """The manifest; ConfigError when this is not a run folder."""
        if not self.manifest.is_file():
            raise ConfigError(
                f"{self.path}: not a run folder (no manifest.json); make one with `cardiotune run CONFIG`"
            )
        manifest = read_json(self.manifest)
        own = manifest.pop(OWN, None)
        if own != _digest(manifest) and (own is not None or "files" in manifest):
            raise ModelError(f"{self.manifest}: has been changed by hand or damaged; restore it, or start a new run")
        return manifest

    def update_manifest(self, **entries: Any) -> None:
        """Merge `entries` into the manifest, one level deep. Of many processes that share the work
        the first has to do this."""
        manifest = self.read_manifest() if self.manifest.is_file() else {}
        for key, value in entries.items():
            both = isinstance(value, dict) and isinstance(manifest.get(key), dict)
            manifest[key] = {**manifest[key], **value} if both else value
        write_json(self.manifest, {**manifest, OWN: _digest(manifest)})

    def record(self, *files: Path) -> None:
        """Note the sha256 of files that later stages rely on. Those made of an earlier content of
        them are out of date."""
        new = {self._name(file): sha256(file) for file in files if file.is_file()}
        known = self.read_manifest().get("files", {})
        changed = [name for name, digest in new.items() if known.get(name, digest) != digest]
        first = min((tier for tier, made in enumerate(MADE_OF) if any(_is_one(n, made) for n in changed)), default=None)
        behind = () if first is None else sum(MADE_OF[first + 1 :], ())
        self.update_manifest(files={**{name: None for name in known if _is_one(name, behind)}, **new})

    def checked(self, file: Path) -> Path:
        """The file's path, if it is as recorded, or neither there nor recorded; else ModelError.

        A folder without a record of files has nothing to be checked against.
        """
        if not self.manifest.is_file() or (recorded := self.read_manifest().get("files")) is None:
            return file
        name = self._name(file)
        known, found = recorded.get(name), sha256(file) if file.is_file() else None
        if known == found:
            return file
        if found is None:
            what = "recorded by the run, but not there"
        elif known is None:
            what = "not recorded by the run, or made of what has changed since"
        else:
            what = "differs from what the run recorded"
        raise ModelError(f"{file}: {what}; restore it, or {self._anew(name)}")

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()

    def _anew(self, name: str) -> str:
        if name.startswith("sites/"):
            return f"make it anew with `cardiotune recalibrate {self.path} TABLE --overwrite`"
        command = next((made for own, made in MADE_BY.items() if _is_one(name, (own,))), None)
        return f"make it anew with `cardiotune {command} {self.path}`" if command else "start a new run"

    @contextmanager
    def stage(self, name: str, start: float | None = None) -> Iterator[None]:
        """Record seconds (from `start`, a `perf_counter`, or now) and the peak memory up to the
        stage's end.

        Of many processes, it is the peak of the largest.
        """
        start = time.perf_counter() if start is None else start
        yield
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        peak_mib = peak / (1024 if sys.platform != "darwin" else 1 << 20)
        seconds = round(time.perf_counter() - start, 2)
        self.update_manifest(stages={name: {"seconds": seconds, "peak_memory_mib": round(peak_mib)}})


def _is_one(name: str, of: tuple[str, ...]) -> bool:
    """Whether a name is one of these files, or in one of these folders."""
    return any(name == own or (own.endswith("/") and name.startswith(own)) for own in of)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


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


def check_free(target: Path, record: Path, made_from: dict[str, Any], overwrite: bool, otherwise: str) -> None:
    """ConfigError when something else has this name already: other than what `record` says it was
    made from.

    Names that differ in case alone are one on some systems. `otherwise`: how to choose another
    name.
    """
    try:
        there = {path.name.casefold(): path.name for path in target.parent.iterdir()}.get(target.name.casefold())
    except FileNotFoundError:
        return
    if overwrite or there is None or (target.is_dir() and not any(target.iterdir())):
        return
    known = read_json(record)
    if there != target.name or any(known.get(name) != value for name, value in made_from.items()):
        raise ConfigError(
            f"{target.with_name(there)}: is there already and was made from something else; {otherwise}, or replace it with "
            "--overwrite"
        )


def create(path: Path, config_text: str, overwrite: bool) -> RunFolder:
    """A fresh run folder. An existing one is only replaced when asked, and only if it is one of
    ours."""
    run = RunFolder(path)
    try:
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:  # such as a name too long
        raise ConfigError(f"{path}: cannot be a run folder ({error.strerror}); choose another") from None
    if taken:
        if not path.is_dir():
            raise ConfigError(f"{path}: is a file; choose another name for the run folder")
        fragment = _only_begun(run)
        if not run.manifest.is_file() and not fragment:
            raise ConfigError(f"{path}: holds files but no manifest.json, so it is not a run folder and is left alone")
        if not (overwrite or fragment):
            raise ConfigError(f"{path}: exists already; choose another with name=NAME, or replace it with --overwrite")
        _delete(path)
    try:
        make_folder(path)
        with suppress(PermissionError):  # it was there, and is somebody else's
            path.chmod(0o700)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", error)
        raise RunError(f"{path}: cannot make the run folder ({said}); set runs_dir=FOLDER") from None
    write_text(run.config, config_text)
    run.update_manifest(schema_version=1, status="running", **environment())
    run.record(run.config)
    return run


def _only_begun(run: RunFolder) -> bool:
    """Whether all that a folder holds is what `create` writes: a run that was killed there, or has
    failed right after it."""
    begun = (f".{run.config.name}.", f".{run.manifest.name}.")  # the temporary files of `atomic`
    ours = (run.config, run.manifest)
    if not all(file in ours or file.name.startswith(begun) for file in run.path.iterdir()):
        return False
    return not run.manifest.is_file() or run.read_manifest().get("status") == "failed"


def _delete(folder: Path) -> None:
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


def environment() -> dict[str, Any]:
    """What the numbers depend on besides data and settings."""
    packages = (
        "accelerate",
        "cardiotune",
        "lightgbm",
        "numpy",
        "peft",
        "polars",
        "scikit-learn",
        "torch",
        "transformers",
    )
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
        "git_commit": _git_commit(),
        "machine": {"system": platform.system(), "processor": platform.machine(), "cpus": os.cpu_count()},
    }


def _git_commit() -> str | None:
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None


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
            _delete(old)
        folder.replace(old)
        work.replace(folder)
        _delete(old)
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


# --------------------------------------------------------------------------------------------------
# ids


def row_key(path: Path) -> bytes:
    """Key for row ids: a digest of the whole table under our own prefix.

    It makes ids the same in every run on the same file, and cannot be computed without holding the
    file: a plain hash of a seven-digit id would be undone by trying them all. It is never written
    anywhere; the table's sha256 in the manifest is another digest and does not reveal it.
    """
    digest = hashlib.sha256(b"cardiotune row id\n")
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.digest()


def hashed_id(key: bytes, identity: str) -> str:
    """Sixteen hex digits of HMAC-SHA256."""
    return hmac.digest(key, identity.encode(), "sha256").hex()[:16]
