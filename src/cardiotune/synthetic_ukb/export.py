"""A made-up UK Biobank export to try things on: the folder, the names and the codes are real, no
participant is.

Every table's name begins with `synthetic_`, its column `990000` says it again, and every eid begins
with 9: real ones have seven digits too, but begin with 1 to 6 (unverified).
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from cardiotune.errors import ConfigError, RunError
from cardiotune.files import make_folder, private, publish
from cardiotune.synthetic_ukb.answers import answer
from cardiotune.synthetic_ukb.disease import area_under_curve, live_on, true_risk
from cardiotune.synthetic_ukb.people import Array, Values, draw
from cardiotune.synthetic_ukb.records import TRAPS, record
from cardiotune.synthetic_ukb.sheet import Sheet, place
from cardiotune.synthetic_ukb.styles import MARK, Style, named, styled, write_table

CHUNK = 10_000
"""Participants made and written at a time; relatives are found within one chunk."""
FIRST_EID, EIDS = 9_000_000, 1_000_000
MOST_ROWS = 990_000
"""A few eids are left for people who withdrew before the export and are not in it."""
FILLER = 990_001
RECORDS = ({190, 191}, range(40_000, 43_000), range(131_000, 132_000))
"""Fields of the second table."""
TEN_YEARS = np.timedelta64(3652, "D")
WITHDRAWN = 0.001


@dataclass
class Made:
    """What was written."""

    folder: Path
    rows: int
    columns: int = 0
    prevalent: int = 0
    """Had the disease before baseline."""
    events: int = 0
    """Of the others: within ten years, whether or not records show it."""
    ceiling: float = float("nan")
    """AUROC of the true risk for these events: no model can rank better, but for chance."""
    files: list[Path] = field(default_factory=list)


def chunks(rows: int, seed: int) -> Iterator[tuple[Values, Sheet]]:
    """Participants, a chunk at a time: what is true of them, and what is written down. Same seed,
    same participants."""
    for number, start in enumerate(range(0, rows, CHUNK)):
        rng = np.random.default_rng([seed, number])
        count = min(CHUNK, rows - start)
        who = draw(count, rng)
        who["eid"] = eids(np.arange(start, start + count), seed)
        live_on(who, rng)
        sheet = Sheet(count)
        record(who, sheet, rng)
        answer(who, sheet, rng)
        yield who, sheet


def eids(numbers: Array, seed: int) -> Array:
    """Seven digits beginning with 9, in no order, each once; the numbers are below `EIDS`."""
    rng = np.random.default_rng([seed, EIDS])
    step = int(rng.integers(EIDS // 10)) * 10 + 7  # coprime to a power of ten, so that no eid comes twice
    return np.asarray(FIRST_EID + (int(rng.integers(EIDS)) + step * numbers) % EIDS)


@private()
def write_export(folder: Path, rows: int, seed: int = 0, style: Style = "csv", columns: int | None = None) -> Made:
    """Write an export into a new folder: two tables, withdrawals, kinship and a README.

    `columns` pads the first table with made-up fields until both have so many together. ConfigError
    for a folder that is not empty or numbers that cannot be; RunError when it cannot be written.
    """
    _check(folder, rows, columns)
    target = folder.absolute()
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        make_folder(partial)
        made = _write(partial, rows, seed, style, columns)
        publish(partial, target)  # an empty folder gives way
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    made.folder, made.files = folder, sorted(folder.iterdir())
    return made


def _check(folder: Path, rows: int, columns: int | None) -> None:
    if not 1 <= rows <= MOST_ROWS:
        raise ConfigError(f"--rows {rows}: expected 1 to {MOST_ROWS}, for eids have seven digits and begin with 9")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--out {folder}: is there already and not an empty folder; name a new one")
    if columns is not None and columns > 20_000:
        raise ConfigError(f"--columns {columns}: expected at most 20000")


def _write(folder: Path, rows: int, seed: int, style: Style, columns: int | None) -> Made:
    made = Made(folder, rows)
    risks, events, left = [], [], []
    for number, (who, sheet) in enumerate(chunks(rows, seed)):
        tables = {name: styled(table, style) for name, table in tables_of(sheet).items()}
        if columns is not None:
            _pad(tables, columns, style, np.random.default_rng([seed, number, 1]))
        for name, table in tables.items():
            write_table(table, folder / f"synthetic_{name}", style, header=number == 0)
        made.columns = sum(table.width for table in tables.values())
        free = ~who["prevalent"] & (who["seen"] != who["visit"])
        risks.append(true_risk(who)[free])
        events.append((who["seen"] <= who["visit"] + TEN_YEARS)[free])
        made.prevalent += int(who["prevalent"].sum())
        left.append(who["eid"][np.random.default_rng([seed, number, 2]).random(sheet.rows) < WITHDRAWN])
        _write_kinship(who, folder, header=number == 0)
    made.events = int(np.concatenate(events).sum())
    made.ceiling = area_under_curve(np.concatenate(risks), np.concatenate(events))
    absent = eids(np.arange(MOST_ROWS, MOST_ROWS + 3), seed)
    withdrawn = np.concatenate([*left, absent])
    (folder / "synthetic_withdraw.csv").write_text("".join(f"{eid}\n" for eid in withdrawn), "ascii")
    _write_readme(made, seed, style)
    return made


def tables_of(sheet: Sheet) -> dict[str, pl.DataFrame]:
    """Answers and records apart, as large exports come in several files; both are marked."""
    sheet.put(MARK, np.ones(sheet.rows, np.int64))
    frame = sheet.frame()
    late = [name for name in frame.columns if any(place(name)[0] in fields for fields in RECORDS)]
    return {"participants": frame.drop(late), "records": frame.select("eid", *late, MARK)}


def _pad(tables: dict[str, pl.DataFrame], columns: int, style: Style, rng: np.random.Generator) -> None:
    """Widen the first table with whole numbers from 0 to 999, until all tables have `columns`
    together."""
    here = sum(table.width for table in tables.values())
    if columns < here:
        raise ConfigError(f"--columns {columns}: expected at least {here}, which an export in this style has anyway")
    first = next(iter(tables))
    values = rng.integers(0, 1000, (columns - here, tables[first].height), dtype=np.int16)
    filler = [pl.Series(named(f"{FILLER + i}-0.0", style), row) for i, row in enumerate(values)]
    tables[first] = tables[first].hstack(filler)


def _write_kinship(who: Values, folder: Path, header: bool) -> None:
    """Pairs as in ukb_rel.dat, separated by blanks; HetHet and IBS0 only look like it."""
    other = who["relative"] >= 0
    one = who["eid"][who["relative"][other]]
    pairs = pl.DataFrame({"ID1": one, "ID2": who["eid"][other]}).with_columns(
        HetHet=pl.Series(0.03 + 0.2 * who["kinship"][other]).round(3),
        IBS0=pl.Series(0.01 - 0.035 * who["kinship"][other]).clip(0).round(4),
        Kinship=pl.Series(who["kinship"][other]).round(4),
    )
    with (folder / "synthetic_ukb_rel.dat").open("wb" if header else "ab") as stream:
        pairs.write_csv(stream, include_header=header, separator=" ")


def _write_readme(made: Made, seed: int, style: str) -> None:
    ceiling = "not defined" if np.isnan(made.ceiling) else f"{made.ceiling:.3f}"
    lines = [
        "SYNTHETIC DATA. No participant of UK Biobank is in this folder: every value was drawn at random.",
        "Every file but this one begins with synthetic_, field 990000 is 1 for everybody, and every eid begins with 9.",
        "",
        f"Written by: cardiotune synth ukb --rows {made.rows} --seed {seed} --style {style}",
        f"Columns: {made.columns}; fields from 990001 up are filler for load tests.",
        f"Participants: {made.rows}, of whom {made.prevalent} had coronary artery disease before baseline.",
        f"Of the others {made.events} get it within ten years; AUROC of the true risk for these: {ceiling}.",
        "",
        "synthetic_participants: visits, answers, measurements, bloods",
        "synthetic_records: hospital, death register, loss to follow-up, algorithms",
        "synthetic_withdraw.csv: eids of people who withdrew, some of whom are in the tables still",
        "synthetic_ukb_rel.dat: pairs of relatives",
        "",
        "Traps that were set on purpose:",
        *(f"- {text}" for text in TRAPS.values()),
    ]
    (made.folder / "README.txt").write_text("\n".join(lines) + "\n", "utf-8")
