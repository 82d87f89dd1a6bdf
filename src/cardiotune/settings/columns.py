"""The data dictionary: what a column is, and what its cells may hold."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from cardiotune.settings.column_types import COLUMN_ROLES, COLUMN_TYPES, ColumnType, RoleName, TypeName, types_of
from cardiotune.settings.strict import Settings

_CODED = types_of("code")
_NUMBERS = types_of("number")
DERIVE_INPUTS = {"bmi": 2, "age_years_from_days": 1, "bp_category": 2, "pulse_pressure": 2}
"""How many input columns a derived column takes."""
Meaning = Literal[
    "age",
    "sex",
    "ethnicity",
    "smoking",
    "diabetes",
    "blood_pressure_medication",
    "systolic_pressure",
    "diastolic_pressure",
    "total_cholesterol",
    "hdl_cholesterol",
    "body_mass_index",
    "none",
]
MEANINGS: dict[Meaning, tuple[str, ...]] = {
    "age": (*_NUMBERS, "ordinal", "categorical"),  # bands of age, where a table gives no more
    **dict.fromkeys(("sex", "ethnicity", "smoking", "diabetes", "blood_pressure_medication"), _CODED),
    **dict.fromkeys(("systolic_pressure", "diastolic_pressure"), _NUMBERS),
    **dict.fromkeys(("total_cholesterol", "hdl_cholesterol", "body_mass_index"), _NUMBERS),
}
"""What the program looks for in a table, and the types that a column of this meaning may have."""
LEARNED = ("decimal", "day_first", "meaning")
"""Settings of a column that a run learns from its table, and writes into its own config, where none
are given."""


def spelling(code: str) -> str:
    """A code without what programs and people write differently: case, blanks, invisible signs, a
    `.0` behind a number.

    `Yes`, ` YES` and `yes` are one, so are `1` and `1.0`; `01` is another code than `1`.
    """
    visible = (sign for sign in unicodedata.normalize("NFKC", code) if unicodedata.category(sign) != "Cf")
    plain = " ".join("".join(visible).split()).casefold()
    return re.sub(r"^([+-]?\d+)(?:\.0+|,00?)$", r"\1", plain)


def _either(names: Sequence[str]) -> str:
    """`a, b or c`."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


class Derive(Settings):
    """A column computed from others by a named function of `cardiotune.data.schema.DERIVED`."""

    function: Literal["bmi", "age_years_from_days", "bp_category", "pulse_pressure"]
    """`bmi` (kg/m2) of height (cm) and weight (kg); `age_years_from_days`: completed years, of
    days; `bp_category` and `pulse_pressure` (mmHg) of systolic and diastolic pressure (mmHg)."""
    inputs: list[str]
    """Names of the input columns, in the order that the function documents."""
    bp_rule: Literal["acc_aha_2017", "stage_1_first"] = "acc_aha_2017"
    """Only for bp_category. `stage_1_first` is the order of the published Kaggle table; it is not
    the guideline."""


