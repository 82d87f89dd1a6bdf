"""Risks of a table of any size: flat memory, resumed when interrupted, the same file from one
process or many.

The table is cut into chunks that never change. Each chunk's risks are written to a file of its own
in `<out>.parts/`, and then the file's hash beside it; what is there and as its hash says is not
computed again. When all are there they are put together and the folder goes.
"""

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from cardiotune import __version__
from cardiotune.data.chunks import CHUNK_ROWS, TableChunks
from cardiotune.data.cohort import ROW_ID
from cardiotune.data.table import locate
from cardiotune.deployment.scorer import TUNED, ZERO_SHOT, RowScorer, reading_of, settings_of
from cardiotune.errors import ConfigError, InterruptedRunError
from cardiotune.files import HASHES, atomic, read_json, sha256, write_json, write_text
from cardiotune.models.saved import model_files
from cardiotune.processes import current
from cardiotune.progress import progress
from cardiotune.runs import RunFolder
from cardiotune.settings import Config, LaunchConfig
from cardiotune.training.distributed import check_meeting_place, launch, meet
from cardiotune.training.machine import set_up

log = logging.getLogger(__name__)

ROW_GROUP = 131_072
"""Rows of a group of the Parquet file."""


@dataclass(frozen=True)
class Job:
    """A table to be scored by a run or an export."""

    folder: Path
    table: str
    keep_ids: bool = False
    model: str = TUNED
    """As `RowScorer.load`."""
    site: str | None = None
    chunk_rows: int = CHUNK_ROWS
    allow_unknown: bool = False
    """Score a table of which a column holds mostly unknown codes or values out of range."""
    dataset: str | None = None
    """The dictionary by which the table is read, as `RowScorer.load`; else the run's own."""

    @property
    def config(self) -> Config:
        """The settings of the model."""
        return settings_of(self.folder)

    def chunks(self, known: dict[str, Any] | None = None) -> TableChunks:
        """The table's rows."""
        read = reading_of(self.folder, self.dataset)
        data = read.of_table(self.table)
        chunks = TableChunks(self.table, data, self.keep_ids, known, self.chunk_rows, self.allow_unknown)
        if read.other and known is None:
            read.tell(chunks.file, chunks.data)
        return chunks

    def scorer(self) -> RowScorer:
        """The model, in a process that is set up for it."""
        set_up(self.config.train.threads)
        return RowScorer.load(self.folder, self.site, self.dataset, self.model)

    @property
    def fingerprint(self) -> str:
        """What the risks depend on: a part made with another one is of no use."""
        run, file = RunFolder(self.folder), locate(self.table, folder=True)
        weights = [run.tuned_folder(self.config.method.kind) / HASHES, self.folder / HASHES]
        files = [run.config, run.cohort, run.calibration, *weights, self.folder / "sites" / f"{self.site}.json", file]
        files += [] if self.model in (TUNED, ZERO_SHOT) else model_files(run, self.model)
        facts = [__version__, self.chunk_rows, self.keep_ids, self.model, self.site]
        if self.dataset:
            facts.append(reading_of(self.folder, self.dataset).data.model_dump_json())
        return hashlib.sha256(json.dumps([facts, *(sha256(f) for f in files if f.exists())]).encode()).hexdigest()


def score_chunks(job: Job) -> Iterator[pl.DataFrame]:
    """The predictions of the table, chunk by chunk, in its order; one process, nothing kept."""
    chunks = job.chunks()
    scorer = job.scorer()
    for number in range(len(chunks)):
        yield predictions(scorer, chunks, number)


def predictions(scorer: RowScorer, chunks: TableChunks, number: int) -> pl.DataFrame:
    """Of one chunk: row (1-based, of the table), row_id, y_prob, y_prob_raw, prediction, threshold,
    values_missing; by a dictionary that was given also columns_known, columns_unseen,
    columns_absent and abstain, with which there is no prediction."""
    frame, first = chunks.frame(number), chunks.chunks[number].first
    found = scorer.score(frame)
    inputs = [name for name in scorer.config.data.inputs if name in frame.columns]
    scored = pl.DataFrame(
        {
            "row": range(first + 1, first + frame.height + 1),
            "row_id": frame[ROW_ID],
            "y_prob": found.final,
            "y_prob_raw": found.raw,
            "prediction": (found.final >= scorer.threshold).astype(int),
            "threshold": scorer.threshold,
            "values_missing": frame.select(pl.sum_horizontal(pl.col(inputs).is_null())).to_series(),
        }
    )
    if not scorer.reading.other:
        return scored
    abstain = pl.Series("abstain", scorer.abstains(frame))
    decided = pl.when(~abstain).then(pl.col("prediction")).alias("prediction")
    return scored.with_columns(decided).with_columns(*scorer.reading.counts(frame), abstain)


