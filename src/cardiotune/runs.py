"""The run folder: the names of its files, its manifest, and what each file was made from."""

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from cardiotune.errors import ConfigError, ModelError, RunError
from cardiotune.files import delete_folder, make_folder, read_json, recover, sha256, write_json, write_text

OWN = "own_sha256"
"""In the manifest: the sha256 of all its other entries."""
MADE_OF = (
    ("config.yaml",),
    ("cohort.json", "split.parquet"),
    ("adapter/sha256.json", "model/sha256.json"),
    ("predictions.jsonl", "calibration.json", "classical/"),
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
    "classical/": "predict",
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
    def classical(self) -> Path:
        """Fitted classical models: a JSON each, for trees also LightGBM's text."""
        return self.path / "classical"

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
        delete_folder(path)
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