class Column(Settings):
    """One column of the data dictionary."""

    role: RoleName = "feature"
    """`text` is the patient's text, ready made: nothing is serialized, and features serve the
    classical models only."""
    type: TypeName = "numeric"
    """What its cells hold. Default: numeric for a feature, binary for the target, date for a time,
    text for id, group, site, split and text."""
    unit: str | None = None
    """Written after the value in the text, e.g. `mmHg`."""
    range: tuple[float, float] | None = None
    """Numbers only. Plausible lowest and highest value, both included; others go the way of
    `data.out_of_range`."""
    codes: dict[str, str] | None = None
    """What each stored code means, in words: `{1: woman, 2: man}`. A value that is not listed is
    out of range.

    Case, blanks and a trailing `.0` make no other code, unless two of the codes differ in nothing
    else. A binary column of 0 and 1, or of yes and no, may be written in either way, or as true and
    false.
    """
    missing: list[str] = []
    """Codes that mean "missing", beside the empty cell, `NA`, `N/A`, `NaN`, `null`, `?` and `.`
    (unless `codes` lists it)."""
    decimal: Literal[".", ","] | None = None
    """Numbers only. The mark before decimals; the other one parts thousands. Default: learned from
    all cells of the table."""
    day_first: bool | None = None
    """Dates only. Whether 05/12/2019 is in December or, with `false`, in May. Default: learned from
    all cells of the table."""
    phrase: str | None = None
    """Name in the text (default: the column's name in words); with `{value}` in it, the whole
    sentence."""
    decimals: int | None = Field(None, ge=0, le=6)
    """Decimals in the text. Default: six significant digits, trailing zeros cut."""
    positive: list[str] | None = None
    """Target only: the codes that count as an event. Default: `1`. With more than one other code in
    the table, `codes` must name all of them: what nobody has named is never taken for "no
    event"."""
    derive: Derive | None = None
    """Computed from other columns, and not looked for in the table."""
    meaning: Meaning | None = None
    """What the column is, where something looks for it: subgroups, the comparator on age and sex,
    published scores. Default: by its name, unit, range and codes (`cardiotune.data.roles`), once a
    run, and said; `none` is nothing of these."""
    same_as: str | None = None
    """Name of this quantity in a pool of tables, where each dictionary calls it otherwise. Default:
    the column's own name."""
    same_codes: dict[str, str] | None = None
    """Own code -> code of the same meaning in the first table that has it, e.g. `{F: 0, M: 1}`.
    Default: the code of the same words, or else the one spelled alike."""
    aliases: list[str] = []
    """Other ways to call it in a text; training texts that vary are worded in these too."""
    code_aliases: dict[str, list[str]] = {}
    """Code -> other words for it, as `aliases`."""
    reference: tuple[float, float] | None = None
    """Numbers only. Lowest and highest value of the reference range, both included, in `unit`; with
    `serialize.interpret` the text says whether a value is low, normal or high."""
    section: str | None = None
    """Part of the text that it belongs to, e.g. `bloods`; `serialize.leave_out` can leave such a
    part out."""
    field: int | None = Field(None, ge=1)
    """Only for `data.format: ukb`: the UK Biobank field, as it was at baseline. Columns without one
    have a name that the program knows how to make, such as `sbp` or `egfr`: see `docs/ukb.md`."""

    @model_validator(mode="before")
    @classmethod
    def _type_of_role(cls, entry: Any) -> Any:
        """With the type of its role, and the unit of its type, where the column names none."""
        if not isinstance(entry, dict):
            return entry
        role, kind = (str(entry.get(key)) for key in ("role", "type"))
        if "type" not in entry and role in COLUMN_ROLES:
            entry = {**entry, "type": COLUMN_ROLES[role].type}
        elif kind in COLUMN_TYPES and COLUMN_TYPES[kind].unit:
            entry = {"unit": COLUMN_TYPES[kind].unit, **entry}
        return entry

    @property
    def kind(self) -> ColumnType:
        """The record of its type."""
        return COLUMN_TYPES[self.type]

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers, Float64."""
        return self.kind.values == "number"

    @property
    def is_coded(self) -> bool:
        """Whether its values are codes, String."""
        return self.kind.values == "code"

    @property
    def is_day(self) -> bool:
        """Whether its values are days, Date."""
        return self.kind.values == "day"

    @property
    def is_text(self) -> bool:
        """Whether its values are free text, String."""
        return self.kind.values == "text"

    @property
    def is_input(self) -> bool:
        """Whether a risk may be read from it: a feature or the ready text."""
        return COLUMN_ROLES[self.role].is_input

    def problems(self) -> list[str]:
        """What does not fit together, each beginning with the key."""
        found = []
        if self.codes and not self.is_coded:
            found.append(f"codes: need type {_either(_CODED)}, not {self.type}")
        if self.range and not self.is_number:
            found.append(f"range: needs type {_either(_NUMBERS)}, not {self.type}")
        if self.range and self.range[0] > self.range[1]:
            found.append("range: the first number must be the smaller one")
        if self.reference and not self.is_number:
            found.append(f"reference: needs type {_either(_NUMBERS)}, not {self.type}")
        if self.reference and self.reference[0] > self.reference[1]:
            found.append("reference: the first number must be the smaller one")
        for key in ("same_codes", "code_aliases"):
            if getattr(self, key) and not self.is_coded:
                found.append(f"{key}: need type {_either(_CODED)}, not {self.type}")
        if self.kind.yes_or_no and self.codes and len(self.codes) != 2:
            found.append(f"codes: a {self.type} column has two, found {len(self.codes)}")
        if self.derive and len(self.derive.inputs) != DERIVE_INPUTS[self.derive.function]:
            count = DERIVE_INPUTS[self.derive.function]
            found.append(f"derive.inputs: {self.derive.function} takes {count}, found {len(self.derive.inputs)}")
        if self.decimal and not self.is_number:
            found.append(f"decimal: needs type {_either(_NUMBERS)}, not {self.type}")
        if self.day_first is not None and not self.is_day:
            found.append(f"day_first: needs type {_either(types_of('day'))}, not {self.type}")
        if self.role == "text" and not self.is_text:
            found.append(f"type: ready text is of type {_either(types_of('text'))}, not {self.type}")
        if self.role == "time" and not (self.is_number or self.is_day):
            found.append(f"type: a time is {_either(types_of('day', 'number'))}, not {self.type}")
        return found + self._meaning_problems() + self._target_problems()

    def _meaning_problems(self) -> list[str]:
        if self.meaning is None or self.meaning == "none":
            return []
        if self.role != "feature":
            return [f"meaning: only a feature has one, found role {self.role}"]
        fitting = MEANINGS[self.meaning]
        if self.type not in fitting:
            return [f"meaning: {self.meaning} needs type {' or '.join(fitting)}, not {self.type}"]
        return []

    def _target_problems(self) -> list[str]:
        if self.role != "target":
            return ["positive: only the target column has it"] if self.positive else []
        if not self.codes:
            return []
        if not self.positive and set(self.codes) != {"0", "1"}:
            return ["positive: missing; say which of the codes count as an event"]
        known = {spelling(code) for code in self.codes}
        strange = sum(spelling(code) not in known for code in self.positive or [])
        return [f"positive: {strange} of its values are not in codes"] if strange else []
