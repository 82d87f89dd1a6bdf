"""Several tables in one experiment: each with a dictionary of its own, and the one by which models
on columns read them all."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from cardiotune.settings.columns import Column, spelling
from cardiotune.settings.data import DataConfig
from cardiotune.settings.strict import Settings, raise_all

TABLE = "table"
"""Column of the pooled dictionary that says which table a row is of."""
PATIENT = "patient"
"""Column of the pooled dictionary that says whose rows belong together, where a table tells it."""
OUTCOME = "outcome"
"""Column of the pooled dictionary for what is predicted, whatever each table calls it."""
POOLED = "pooled:"
"""Path of the pooled table, which is no file."""
YES_NO = {"0": "no", "1": "yes"}


class TableConfig(Settings):
    """One of the tables of an experiment."""

    dataset: str | None = None
    """The dataset that it is read as: a short name of `configs/datasets` or a file. Default: that
    of the table's own name."""
    data: DataConfig
    """Its table and its own dictionary: those of the dataset, with the keys that are given here."""
    outcome: str = "the outcome"
    """What is predicted, in words. Default: as its dataset says."""
    part: Literal["both", "train", "test"] = "both"
    """`train`: its rows are for training and validation alone; `test`: for the test alone."""
    share: float | None = Field(None, gt=0)
    """What its training rows count together in the loss. Where every table that trains has a share,
    only their ratios matter; where some have, theirs are shares of the whole, below 1 together, and
    the others divide the rest by their rows. Default: every row counts the same."""


def pooled_dictionary(tables: Mapping[str, TableConfig]) -> DataConfig:
    """The dictionary of all tables' rows together: a column for each quantity, as the first table
    that has it describes it, with the range of all.

    Columns are one quantity where `same_as` gives them one name, or where they have one name.
    ValueError where these are of different kinds, stand twice in a table, or have codes that are
    none of the first table's.
    """
    columns: dict[str, Column] = {TABLE: Column(role="site", type="categorical")}
    if any(table.data.name_of("group") for table in tables.values()):
        columns[PATIENT] = Column(role="group", type="text")
    owner: dict[str, str] = {}
    problems = []
    for key, table in tables.items():
        shared_here: set[str] = set()
        for name in table.data.features:
            column, where = table.data.columns[name], f"tables.{key}.data.columns.{name}"
            shared = shared_name(name, column)
            if shared in (TABLE, PATIENT, OUTCOME):
                problems.append(f"{where}: {shared} cannot be a quantity's name; give it another with same_as")
            elif shared in shared_here:
                problems.append(f"{where}: another column of this table is {shared} too; mend their same_as")
            elif shared not in columns:
                plain: dict[str, Any] = {"same_as": None, "same_codes": None, "derive": None, "missing": []}
                columns[shared], owner[shared] = column.model_copy(update=plain), key
            elif columns[shared].kind.values != column.kind.values:
                problems.append(
                    f"{where}: is {column.type}, but {shared} of table {owner[shared]} is {columns[shared].type}; what is one "
                    "quantity must be of one kind: mend type or same_as"
                )
            else:
                strange = [code for code, theirs in codes_in(column, columns[shared]).items() if theirs is None]
                if strange:
                    problems.append(
                        f"{where}: codes {', '.join(strange)} are none of {shared} of table {owner[shared]}; say with "
                        "same_codes which they are"
                    )
                columns[shared] = _widened(columns[shared], column)
            shared_here.add(shared)
    columns[OUTCOME] = Column(role="target", type="binary", codes=YES_NO)
    raise_all(problems)
    return DataConfig(path=POOLED, columns=columns)


def shared_name(name: str, column: Column) -> str:
    """What a column of a table is called in a pool."""
    return column.same_as or name


def quantities(data: DataConfig) -> dict[str, str]:
    """What each feature of a table is called in a pool -> its own name."""
    return {shared_name(name, data.columns[name]): name for name in data.features}


def in_common(first: DataConfig, second: DataConfig) -> dict[str, str]:
    """Features of the first table -> those of the second that are the same quantity."""
    theirs = quantities(second)
    return {own: theirs[quantity] for quantity, own in quantities(first).items() if quantity in theirs}


def codes_in(column: Column, first: Column) -> dict[str, str | None]:
    """Own code -> the code of the same meaning of the first table's column; None where it has none.
    Empty where the columns name no codes."""
    theirs = first.codes or (YES_NO if first.kind.yes_or_no else {})
    own = column.codes or (YES_NO if column.kind.yes_or_no else {})
    if not theirs:
        return {}
    alike = {spelling(code): code for code in theirs}
    meant = {spelling(words): code for code, words in theirs.items()}
    said = {spelling(code): other for code, other in (column.same_codes or {}).items()}

    def found(code: str, words: str) -> str | None:
        if spelling(code) in said:
            return alike.get(spelling(said[spelling(code)]))
        return meant.get(spelling(words)) or alike.get(spelling(code))

    return {code: found(code, words) for code, words in own.items()}


def _widened(first: Column, other: Column) -> Column:
    """The first table's column with a range that holds both; none where one of them has none. Only
    where their units are one: ranges of other units are judged in their own tables. So it is with a
    reference range that only the other one has."""
    if first.reference is None and first.unit == other.unit:
        first = first.model_copy(update={"reference": other.reference})
    if first.range is None or other.range is None:
        return first.model_copy(update={"range": None})
    if first.unit != other.unit:
        return first
    low, high = zip(first.range, other.range, strict=True)
    return first.model_copy(update={"range": (min(low), max(high))})