def abstained(out: Path) -> int:
    """How many rows of a file of predictions say too little to be judged."""
    rows = pl.scan_parquet(out, glob=False) if out.suffix == ".parquet" else pl.scan_csv(out, glob=False)
    return int(rows.select(pl.col("abstain").sum()).collect().item())


def score_to_file(job: Job, out: Path, workers: int = 1) -> int:
    """Write the predictions of the whole table to `out`, CSV or Parquet by its ending; the number
    of rows.

    Stopped, even by SIGKILL, the same call goes on where it was. `workers`: processes of this
    machine; processes that a launcher such as torchrun or `accelerate launch` has started, on one
    machine or many, share the work by themselves. ConfigError when `<out>.parts` is of another
    table or model.
    """
    if out.exists() and out.samefile(locate(job.table, folder=True)):
        raise ConfigError(f"--out {out}: is the table itself; choose another file")
    process = current()
    if process.is_worker:
        check_meeting_place(process)
    parts = out.with_name(out.name + ".parts")
    chunks = _planned(job, parts)
    if workers > 1 and not process.is_worker:
        _launch(job, out, workers)
    else:
        _score_own(job, parts, chunks, out.suffix)
    if process.is_launched:
        return chunks.rows  # who launched this process puts the parts together
    if process.is_worker and not meet():
        return chunks.rows  # the first process does
    _join(parts, len(chunks), out)
    shutil.rmtree(parts)
    return chunks.rows


def _planned(job: Job, parts: Path) -> TableChunks:
    """The table's chunks: as an earlier or another process has found them, or now."""
    plan, fingerprint = parts / "plan.json", job.fingerprint
    if (
        parts.exists()
        and not plan.is_file()
        and any(not path.name.startswith(".plan.json.") for path in parts.iterdir())
    ):
        raise ConfigError(f"{parts}: holds other files than parts of a table; move them, or choose another --out")
    if plan.is_file():
        known = read_json(plan)
        if known["fingerprint"] != fingerprint:
            raise ConfigError(
                f"{parts}: was begun with another table, model or option; remove the folder, or choose another --out"
            )
        return job.chunks(known["table"])
    chunks = job.chunks()
    write_json(plan, {"fingerprint": fingerprint, "table": chunks.as_json()})
    return chunks


def _score_own(job: Job, parts: Path, chunks: TableChunks, suffix: str) -> None:
    """Of this process's chunks, those that are not there yet."""
    process = current()  # those of a launcher do not talk while they work
    own = range(process.rank, len(chunks), process.size)
    left = [number for number in own if not _is_whole(_part(parts, number, suffix))]
    if len(left) < len(own):
        log.info("going on: %d of %d parts are done", len(own) - len(left), len(own))
    if not left:
        return
    scorer = job.scorer()
    with progress("scoring the table", sum(chunks.chunks[number].rows for number in left)) as bar:
        for number in left:
            frame = predictions(scorer, chunks, number)
            part = _part(parts, number, suffix)
            with atomic(part) as temporary:
                if suffix == ".parquet":
                    frame.write_parquet(temporary)
                else:
                    frame.write_csv(temporary, include_header=number == 0)
            write_text(_hash_of(part), sha256(part))
            bar.advance(frame.height)


def _part(parts: Path, number: int, suffix: str) -> Path:
    return parts / f"{number:07d}{suffix}"


def _hash_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.sha256")


def _is_whole(part: Path) -> bool:
    """Whether a part is there, and as it was when it was written; else it is scored again."""
    return part.is_file() and _hash_of(part).is_file() and _hash_of(part).read_bytes() == sha256(part).encode()


def _launch(job: Job, out: Path, workers: int) -> None:
    options = [("--keep-ids", job.keep_ids), ("--allow-unknown", job.allow_unknown)]
    named = [name for name, chosen in options if chosen] + (["--site", job.site] if job.site else [])
    named += ["--dataset", job.dataset] if job.dataset else []
    named += ["--model", job.model, "--chunk-rows", str(job.chunk_rows)]
    config = job.config.model_copy(update={"launch": LaunchConfig(processes=workers)})
    try:
        launch(config, ["predict", str(job.folder), job.table, "--out", str(out), *named])
    except InterruptedRunError as error:
        raise InterruptedRunError("stopped; the same command goes on where it was", error.exit_code - 128) from None


def _join(parts: Path, count: int, out: Path) -> None:
    files = [_part(parts, number, out.suffix) for number in range(count)]
    with atomic(out) as temporary:
        if out.suffix == ".parquet":
            pl.scan_parquet(files, glob=False).sink_parquet(temporary, row_group_size=ROW_GROUP)
            return
        with temporary.open("wb") as whole:
            for file in files:
                with file.open("rb") as part:
                    shutil.copyfileobj(part, whole)


def write_to_stdout(job: Job) -> None:
    """The predictions as CSV on standard output, as they come."""
    for number, frame in enumerate(score_chunks(job)):
        sys.stdout.write(frame.write_csv(include_header=number == 0))
