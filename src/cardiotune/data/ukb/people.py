"""Two lists that come with an export: who withdrew, and who is related to whom."""

import logging
from pathlib import Path

import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cardiotune.errors import DataError

log = logging.getLogger(__name__)

LEAST_KINSHIP = 0.0442
"""Kinship coefficient from which two people are relatives of the third degree. Manichaikul et al.
2010, Bioinformatics 26:2867 (KING); UK Biobank's file holds no others."""


def read_withdrawals(file: Path) -> pl.Series:
    """Eids that withdrew, one a line; further columns and a header line are passed over."""
    lines = [line.split(",")[0].strip().strip('"') for line in _text(file).splitlines()]
    ids = [line for line in lines if line.isdigit()]
    others = [line for line in lines if line and not line.isdigit()]
    if len(others) > 1:
        raise DataError(f"{file}: {len(others)} lines are no eids; expected a list of eids, one a line")
    return pl.Series("eid", ids, pl.String).unique()


def read_kinship(file: Path) -> pl.DataFrame:
    """Pairs `ID1`, `ID2` of relatives of the third degree or nearer. Columns as in ukb_rel.dat,
    apart by blanks or commas."""
    rows = [line.replace(",", " ").split() for line in _text(file).splitlines() if line.strip()]
    header = [name.strip('"') for name in rows[0]] if rows else []
    if not {"ID1", "ID2", "Kinship"} <= set(header):
        raise DataError(f"{file}: expected a header with ID1, ID2 and Kinship, as ukb_rel.dat has it")
    if any(len(row) != len(header) for row in rows):
        raise DataError(f"{file}: lines with another number of fields than the header; the file was cut short")
    pairs = pl.DataFrame(rows[1:], schema=dict.fromkeys(header, pl.String), orient="row")
    kinship = pairs["Kinship"].cast(pl.Float64, strict=False)
    if kinship.null_count():
        raise DataError(f"{file}: {kinship.null_count()} pairs have no number as Kinship")
    return pairs.filter(kinship >= LEAST_KINSHIP).select("ID1", "ID2")


def families(eids: pl.Series, pairs: pl.DataFrame) -> pl.Series:
    """(participants,) the family of each: the smallest eid of all who are joined by relatives,
    their own if by none.

    Relatives that are not in the table join families too: two cousins of somebody who withdrew are
    still related.
    """
    people = pl.concat([eids, pairs["ID1"], pairs["ID2"]]).unique().sort()
    number = pl.DataFrame({"eid": people, "number": np.arange(len(people))})
    ends = [
        pairs.select(eid=side).join(number, on="eid", how="left", maintain_order="left")["number"]
        for side in ("ID1", "ID2")
    ]
    links = coo_array((np.ones(pairs.height), (ends[0].to_numpy(), ends[1].to_numpy())), shape=(len(people),) * 2)
    component = pl.Series("family", connected_components(links, directed=False)[1])
    first = number.with_columns(component).with_columns(family=pl.col("eid").first().over("family"))
    shared = pl.DataFrame({"eid": eids}).join(first, on="eid", how="left", maintain_order="left")["family"]
    if pairs.height and not (pairs["ID1"].is_in(eids.implode()) | pairs["ID2"].is_in(eids.implode())).any():
        raise DataError(
            "kinship: no pair has a participant of the export; the file is of another application, whose eids are other people"
        )
    return shared


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{file}: cannot be read; expected a text file") from None
