"""Who a risk is judged on: sex, age bands, site, any named column, and pairs of columns.

Group labels come from the data dictionary's words and from bands of numbers; they live in memory
only, and of each group only counts and metrics are written.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import polars as pl

from cardiotune.data import roles, schema
from cardiotune.data.cohort import ROW_ID
from cardiotune.errors import ConfigError
from cardiotune.settings import DataConfig, suggest

Labels = dict[str, str | None]
"""row_id -> label of its group; None where the value is missing."""


def subgroups(
    frame: pl.DataFrame, data: DataConfig, named: Sequence[str] | None, age_bands: Sequence[float]
) -> dict[str, Labels]:
    """Title -> labels of the rows in `frame`.

    `named`: columns, or pairs such as `sex x age`; None takes sex, age and site where the
    dictionary has them, as `cardiotune.data.roles` finds them. Numbers are cut into bands: age at
    `age_bands` (years), others at their quartiles. Raises ConfigError for unknown names.
    """
    ids = frame[ROW_ID].to_list()
    meant = _meant(frame, data)
    found: dict[str, Labels] = {}
    for names in _asked(frame, data, named):
        labels = [_labels(frame[name], name, data, meant, age_bands) for name in names]
        joined = [None if None in group else ", ".join(map(str, group)) for group in zip(*labels, strict=True)]
        title = " x ".join(schema.label(name, data.columns[name]) for name in names)
        found[title] = dict(zip(ids, joined, strict=True))
    return found


def columns_of(frame: pl.DataFrame, data: DataConfig, named: Sequence[str] | None) -> list[str]:
    """The columns that `subgroups` takes apart, each once. Raises ConfigError for unknown names."""
    return list(dict.fromkeys(name for names in _asked(frame, data, named) for name in names))


def _asked(frame: pl.DataFrame, data: DataConfig, named: Sequence[str] | None) -> list[list[str]]:
    """Single columns and pairs."""
    present = set(frame.columns)
    columns = [name for name in data.columns if name in present]
    meant = _meant(frame, data)
    site = [name for name in columns if data.columns[name].role == "site"]
    usual = [meant[meaning] for meaning in ("sex", "age") if meaning in meant] + site
    wanted = usual if named is None else list(named)
    parted = [[part.strip() for part in re.split(r"\s+x\s+", name)] for name in wanted]
    asked = [[part if part in columns else meant.get(part, part) for part in pair] for pair in parted]
    strange = sorted({part for pair in asked for part in pair} - set(columns))
    if strange:
        known = ", ".join(suggest(name, columns) for name in strange)
        raise ConfigError(f"evaluation.subgroups: {', '.join(strange)}: no such column ({known})")
    return asked


def _meant(frame: pl.DataFrame, data: DataConfig) -> dict[str, str]:
    return {meaning: name for meaning, name in roles.learn(data.columns).columns.items() if name in frame.columns}


def _labels(
    values: pl.Series, name: str, data: DataConfig, meant: Mapping[str, str], age_bands: Sequence[float]
) -> list[str | None]:
    column = data.columns[name]
    if not column.is_number:
        words = roles.sex_words(name, column, values.drop_nulls().unique()) if name == meant.get("sex") else {}
        return [
            None if value is None else words.get(value) or schema.words(value, column) for value in values.to_list()
        ]
    aged = name == meant.get("age")
    values = roles.scaled("age", values, name, column) if aged else values
    edges = list(age_bands) if aged else _quartiles(values)
    names = [f"under {edges[0]:g}", *(f"{a:g} to under {b:g}" for a, b in pairwise(edges))]
    names.append(f"{edges[-1]:g} and above")
    return [None if value is None else names[int(np.searchsorted(edges, value, side="right"))] for value in values]


def _quartiles(values: pl.Series) -> list[float]:
    present = values.drop_nulls().to_numpy()
    return sorted({float(f"{edge:.3g}") for edge in np.quantile(present, [0.25, 0.5, 0.75])} if len(present) else {0.0})
