"""What gives a patient away in a text: ids, serialized rows, rows of raw values, and phrases of the
data dictionary."""

import html
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from cardiotune.data import schema
from cardiotune.data.cohort import ROW_ID
from cardiotune.data.prepare import Prepared, read_prepared
from cardiotune.data.serialize import NOT_RECORDED
from cardiotune.data.table import column_names, locate, read_cells
from cardiotune.data.ukb.read import open_export
from cardiotune.errors import CardioTuneError
from cardiotune.settings import Column, Config

log = logging.getLogger(__name__)

SHORTEST_ID = 5
"""Characters: shorter ids are found in any file."""
DENSEST = 0.1
"""Where ids are more than this share of all numbers with so many digits, any count may be one by
chance."""
WINDOW = 8
"""Words of a patient's text that are as good as the whole of it."""
WINDOW_CHARACTERS = 10
CHAIN = 3
"""So many columns named with their values, one after the other, are a patient's text."""
GAP = 2
"""Words that may stand between two of them."""
UNSAID = frozenset({"the", "is"})
"""Words that one style writes and another does not."""
EID = re.compile(r"(?<![0-9A-Za-z.])[1-9]\d{6}(?:\.0+)?(?![0-9A-Za-z]|\.\d)")
"""A whole number of seven digits, as the ids of UK Biobank are; `.0` behind it where a program took
it for a decimal one."""
Words = list[str]


def undressed(text: str) -> str:
    """A text without tags, entities and escapes, as HTML and JSON (in JSON) put around and into
    it."""
    if "</" in text:
        text = re.sub(r"<[^<>]{0,500}>", " ", text)
    if "&" in text:
        text = html.unescape(text)
    if "\\" in text:
        text = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), text)
        text = re.sub(r"\\+[nrt]", " ", text)
    return text


def words(text: str) -> Words:
    """Words and numbers of an undressed text in small letters, without the signs that styles put
    between them."""
    found = re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+", text.casefold())
    return [re.sub(r"\.0+$", "", word) for word in found if word not in UNSAID]


@dataclass(frozen=True)
class Known:
    """What is looked for. Ids and texts are kept as hashes only."""

    dictionary: dict[str, Column]
    ids: frozenset[int] = frozenset()
    row_ids: frozenset[int] = frozenset()
    windows: dict[int, frozenset[int]] = field(default_factory=dict)
    """Length in words -> hashes of such windows of the patients' texts and raw rows."""
    id_lengths: frozenset[int] = frozenset()
    sizes: frozenset[int] = frozenset()
    """Rows of the cohort and of its parts."""

    @property
    def features(self) -> frozenset[str]:
        """Columns that hold a patient's findings."""
        return frozenset(
            name for name, column in self.dictionary.items() if column.role in ("feature", "text", "target")
        )

    @property
    def id_names(self) -> frozenset[str]:
        """Columns that say who a patient is."""
        named = {name for name, column in self.dictionary.items() if column.role in ("id", "group")}
        return frozenset(
            name.casefold() for name in named | {"eid", "f.eid", "participant.eid", "row_id", "patient_id"}
        )


def learn(config: Config, row_ids: Sequence[str], sizes: frozenset[int]) -> Known:
    """What is to be found of this run's patients; without its table, by the dictionary and the
    run's own row ids alone."""
    columns, hashed = config.data.columns, _hashes(row_ids)
    try:
        prepared = read_prepared(config)
    except CardioTuneError as error:
        log.warning("the run's table cannot be read (%s); ids and texts are looked for by their form alone", error)
        return Known(columns, row_ids=hashed, sizes=sizes)
    ids = _telling(_ids(config, prepared.cohort.frame))
    hashed |= _hashes(prepared.cohort.frame[ROW_ID].to_list())
    if prepared.censored is not None:
        hashed |= _hashes(prepared.censored.frame[ROW_ID].to_list())
    lengths = frozenset(len(identity) for identity in ids if len(identity) >= SHORTEST_ID)
    return Known(columns, _hashes(ids), hashed, _windows(config, prepared), lengths, sizes)


def _hashes(ids: Iterable[str]) -> frozenset[int]:
    return frozenset(hash(identity.casefold()) for identity in ids if len(identity) >= SHORTEST_ID)


def _ids(config: Config, frame: pl.DataFrame) -> set[str]:
    """All ids in the table, those of excluded rows too."""
    if config.data.format == "ukb":
        return {eid for path in config.data.files.values() for eid in open_export(locate(path, folder=True)).eids}
    found: set[str] = set()
    names = [name for name in (config.data.name_of("id"), config.data.name_of("group")) if name]
    for name in names:
        found |= set(frame[name].drop_nulls().cast(pl.String)) if name in frame.columns else set()
        for path in config.data.files.values():
            try:
                cells = read_cells(locate(path), [name], config.data.separator, config.data.encoding)
            except CardioTuneError:
                continue  # a source that is not one table; the cohort's own ids are known
            found |= set(cells[name].drop_nulls().cast(pl.String).str.strip_chars())
    return found


def _telling(ids: set[str]) -> set[str]:
    """The ids but for running numbers, which cannot be told from counts; said aloud when there are
    some."""
    digits = Counter(len(identity) for identity in ids if identity.isdecimal())
    dense = {length for length, count in digits.items() if count > DENSEST * 9 * 10 ** (length - 1)}
    kept = {identity for identity in ids if not (identity.isdecimal() and len(identity) in dense)}
    if len(kept) < len(ids):
        log.warning("%d ids are running numbers, so like any count: not looked for by value", len(ids) - len(kept))
    return kept


