"""The data dictionary: what a column is, and what its cells may hold."""

import re
import unicodedata
from typing import Any, Literal

from pydantic import Field, model_validator

from cardiotune.settings.strict import Settings

CODED = ("binary", "categorical", "ordinal")
NUMBERS = ("numeric", "integer")
DERIVE_INPUTS = {"bmi": 2, "age_years_from_days": 1, "bp_category": 2, "pulse_pressure": 2}
"""How many input columns a derived column takes."""
TYPE_OF_ROLE = {"time": "date", "target": "binary"} | dict.fromkeys(("id", "group", "site", "split", "text"), "text")
"""Type of a column that names a role but no type."""
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
    "age": (*NUMBERS, "ordinal", "categorical"),  # bands of age, where a table gives no more
    **dict.fromkeys(("sex", "ethnicity", "smoking", "diabetes", "blood_pressure_medication"), CODED),
    **dict.fromkeys(("systolic_pressure", "diastolic_pressure"), NUMBERS),
    **dict.fromkeys(("total_cholesterol", "hdl_cholesterol", "body_mass_index"), NUMBERS),
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


class Derive(Settings):
    """A column computed from others by a named function of `cardiotune.data.schema.DERIVED`."""

    function: Literal["bmi", "age_years_from_days", "bp_category", "pulse_pressure"]
    inputs: list[str]
    """Names of the input columns, in the order that the function documents."""
    bp_rule: Literal["acc_aha_2017", "stage_1_first"] = "acc_aha_2017"
    """Only for bp_category. `stage_1_first` is the order of the published Kaggle table; it is not
    the guideline."""


class Column(Settings):
    """One column of the data dictionary."""

    role: Literal["id", "feature", "text", "target", "group", "site", "time", "split", "ignore"] = "feature"
    """`text` is the patient's text, ready made: nothing is serialized, and features serve the
    classical models only."""
    type: Literal["numeric", "integer", "binary", "categorical", "ordinal", "date", "text"] = "numeric"
    """Default: numeric for a feature, binary for the target, date for a time, text for id, group,
    site, split and text."""
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
    meaning: Meaning | None = None
    """What the column is, where something looks for it: subgroups, the comparator on age and sex,
    published scores. Default: by its name, unit, range and codes (`cardiotune.data.roles`), once a
    run, and said; `none` is nothing of these."""
    section: str | None = None
    """Part of the text that it belongs to, e.g. `bloods`; `serialize.leave_out` can leave such a
    part out."""
    field: int | None = Field(None, ge=1)
    """Only for `data.format: ukb`: the UK Biobank field, as it was at baseline. Columns without one
    have a name that the program knows how to make, such as `sbp` or `egfr`: see `docs/ukb.md`."""

    @model_validator(mode="before")
    @classmethod
    def _type_of_role(cls, entry: Any) -> Any:
        if isinstance(entry, dict) and "type" not in entry and entry.get("role") in TYPE_OF_ROLE:
            return {**entry, "type": TYPE_OF_ROLE[entry["role"]]}
        return entry

    def problems(self) -> list[str]:
        """What does not fit together, each beginning with the key."""
        coded, number = self.type in CODED, self.type in NUMBERS
        found = []
        if self.codes and not coded:
            found.append(f"codes: need type binary, categorical or ordinal, not {self.type}")
        if self.range and not number:
            found.append(f"range: needs type numeric or integer, not {self.type}")
        if self.range and self.range[0] > self.range[1]:
            found.append("range: the first number must be the smaller one")
        if self.type == "binary" and self.codes and len(self.codes) != 2:
            found.append(f"codes: a binary column has two, found {len(self.codes)}")
        if self.derive and len(self.derive.inputs) != DERIVE_INPUTS[self.derive.function]:
            count = DERIVE_INPUTS[self.derive.function]
            found.append(f"derive.inputs: {self.derive.function} takes {count}, found {len(self.derive.inputs)}")
        if self.decimal and not number:
            found.append(f"decimal: needs type numeric or integer, not {self.type}")
        if self.day_first is not None and self.type != "date":
            found.append(f"day_first: needs type date, not {self.type}")
        if self.role == "text" and self.type != "text":
            found.append(f"type: ready text is of type text, not {self.type}")
        if self.role == "time" and not (number or self.type == "date"):
            found.append(f"type: a time is date, integer or numeric, not {self.type}")
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
