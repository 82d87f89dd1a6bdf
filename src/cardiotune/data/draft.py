"""`cardiotune init`: a first data dictionary and experiment for any table.

A table whose columns are those of a shipped dictionary gets that dictionary. For any other the
types are read off the cells. No cell value of a number column goes into a draft; of a category
column, its codes do.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import polars as pl

from cardiotune.config import read_yaml, run_name, shipped, to_yaml
from cardiotune.data import roles, schema, sentinels, writing
from cardiotune.data.identifiers import BEHAVES, Identifier, identify, is_of_patients, texts
from cardiotune.data.small_counts import told
from cardiotune.data.table import is_value, locate, read_cells
from cardiotune.data.writing import Writings
from cardiotune.errors import ConfigError, DataError
from cardiotune.files import write_text
from cardiotune.settings import COLUMN_ROLES, COLUMN_TYPES, Column, spelling

INDEX_NAMES = re.compile(r"(unnamed: ?\d+|__index_level_\d+__|index)?", re.I)
"""What data frames call the row number when they write it."""
MAX_CATEGORIES = 20
MAX_INTEGER_CATEGORIES = 3
"""An integer column with at most this many values is taken as categories."""
MAX_SPELLINGS = 1000
"""A column of more different cells holds no codes, in whatever spelling."""
SMALL_TABLE = 1000
"""Rows below which a draft trains three epochs; a larger table teaches as much in one."""
DATE_WORDS = {"date", "datum", "dt", "dat", "fecha"}
MOST_CELLS = 0.9
NOT_KNOWN = re.compile(
    "unk(nown)?|not (known|available|recorded|reported|assessed)|missing|no (data|information)|nk|n\\.a\\.|refused|"
    "(don't|do not) know|prefer not to (say|answer)|lost to follow[- ]?up|unbekannt|keine angabe|k\\.a\\.|inconnue?|"
    "non renseigné|desconocido|sconosciuto|onbekend|okänt|ukendt|ukjent"
)
"""Plain spellings of an outcome that nobody knows."""
MIN_ROWS_A_CATEGORY = 5
"""A rarer code is not written into a draft: it could tell of a single patient."""


@dataclass(frozen=True)
class Draft:
    """What `init` wrote, and what it wants to say about it."""

    dataset: Path
    experiment: Path
    notes: list[str]


def draft(table: str, target: str, out: Path, positive: list[str] | None = None, outcome: str | None = None) -> Draft:
    """Write `dataset.yaml` and `experiment.yaml` into `out`. Existing files there are not touched
    (ConfigError)."""
    files = {name: out / f"{name}.yaml" for name in ("dataset", "experiment")}
    there = [str(file) for file in files.values() if file.exists()]
    if there:
        raise ConfigError(f"{', '.join(there)}: exists already; choose another --out, or delete it")
    file = locate(table)
    cells = read_cells(file)
    if cells.width < 2:
        raise DataError(f"{file}: only one column was found; is the separator one of comma, semicolon, tab, bar?")
    certain = _check_names(file, cells)
    if target not in cells.columns:
        raise DataError(f"{file}: no column {target}; {_near(target, cells.columns, certain)}")
    known = _known_dictionary(cells.columns, target)
    columns, notes = _from_known(known, cells) if known and not positive else _from_cells(cells, target, positive)
    notes += _check_target(file, cells[target], target, columns[target])
    write_text(files["dataset"], _dataset_yaml(file, columns))
    write_text(files["experiment"], _experiment_yaml(out, file, outcome or _outcome(known, target), cells.height))
    return Draft(files["dataset"], files["experiment"], notes)


def _check_names(file: Path, cells: pl.DataFrame) -> bool:
    """Whether the names of the columns are certainly names, so that a message may hold them;
    DataError when they are values.

    A first line of values that was taken for names is a patient's. Above numbers or dates it has a
    number or a date, so words above all such columns tell that it is none; but where rows are
    variables, those words may be patients. A column of age or sex tells that the rows are patients.
    """
    head = cells.head(200)
    typed = [name for name in cells.columns if (c := head[name].drop_nulls()).len() and _share(c) > MOST_CELLS]
    words = [name for name in typed if name and not is_value(name)]
    if typed and not words and any(is_value(name) for name in typed):
        raise DataError(
            f"{file}: the first line looks like values, not column names: there are numbers or dates in it above numbers and "
            "dates; add a header line"
        )
    of_patients = any(roles.meanings_of(name) & {"age", "sex"} for name in words)
    return of_patients and len(words) == sum(bool(name) for name in typed) and cells.height > cells.width


def _share(cells: pl.Series) -> float:
    """Of values, among cells that hold something."""
    return sum(is_value(cell.strip()) for cell in cells) / len(cells)


def _near(target: str, names: list[str], certain: bool) -> str:
    near = difflib.get_close_matches(target, names, n=1, cutoff=0.6)
    if not certain:
        return f"is it column {names.index(near[0]) + 1}?" if near else f"the table has {len(names)} columns"
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"did you mean {near[0]}?" if near else f"found: {', '.join(names[:20])}{more}"


def _known_dictionary(names: list[str], target: str) -> str | None:
    """The shipped dictionary that describes exactly these columns, if one does."""
    for name, file in shipped("datasets").items():
        dictionary = read_yaml(file)
        if "outcome" not in dictionary.get("task", {}):  # not of one table, but of a kind of tables
            continue
        columns = dictionary["data"]["columns"]
        stored = {column for column, entry in columns.items() if "derive" not in entry}
        if stored == set(names) and columns.get(target, {}).get("role") == "target":
            return name
    return None


def _from_known(name: str, cells: pl.DataFrame) -> tuple[dict[str, dict[str, Any]], list[str]]:
    columns: dict[str, dict[str, Any]] = read_yaml(shipped("datasets")[name])["data"]["columns"]
    notes = [f"the columns are those of {name}: its published dictionary is used (units, codes, plausible ranges)"]
    for column, entry in columns.items():
        if column in cells.columns and schema.parse(cells[column], Column.model_validate(entry))[0].is_null().all():
            columns[column] = {**entry, "role": "ignore"}
            notes.append(f"{column}: no value in any row, role ignore")
    return columns, notes


def _from_cells(
    cells: pl.DataFrame, target: str, positive: list[str] | None
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    columns: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    writings = _writings(cells)
    guesses = {name: _guess(cells[name], name, writings) for name in cells.columns if name != target}
    keys = _keys(cells.drop(target), {name: entry for name, (entry, _) in guesses.items()}, writings)
    for name in cells.columns:
        if name == target:
            columns[name] = {"role": "target", "type": "binary"}
            columns[name] |= _named_events(cells[name], positive) if positive else _target_codes(cells[name])
            continue
        columns[name], why = keys.get(name) or guesses[name]
        if why:
            notes.append(f"{name}: role {columns[name]['role']}, {why}")
    notes += _add_meanings(columns, cells, writings)
    features = [name for name, entry in columns.items() if entry["role"] == "feature"]
    if [columns[name]["type"] for name in features] == ["text"]:
        columns[features[0]] = {"role": "text"}
        notes.append(f"{features[0]}: role text, the patient's text ready made, since nothing else is there to read")
    if not features:
        raise DataError("no column could be taken as a feature: " + "; ".join(notes))
    return columns, notes


def _target_codes(cells: pl.Series) -> dict[str, Any]:
    """0/1 needs nothing; two words need to know which is the event, and yes/no-like pairs tell."""
    if _are_yes_or_no(cells):
        return {"codes": {"0": "no", "1": "yes"}}
    spelled = _spellings(cells)
    for no, yes in (
        ("n", "y"),
        ("absent", "present"),
        ("negative", "positive"),
    ):
        if set(spelled) == {no, yes}:
            words = [spelled[no][0], spelled[yes][0]]
            return {"codes": dict(zip(words, words, strict=True)), "positive": words[1:]}
    return {}


def _named_events(cells: pl.Series, positive: list[str]) -> dict[str, Any]:
    """The outcome's codes, those that `positive` names being the events, each as the table spells
    it most often.

    A rare other code beside a common one is not written, so a run asks what it means.
    """
    given = "--positive " + ",".join(positive)
    named = set(map(spelling, positive))
    if _are_yes_or_no(cells):
        read = schema.code_reader(Column(type="binary"))
        found = sorted({read(code) for code in positive})
        if not {"0", "1"}.issuperset(found):
            raise DataError(
                f"{given}: {cells.name} holds yes and no (or 1 and 0) alone; name values that the table has"
            )
        return {"codes": {"0": "no", "1": "yes"}, "positive": found}
    spelled = _spellings(cells)
    if absent := [code for code in positive if spelling(code) not in spelled]:
        raise DataError(f"{given}: no row of {cells.name} holds {', '.join(absent)}; name values that the table has")
    meant = {schema.TRUTH.get(key, key) for key in named}
    if twice := [key for key in spelled if key not in named and schema.TRUTH.get(key, key) in meant]:
        raise DataError(
            f"{given}: {cells.name} has the same said in {len(twice)} other ways (yes, true, 1; no, false, 0); name all of them"
        )
    others = [key for key in spelled if key not in named]
    unknown = _not_known(others, named)
    others = [key for key in others if key not in unknown]
    common = [key for key in others if len(others) == 1 or spelled[key][1] >= MIN_ROWS_A_CATEGORY]
    codes = [spelled[key][0] for key in spelled if key in named or key in common]
    kind = "binary" if len(spelled) - len(unknown) == len(codes) == 2 else "categorical"
    return {
        "type": kind,
        "codes": dict(zip(codes, codes, strict=True)),
        "positive": [spelled[key][0] for key in spelled if key in named],
        **({"missing": [spelled[key][0] for key in spelled if key in unknown]} if unknown else {}),
    }


def _not_known(others: list[str], named: set[str]) -> set[str]:
    """Those of the outcome's other codes that say "not known"; none if no other would be left for
    "no event".

    Numbers: what looks like a code for missing (-9, 9, 99, 7 8 9) and stands apart from all other
    codes.
    """
    found = {key for key in others if NOT_KNOWN.fullmatch(key)}
    codes = {float(key): key for key in others if sentinels.USUAL.fullmatch(key)}
    numbers = sorted((float(key) for key in (*others, *named) if re.fullmatch(r"[+-]?\d+", key)), reverse=True)
    highest = list(takewhile(codes.__contains__, numbers))
    rest = numbers[len(highest) :]
    if highest and rest and highest[-1] > rest[0] + 1:
        found |= {codes[number] for number in highest}
    if numbers and numbers[0] > 0:
        found |= {key for number, key in codes.items() if number < 0}
    return found if len(found) < len(others) else set()


def _are_yes_or_no(cells: pl.Series) -> bool:
    few = cells.n_unique() <= MAX_SPELLINGS
    return few and set(schema.parse(cells, Column(type="binary"))[0].drop_nulls().unique()) <= {"0", "1"}


def _spellings(cells: pl.Series) -> dict[str, tuple[str, int]]:
    """Plain spelling of a code -> how the table spells it most often, and in how many rows it
    stands in any way."""
    text = schema.recorded(cells, Column(role="ignore", type="categorical")).drop_nulls().alias("code")
    found: dict[str, tuple[str, int]] = {}
    for code, rows in text.value_counts().sort(["count", "code"], descending=[True, False]).iter_rows():
        first, before = found.get(spelling(code), (code, 0))
        found[spelling(code)] = (first, before + rows)
    return dict(sorted(found.items()))


def _writings(cells: pl.DataFrame) -> Writings:
    """How numbers and dates are written, of the columns of which at least half of the cells are
    such."""
    number, date = Column(type="numeric"), Column(type="date")
    columns: dict[str, Column] = {}
    signs = {}
    for name in cells.columns:
        text = schema.recorded(cells[name], number)
        half = (len(text) - text.null_count()) / 2
        for column, form in ((number, writing.LIKE_NUMBER), (date, writing.LIKE_DATE)):
            if 0 < half <= (text.str.contains(form).sum() or 0):
                columns[name], signs[name] = column, writing.signs(text, column)
    return Writings(signs, columns)


def _guess(cells: pl.Series, name: str, writings: Writings) -> tuple[dict[str, Any], str]:
    """Role and type of a column, from its name and cells, and why it is not a plain feature."""
    present = schema.recorded(cells, Column(type="text")).drop_nulls()
    if present.n_unique() <= MAX_SPELLINGS:
        present = schema.parse(cells, Column(type="categorical"))[0].drop_nulls()
    distinct = present.n_unique()
    if not len(present):
        return {"role": "ignore", "type": "text"}, "no value in any row"
    if INDEX_NAMES.fullmatch(name):
        return {"role": "ignore", "type": "text"}, "the row number of a data frame"
    if writings.columns.get(name, Column()).is_day:
        entry, why = _guess_date(cells, name, writings)
        if entry:
            return entry, why
    else:
        numbers, unreadable = schema.parse(cells, Column(type="numeric"), writings[name])
        if not unreadable and not present.str.contains(r"^0\d").any():  # 01234 is a code
            return _guess_number(numbers.drop_nulls(), distinct, name, writings)
        why = _almost_numbers(present, unreadable, name, writings)
    if _are_yes_or_no(cells):
        return {"role": "feature", "type": "binary", "codes": {"0": "no", "1": "yes"}}, ""
    if distinct > MAX_CATEGORIES:
        free = "free text that goes into the prompt: ignore it if it holds names"
        return {"role": "feature", "type": "text"}, f"type text, {why}" if why else free
    spelled = _spellings(cells).values()
    codes = sorted(code for code, rows in spelled if rows >= MIN_ROWS_A_CATEGORY)
    listed = {"codes": {code: code for code in codes}} if len(codes) == distinct else {}
    several = distinct < schema.recorded(cells, Column(type="categorical")).drop_nulls().n_unique()
    alike = "codes that differ only in case or blanks are one" if several else ""
    return {"role": "feature", "type": "categorical", **listed}, f"type categorical, {why}" if why else alike


def _keys(
    cells: pl.DataFrame, guesses: dict[str, dict[str, Any]], writings: Writings
) -> dict[str, tuple[dict[str, Any], str]]:
    """Entry and reason of every column that says who a patient is: one id at most, one group at
    most, else ignored."""
    meant = roles.learn({name: Column.model_validate(entry) for name, entry in guesses.items()}).columns
    fixed = [meant[meaning] for meaning in ("sex", "ethnicity") if meaning in meant]
    people = cells.select(schema.recorded(cells[name], Column(type="categorical")).alias(name) for name in fixed)
    others = [name for name in cells.columns if name not in meant.values() and not INDEX_NAMES.fullmatch(name)]
    found = {name: key for name in others if (key := identify(name, cells[name], people if fixed else None))}
    full = {name: values for name in found if not (values := texts(cells[name])).has_nulls()}
    repeated = {name: key for name, key in found.items() if name in full}
    group = _first(
        repeated, ("patient", "weak", "family"), lambda name, key: is_of_patients(key, full[name], cells.columns)
    )
    row_keys = {name: key for name, key in found.items() if key.why != BEHAVES}
    row_id = _first(row_keys, ("patient", "weak", "record"), lambda name, _: _distinct(cells[name]) == cells.height)
    return {name: _identity(name, key, cells[name], row_id, group) for name, key in found.items()}


def _first(found: dict[str, Identifier], kinds: Sequence[str], fits: Callable[[str, Identifier], bool]) -> str | None:
    """The first column that fits, of the first kind that has one; an id that is one in all studies
    goes before others."""
    those = [name for name, key in found.items() if key.kind in kinds and fits(name, key)]
    return min(those, key=lambda n: (kinds.index(found[n].kind), "usubjid" not in n.lower()), default=None)


def _distinct(cells: pl.Series) -> int:
    """Different values, of which missing is none."""
    return texts(cells).drop_nulls().n_unique()


def _identity(
    name: str, key: Identifier, cells: pl.Series, row_id: str | None, group: str | None
) -> tuple[dict[str, Any], str]:
    """A column that says who a patient is never becomes a feature."""
    role, why = "ignore", f"it looks like {key}"
    missing = texts(cells).has_nulls()
    repeated = not missing and _distinct(cells) < len(cells)
    if name == row_id:
        role, why = "id", f"{why}; no value stands twice"
    elif name == group:
        role, why = "group", f"{why}; values repeat, and rows of one stay in one part"
    elif key.what == "a date of birth":
        why = f"{why}; an age may be made of it"
    elif row_id and key.kind != "contact" and not missing and not repeated:
        why = f"another column has role id; {why}"
    elif group and repeated and key.kind in ("patient", "weak", "family"):
        why = f"another column has role group; {why}"
    elif key.kind in ("patient", "weak") and missing:
        why = f"{why}, but values are missing; rows of one patient stay in one part only if it is filled and has role group"
    elif key.kind == "weak" and repeated:
        why = f"{why}; if rows of one patient share its values, give it role group"
    return {"role": role, "type": "text"}, why


def _add_meanings(columns: dict[str, dict[str, Any]], cells: pl.DataFrame, writings: Writings) -> list[str]:
    """Write `meaning` into what is certain; what is to be said of it."""
    dictionary = {name: Column.model_validate(entry) for name, entry in columns.items() if entry["role"] == "feature"}
    called = [name for name, column in dictionary.items() if roles.called(name, column)]
    typed = pl.DataFrame([schema.parse(cells[name], dictionary[name], writings[name])[0] for name in called])
    found = roles.learn(dictionary, typed)
    notes = [f"{meaning}: {why}" for meaning, why in found.passed_over.items() if meaning in ("age", "sex")]
    for meaning, name in found.columns.items():
        columns[name]["meaning"] = meaning
        if meaning == "sex" and not roles.sex_of(name, dictionary[name], typed[name].drop_nulls().unique()):
            if columns[name].get("codes") == {"0": "no", "1": "yes"}:
                columns[name]["codes"] = {"0": "0", "1": "1"}
            notes.append(f"{name}: its codes do not say who is a man; write it, such as codes: {{1: woman, 2: man}}")
    return notes


def _guess_number(numbers: pl.Series, distinct: int, name: str, writings: Writings) -> tuple[dict[str, Any], str]:
    if set(numbers.unique()) <= {0.0, 1.0}:
        return {"role": "feature", "type": "binary", "codes": {"0": "no", "1": "yes"}}, ""
    whole = bool((numbers == numbers.round()).all())
    apart = sentinels.sentinels(numbers)
    notes = [note for note in (writings.told(name), sentinels.in_words(apart) if apart else "") if note]
    if DATE_WORDS & set(roles.name_words(name)) and numbers.is_between(10_000, 80_000).mean() > MOST_CELLS:  # type: ignore[operator]
        notes.append(
            "it is called a date but holds numbers, such as days since 1900 or 1960: write dates as 2020-01-31"
        )
    if whole and distinct <= MAX_INTEGER_CATEGORIES and not notes:
        return {"role": "feature", "type": "categorical"}, ""
    said = {"decimal": writings[name].decimal} if "decimal" in writings.told(name) else {}
    return {"role": "feature", "type": "integer" if whole else "numeric", **said}, "; ".join(notes)


def _guess_date(cells: pl.Series, name: str, writings: Writings) -> tuple[dict[str, Any], str]:
    """Of a column that holds dates: nothing, and why, where some cells are none."""
    found, known = writings.found[name], writings[name]
    if known.day_first is None and "unclear order" in found and not found >= {"day first", "month first"}:
        known = replace(known, day_first=True)  # said, and written down
    unreadable = schema.parse(cells, Column(type="date"), known)[1]
    if unreadable:
        hints = [hint.removeprefix(f"{name}: ") for hint in writings.hints([name])]
        return {}, f"dates but for {told(unreadable)} cells; {'; '.join(hints) or 'write all as 2020-01-31'}"
    read = Writings({name: found}, {name: Column(type="date", day_first=known.day_first)}).told(name)
    note = "a date: what happened after the outcome must not be among them"
    if not read:
        return {"role": "feature", "type": "date"}, note
    otherwise = "; where it is the other way round write day_first: false" if "though" in read else ""
    return {"role": "feature", "type": "date", "day_first": known.day_first}, f"{note}; {read}{otherwise}"


def _almost_numbers(present: pl.Series, unreadable: int, name: str, writings: Writings) -> str:
    """What to do with a column of numbers in which some cells are none; empty for other columns. No
    cell is repeated."""
    if present.str.contains(writing.TWO_NUMBERS).sum() > MOST_CELLS * len(present):
        return "it looks like two numbers in a cell (systolic/diastolic?): split it into two columns"
    if writing.with_unit(present).sum() > MOST_CELLS * len(present):
        return "numbers with a unit: take it off, and name it in unit"
    if name not in writings.columns:
        return ""
    hints = [hint.removeprefix(f"{name}: ") for hint in writings.hints([name])]
    how = "; ".join(hints) or (
        "for the model to read numbers write each as a number, leave it empty, or name it in missing, and set type: numeric"
    )
    if not unreadable:
        return "figures that begin with 0 are taken as codes; set type: numeric if they are numbers"
    few = f"numbers but for {told(unreadable)} cells (such as a value below a detection limit)"
    return f"{few if unreadable < len(present) else 'like numbers, but no cell can be read'}; {how}"


def _check_target(file: Path, cells: pl.Series, target: str, entry: dict[str, Any]) -> list[str]:
    """Two outcomes, or a rule that makes two of them; a note of how many rows have which."""
    column = Column.model_validate(entry)
    values = schema.parse(cells, column)[0].drop_nulls()
    distinct = values.n_unique()
    if not entry.get("positive"):
        if distinct < 2:
            raise DataError(f"{file}: target {target} has {distinct} different values; expected two outcomes")
        if distinct > 2 or not set(values.unique()) <= {"0", "1"}:
            raise DataError(
                f"{file}: target {target} has {distinct} different values, expected 0 and 1; "
                "say which values count as an event with --positive A,B"
            )
    events, strange = schema.events(values, column)
    happened = int(events.sum())
    if happened in (0, len(values)):
        empty = len(cells) - len(values)
        hint = f"; {told(empty)} have none: if that means no event, write so in the table" if empty else ""
        raise DataError(
            f"{file}: with --positive {','.join(entry['positive'])} all rows of {target} have one outcome{hint}"
        )
    no_event = [code for code in schema.known_codes(column) if code not in (column.positive or ["1"])]
    notes = [
        f"{target}: {told(happened)} rows with the event ({', '.join(column.positive or ['1'])}), "
        f"{told(len(values) - happened - strange)} without ({', '.join(no_event)}), "
        f"{told(len(cells) - len(values))} unknown"
    ]
    if column.missing:
        notes.append(
            f"{target}: {', '.join(column.missing)} taken as unknown, not as no event, so those rows are left out; move to codes "
            "what is an outcome"
        )
    if strange:
        notes.append(
            f"{target}: {told(strange)} rows hold rare values that are not written here; name each in codes (and positive) "
            "or, if it means unknown, in missing: a run stops until then"
        )
    return notes


def _outcome(known: str | None, target: str) -> str:
    """The shipped dictionary's name for the outcome, or the column's name in words."""
    if known:
        return str(read_yaml(shipped("datasets")[known])["task"]["outcome"])
    return re.sub(r"[_\s]+", " ", target)


def _dataset_yaml(file: Path, columns: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# Data dictionary. Check every line: role, type, unit, plausible range, what each code means.",
        "# role: " + ", ".join(f"{r.name} ({r.note})" if r.note else r.name for r in COLUMN_ROLES.values()),
        "# type: " + ", ".join(COLUMN_TYPES),
        "# meaning: what subgroups and scores take it for: age, sex, systolic_pressure...",
        "# also: unit: mmHg, range: [60, 260], codes: {1: woman, 2: man}, missing: ['-9'], phrase: blood pressure,",
        "# decimal: ',' (where 1.050 is a thousand and fifty), day_first: false (where 05/12/2019 is in May)",
        "data:",
        f"  path: {_quoted(str(file.resolve()))}",
        "  columns:",
    ]
    for name, entry in columns.items():
        flow = to_yaml(entry, default_flow_style=True, width=10**6).strip()
        lines.append(f"    {_quoted(name)}: {flow}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return to_yaml(text, width=10**6).removesuffix("...\n").strip()


def _experiment_yaml(out: Path, file: Path, outcome: str, rows: int) -> str:
    stem = file.name.removesuffix(".gz").rsplit(".", 1)[0]
    return f"""\
# Run it: cardiotune run {out / "experiment.yaml"}
# See what a prompt looks like first: cardiotune prepare {out / "experiment.yaml"} --show 3
name: {_quoted(run_name(stem))}
use: {{model: gemma3-270m, dataset: ./dataset.yaml, method: lora}}
task:
  outcome: {_quoted(outcome)}
train: {{epochs: {3 if rows < SMALL_TABLE else 1}}}
"""