def _windows(config: Config, prepared: Prepared) -> dict[int, frozenset[int]]:
    """The beginning, middle and end of each patient's text and of each row's raw values."""
    found: dict[int, set[int]] = {}
    frame = prepared.cohort.frame
    everyone = frame if prepared.censored is None else pl.concat([frame, prepared.censored.frame])
    for text in (*prepared.all_texts, *_raw_rows(config, everyone)):
        said = words(text)
        length = min(WINDOW, len(said))
        for start in {0, (len(said) - length) // 2, len(said) - length}:
            window = said[start : start + length]
            if sum(map(len, window)) >= WINDOW_CHARACTERS and any(word[0].isdigit() for word in window):
                found.setdefault(length, set()).add(hash(" ".join(window)))
    return {length: frozenset(hashes) for length, hashes in found.items() if length > CHAIN}


def _raw_rows(config: Config, frame: pl.DataFrame) -> Iterator[str]:
    """Each row's feature values in the order of the dictionary, and in that of the table."""
    columns = set(frame.columns)
    features = [name for name in config.data.features if name in columns]
    orders = {tuple(features)}
    try:
        stored = column_names(locate(config.data.path), config.data.separator, config.data.encoding)
        known = set(features)
        orders.add(tuple(name for name in stored if name in known))
    except CardioTuneError:
        pass  # a source that is not one table has no order of its own
    for order in orders:
        for row in frame.select(order).iter_rows():
            yield " ".join("" if value is None else str(value) for value in row)


# --------------------------------------------------------------------------------------------------
# looking


def traces(text: str, known: Known, binary: bool = False) -> Iterator[str]:
    """What in this text is a patient's, in words and counts; never the thing itself."""
    text = undressed(text)
    candidates = _candidates(text) | (_slices(text, known.id_lengths) if binary else set())
    for name, hashes in (("ids of the run's table", known.ids), ("row ids of the run", known.row_ids)):
        if found := sum(hash(word) in hashes for word in candidates):
            yield f"{name} ({found} found)"
    said = words(text)
    copies = sum(
        hash(" ".join(said[start : start + length])) in hashes
        for length, hashes in known.windows.items()
        for start in range(len(said) - length + 1)
    )
    if copies:
        yield f"text or values of patients in the run's table ({copies} passages)"
    elif chains := _count_chains(said, known.dictionary):
        yield f"patients' text: columns of the dictionary with their values ({chains} passages)"


def _candidates(text: str) -> set[str]:
    """What may be an id in a text: words as a whole, what stands between signs within one, and
    numbers by themselves."""
    text = re.sub(r"(?<=\d)\.0+(?!\d)", "", text.casefold())  # a program that took an id for a decimal number
    whole = set(re.findall(r"[^\s\"'<>,;:|()\[\]{}=\\/]+", text))
    # A number with a point beside it is part of a decimal one, not an id.
    parts = set(re.findall(r"(?<![a-z0-9.])[a-z]*\d[a-z0-9]*(?![a-z0-9]|\.\d)", text))
    return {word.strip(".") for word in whole} | parts


def _slices(text: str, lengths: Iterable[int]) -> set[str]:
    """Every piece of these lengths: in binary files letters may stand before and after an id by
    chance."""
    runs = re.findall(r"[a-z0-9_.-]+", text.casefold())
    return {run[at : at + length] for length in lengths for run in runs for at in range(len(run) - length + 1)}


def _count_chains(said: Words, dictionary: dict[str, Column]) -> int:
    """How often `CHAIN` columns (or all, if fewer) are named with a value each, close behind each
    other."""
    pieces = _Pieces(dictionary)
    needed = min(CHAIN, len(pieces.names))
    if needed < 2:
        return 0
    chains, seen, end = 0, set[str](), -GAP - 1
    for place in range(len(said)):
        found = pieces.at(said, place)
        if found is None:
            continue
        name, stop = found
        if place - end > GAP or name in seen:
            seen = set()
        seen.add(name)
        chains += len(seen) == needed
        end = stop
    return chains


class _Pieces:
    """The columns' labels with their possible values, as words."""

    def __init__(self, dictionary: dict[str, Column]) -> None:
        self.begin: dict[str, list[tuple[str, Words, Column]]] = {}
        for name, column in dictionary.items():
            if column.role != "feature" or column.is_text or column.is_day:
                continue
            label = schema.label(name, column)
            before, _, _ = label.partition("{value}")
            for said in (words(before), words(label.replace("{value}", " ")), words(name)):
                if said:
                    self.begin.setdefault(said[0], []).append((name, said, column))
        self.places = [words(f"{place} at") for place in schema.PLACES]
        self.names = {name for entries in self.begin.values() for name, _, _ in entries}
        self.values = {
            name: [words(word) for word in (*schema.codes_of(column).values(), NOT_RECORDED)]
            for name, column in dictionary.items()
        }

    def at(self, said: Words, place: int) -> tuple[str, int] | None:
        """The column that is named with its value from `place` on, and where this ends."""
        for name, label, column in self.begin.get(said[place], ()):
            start = place + len(label)
            if said[place:start] == label and (stop := self._value(said, start, name, column)):
                return name, stop
        return None

    def _value(self, said: Words, start: int, name: str, column: Column) -> int:
        """Where the value at `start` ends; 0 when there is none."""
        for value in self.values[name]:
            if said[start : start + len(value)] == value:
                return start + len(value)
        unit = words(column.unit or "")
        if said[start : start + 2] in self.places:
            start += 2
        number = start < len(said) and said[start][0].isdigit()
        if column.is_number and number and said[start + 1 : start + 1 + len(unit)] == unit:
            return start + 1 + len(unit)
        return 0
