"""A patient's row -> text.

A prompt has three pieces: the instruction (the same for all rows), the patient's text, and the question (the same for
all rows). They stay apart until they are tokens, so that what rows share is known and not guessed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import polars as pl
from jinja2.sandbox import SandboxedEnvironment

from cardiotune.config import DataConfig, SerializeConfig, TaskConfig
from cardiotune.data import schema
from cardiotune.errors import ConfigError

NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Pieces:
    """The parts of a prompt that all rows share."""

    instruction: str
    question: str


def shared_pieces(task: TaskConfig) -> Pieces:
    """Instruction and question in words."""
    return Pieces(task.fill(task.instruction), task.fill(task.question))


def column_order(frame: pl.DataFrame, data: DataConfig, serialize: SerializeConfig) -> list[str]:
    """Feature columns in the order of the text.

    Learned on the training rows and kept in the run: a row alone must read as it did in training.
    """
    if serialize.order == "dictionary":
        return data.features
    return sorted(data.features, key=lambda name: (frame[name].n_unique(), data.features.index(name)))


def serialize_rows(
    frame: pl.DataFrame, order: Sequence[str], data: DataConfig, serialize: SerializeConfig
) -> list[str]:
    """The patient's text of every row. Equal values give equal text, whatever the other rows are."""
    if serialize.style == "template":
        return _from_template(frame, order, data, serialize)
    say = serialize.missing == "say"
    pieces = [_column_pieces(frame[name], name, data, serialize.style, say) for name in order]
    joiner = {"sentence": " ", "list": "\n", "compact": ", "}[serialize.style]
    return pl.select(pl.concat_str(pieces, separator=joiner, ignore_nulls=True)).to_series().to_list()


def _column_pieces(values: pl.Series, name: str, data: DataConfig, style: str, say_missing: bool) -> pl.Series:
    """One column's share of the text. Words are made once for each distinct value, not once for each row."""
    label = schema.label(name, data.columns[name])
    distinct = values.drop_nulls().unique()
    pieces = [_piece(label, schema.words(value, data.columns[name]), style) for value in distinct]
    missing = _piece(label, NOT_RECORDED, style) if say_missing else None
    if not pieces:
        return pl.Series(name, [missing] * len(values), pl.String)
    return values.replace_strict(distinct, pl.Series(pieces), default=missing, return_dtype=pl.String)


def _piece(label: str, words: str, style: str) -> str:
    if style == "sentence":
        return label.replace("{value}", words) if "{value}" in label else f"The {label} is {words}."
    label = re.sub(r"\s*\{value\}[.]?\s*", " ", label).strip()
    return f"- {label}: {words}" if style == "list" else f"{label} {words}"


def _from_template(
    frame: pl.DataFrame, order: Sequence[str], data: DataConfig, serialize: SerializeConfig
) -> list[str]:
    """The user's Jinja2 template, sandboxed. Values are data: braces in a cell are never read as a template."""
    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=False)
    source = serialize.template
    if serialize.template_file:
        file = Path(serialize.template_file)
        if not file.is_file():
            raise ConfigError(f"serialize.template_file: {file}: no such file")
        source = file.read_text("utf-8")
    words = frame.select(order).with_columns(
        values.replace_strict(
            values.drop_nulls().unique(),
            pl.Series(
                [schema.words(v, data.columns[values.name]) for v in values.drop_nulls().unique()],
                dtype=pl.String,
            ),
            default=NOT_RECORDED if serialize.missing == "say" else "",
            return_dtype=pl.String,
        )
        for values in frame.select(order)
        if values.drop_nulls().len()
    )
    try:
        template = environment.from_string(source or "")
        return [template.render(row).strip() for row in words.iter_rows(named=True)]
    except jinja2.exceptions.UndefinedError as error:
        raise ConfigError(f"serialize.template: {error.message}; columns are {', '.join(order)}") from None
    except jinja2.exceptions.TemplateError as error:
        raise ConfigError(f"serialize.template: {type(error).__name__}: {error.message}") from None
