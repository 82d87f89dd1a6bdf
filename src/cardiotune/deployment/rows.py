"""What a client may send: rows checked against the data dictionary of the run, and what is wrong
with them in words.

Types and categories are hard: a row that breaks them is refused. A plausible range is soft: outside
it the model has not been tried, so the answer abstains. No message repeats a value, or a key that
the dictionary does not know.
"""

import re
from datetime import date
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, create_model

from cardiotune.data.cohort import needed_columns
from cardiotune.data.schema import code_reader, codes_of, expected, label
from cardiotune.deployment.limits import RowProblem
from cardiotune.settings import Column, DataConfig, spelling

LONGEST_TEXT = 20_000
LONGEST_CODE = 200
MOST_PROBLEMS = 20
"""Problems that an answer lists; the number of all is told."""

Row = dict[str, float | str | None]
"""Column -> value as its cell would be in a table; None is not recorded."""


def rows_model(data: DataConfig, most_rows: int) -> type[BaseModel]:
    """The body of a prediction request: `{"rows": [{column: value or null}, ...]}`, 1 to
    `most_rows` of them.

    A column that is left out counts as not recorded; one that the dictionary does not know is an
    error.
    """
    names = needed_columns(data, target_needed=False)
    strict = ConfigDict(extra="forbid", hide_input_in_errors=True)
    cells: dict[str, Any] = {
        # Names of columns need not be names of Python.
        f"cell_{place}": (_cell(data.columns[name]), Field(None, alias=name, description=described(name, data)))
        for place, name in enumerate(names)
    }
    row = create_model("Row", __config__=strict, **cells)
    return create_model("Rows", __config__=strict, rows=(list[row], Field(min_length=1, max_length=most_rows)))


def as_rows(body: BaseModel) -> list[Row]:
    """Checked rows, each with all columns of the dictionary."""
    return [row.model_dump(by_alias=True) for row in body.rows]  # type: ignore[attr-defined]


def problems(error: ValidationError, data: DataConfig) -> list[RowProblem]:
    """What is wrong with the rows that were sent. Never a value."""
    found = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        where = fault["loc"]
        row = where[1] if len(where) > 1 and isinstance(where[1], int) else None
        column = where[2] if len(where) > 2 and where[2] in data.columns else None
        found.append(RowProblem(row=row, column=column, problem=_in_words(fault, column, data)))
    return found


def described(name: str, data: DataConfig) -> str:
    """A column in words: its name, and what it may hold."""
    column = data.columns[name]
    outside = "; outside of it the answer abstains" if column.range else ""
    return f"{plain_label(name, column)}: {expected(column)}{outside}. Null when it is not recorded."


def plain_label(name: str, column: Column) -> str:
    """The column's name in words, without the place of its value in a sentence."""
    return re.sub(r"\s*\{value\}[.]?\s*", " ", label(name, column)).strip() or name


def _in_words(fault: Any, column: str | None, data: DataConfig) -> str:
    if column is not None and fault["type"] == "extra_forbidden":
        return "not a column that is sent: the model does not read it"
    if column is not None:
        return f"expected {expected(data.columns[column])}, or null"
    match fault["type"]:
        case "extra_forbidden":
            return "a key that is not known; the columns of a row are those of GET /v1/model"
        case "too_long":
            return "too many rows; send them in several requests"
        case "too_short":
            return "no rows; expected one at least"
        case "missing":
            return 'expected {"rows": [{column: value, ...}, ...]}'
    return "expected an object of columns" if len(fault["loc"]) > 1 else 'expected {"rows": [...]}'


def _cell(column: Column) -> Any:
    """The type of one cell, null included."""
    if column.is_number:
        schema: dict[str, Any] = {"type": "integer" if column.kind.whole else "number"}
        check: Any = _whole if column.kind.whole else _number
    elif column.is_day:
        schema, check = {"type": "string", "format": "date"}, _day
    elif column.is_coded and codes_of(column):
        codes = [*codes_of(column), *column.missing]
        schema, check = {"enum": [*codes, *_spellings(codes)]}, _code(column)
    else:
        longest = LONGEST_TEXT if column.is_text else LONGEST_CODE
        schema, check = {"type": "string", "minLength": 1, "maxLength": longest}, _text(longest)
    return Annotated[
        float | str | None,
        BeforeValidator(lambda value: None if value is None else check(value)),
        WithJsonSchema({"anyOf": [schema, {"type": "null"}]}),
    ]


def _number(value: Any) -> float:
    """JSON numbers only: text would leave open what a comma means."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("not a finite number") from None
    if number - number != 0:
        raise ValueError("not a finite number")
    return number


def _whole(value: Any) -> float:
    number = _number(value)
    if number != round(number):
        raise ValueError("not a whole number")
    return number


def _day(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value, re.ASCII):
        raise ValueError("not a date")
    return date.fromisoformat(value).isoformat()


def _spellings(codes: list[str]) -> list[int]:
    """Codes that may also be sent as numbers."""
    return [int(code) for code in codes if re.fullmatch(r"0|-?[1-9]\d{0,8}", code)]


def _code(column: Column) -> Any:
    """A code as text or as a number, as `code_reader` reads it; or one that means missing."""
    read, codes = code_reader(column), codes_of(column)
    missing = {spelling(code): code for code in column.missing}

    def check(value: Any) -> str:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        came = str(value).strip() if isinstance(value, str | int) else ""
        code = missing.get(spelling(came), read(came))
        if code not in codes and code not in column.missing:
            raise ValueError("not one of the codes")
        return code

    return check


def _text(longest: int) -> Any:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= longest:
            raise ValueError("not a text of this length")
        if "\x00" in value or any("\ud800" <= sign <= "\udfff" for sign in value):
            raise ValueError("not a text")
        return value

    return check
