"""What the weights that a run starts from were learned from, and that its test patients are not
among them."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from cardiotune.config import load_resolved
from cardiotune.data.across import in_both, shared_columns
from cardiotune.data.cohort import ROW_ID, Cohort
from cardiotune.data.prepare import Prepared, Source
from cardiotune.data.small_counts import told
from cardiotune.errors import CardioTuneError, DataError
from cardiotune.reopen import describe_files, reopen
from cardiotune.runs import RunFolder
from cardiotune.settings import Config
from cardiotune.settings.tables import in_common
from cardiotune.training.warm_start import Start, find_start

log = logging.getLogger(__name__)

LEARNED = ("train", "validation")
"""Parts of a run that its weights depend on."""


def lineage(start: Start, config: Config, prepared: Prepared) -> dict[str, Any]:
    """For the manifest: `name` and `sha256` of the weights, the `tables` that they were learned
    from, and what is known of the test `patients`; `start_from` of a start that had one itself.

    DataError where a test patient is one that the weights were learned from.
    """
    known = start.run.read_manifest() if start.run else {}
    entry = {
        "name": start.name,
        "sha256": start.hashes,
        "tables": known.get("data"),
        "patients": "; ".join(_compared(start, config, prepared)),
    }
    before = known.get("training", {}).get("start_from")
    return {**entry, **({"start_from": before} if before else {})}


def _compared(start: Start, config: Config, prepared: Prepared) -> Iterator[str]:
    """What was found of each run that the weights come from, in words."""
    while True:
        if start.run is None:
            yield _unknown(start.name, "whom it was learned from is not recorded beside it")
            return
        source = load_resolved(start.run.checked(start.run.config))
        yield _compare(start.run, source, config, prepared)
        earlier = source.train.start_from
        if not earlier:
            return
        recorded = start.run.read_manifest().get("training", {}).get("start_from", {}).get("sha256")
        try:
            before = find_start(earlier)
        except CardioTuneError:
            yield _unknown(start.name, "the weights that it started from are no longer there")
            return
        if before.hashes != recorded:  # so that two runs that were made anew from one another end, too
            yield _unknown(start.name, "the weights that it started from have changed since")
            return
        start = before


def _unknown(name: str, why: str) -> str:
    text = f"not checked whether {name} was learned from test patients: {why}"
    log.warning("train.start_from: %s", text)
    return text


def _compare(run: RunFolder, source: Config, config: Config, prepared: Prepared) -> str:
    """In words, what a run, whose settings are `source`, knows of the test part."""
    name = run.path.resolve().name
    try:
        parts = pl.read_parquet(run.checked(run.split))
    except (CardioTuneError, OSError, pl.exceptions.PolarsError):
        return _unknown(name, "its split.parquet is damaged or not there")
    test = prepared.rows("test")
    by_id = not (source.evaluation.keep_row_ids or config.evaluation.keep_row_ids)
    if by_id:
        learned = set(parts.filter(pl.col("part").is_in(LEARNED))["row_id"])
        both = learned & set(prepared.cohort.frame[test.tolist()][ROW_ID])
        if both:
            raise _refused(name, f"{told(len(both))} rows of the test part are among those that it was learned from")
    ours, theirs = _identified(config, describe_files(config)), _identified(source, run.read_manifest()["data"])
    tested = [one for one in prepared.sources if np.isin(one.rows, test).any()]
    others = [key for key in theirs if not by_id or any(theirs[key] != ours[one.name] for one in tested)]
    if not others:
        return f"none of the test patients is among those of {name}, by row ids"
    try:
        before = reopen(run, None)[1]
    except CardioTuneError as error:
        log.warning("%s", error)
        return _unknown(name, "its table is not at hand as it was")
    compared = False
    for one in before.sources:
        for other in tested:
            if by_id and theirs[one.name] == ours[other.name]:
                continue
            first, second = _cohort(one, before, LEARNED), _cohort(other, prepared, ("test",))
            shared = shared_columns(first, second, in_common(one.data, other.data))
            compared |= bool(shared)
            if first.frame.height and shared:
                found = in_both(first, second, shared)
                if found.found:
                    names = (_said(name, one), _said("the test part", other))
                    raise _refused(name, found.text(*names, first.frame.height))
    if not compared:
        return _unknown(name, "its tables have no column in common with those of the test")
    return f"none of the test patients is among those of {name}, by the columns that the tables share"


def _said(what: str, source: Source) -> str:
    return f"{what} of table {source.name}" if source.name else what


def _refused(name: str, what: str) -> DataError:
    return DataError(
        f"train.start_from: {name} was learned from test patients: {what}; hold others out, or start from weights that "
        "have not seen them"
    )


def _identified(config: Config, described: dict[str, Any]) -> dict[str, Any]:
    """Table -> what its row ids are made of: the file and the column of the id. Equal ones give
    equal rows equal ids. `described`: as `describe_files`."""
    tables = {name: table.data for name, table in config.tables.items()} or {"": config.data}
    files = described["tables"] if config.tables else {"": described}
    return {name: (files[name]["sha256"], data.name_of("id"), len(data.files)) for name, data in tables.items()}


def _cohort(source: Source, prepared: Prepared, parts: tuple[str, ...]) -> Cohort:
    """The rows of a table that are in these parts."""
    kept = pl.Series(np.isin(prepared.parts[source.rows], parts))
    return Cohort(source.frame.filter(kept), [], columns=dict(source.data.columns))
