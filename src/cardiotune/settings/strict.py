"""What every section of settings shares: strict about keys, silent about values in errors."""

import difflib
import typing
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

Share = Annotated[float, Field(gt=0, lt=1)]


class Settings(BaseModel):
    """Base of every settings class: frozen, strict about keys, silent about values in errors."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic would take true for 1."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (kind, *typing.get_args(kind)):
            raise PydanticCustomError("truth", "true and false are not accepted here; for a text put it in quotes")
        return value


def raise_all(problems: list[str]) -> None:
    """One error for all problems of a section; `_explain` takes them apart again."""
    if problems:
        raise ValueError("\n".join(problems))


def suggest(name: str, names: typing.Iterable[str]) -> str:
    """` Did you mean X?` for the nearest of `names`, else the list of them."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else "expected one of " + ", ".join(names)
