"""A patient's row -> text.

A prompt has three pieces: the instruction (the same for all rows), the patient's text, and the
question (the same for all rows). They stay apart until they are tokens, so that what rows share is
known and not guessed.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import jinja2
import jinja2.meta
import numpy as np
import polars as pl
from jinja2.sandbox import SandboxedEnvironment

from cardiotune.data import schema
from cardiotune.errors import ConfigError
from cardiotune.settings import Column, DataConfig, SerializeConfig, TaskConfig, suggest

NOT_RECORDED = "not recorded"
PATIENT = "Patient: "
"""Comes before a patient's text."""


@dataclass(frozen=True)
class Pieces:
    """The parts of a prompt that all rows share."""

    instruction: str
    question: str
    ready: bool = False
    """The patients' texts come ready made: an empty piece adds nothing to them."""

    @property
    def alone(self) -> bool:
        """Whether the patient's text is the whole prompt, to the letter."""
        return not (self.instruction or self.question)

    @property
    def _before(self) -> tuple[str, str]:
        """What stands before the solved examples, and what before each patient's text."""
        bare = (self.ready or self.alone) and not self.instruction
        return ("", "") if bare else (f"{self.instruction}\n\n", PATIENT)

    @property
    def _after(self) -> str:
        """What stands after a patient's text."""
        return "" if (self.ready or self.alone) and not self.question else f"\n{self.question}"

    def around(self, solved: str = "") -> tuple[str, str]:
        """What stands before a patient's text, behind the solved examples, and after it."""
        start, mark = self._before
        return start + solved + mark, self._after

    def solved(self, examples: Iterable[tuple[str, str]]) -> str:
        """Pairs of a patient's text and answer as they stand before the patient who is asked
        about."""
        mark, after = self._before[1], self._after
        return "".join(f"{mark}{text}{after}{' ' if after else ''}{answer}\n\n" for text, answer in examples)

    def whole(self, text: str) -> str:
        """A prompt in words, as the model reads it but for the chat template."""
        before, after = self.around()
        return before + text + after


def shared_pieces(task: TaskConfig, ready: bool = False) -> Pieces:
    """Instruction and question in words; `ready` where the patients' texts come ready made."""
    return Pieces(task.fill(task.instruction), task.fill(task.question), ready)


def column_order(frame: pl.DataFrame, data: DataConfig, serialize: SerializeConfig) -> list[str]:
    """Feature columns in the order of the text.

    Learned on the training rows and kept in the run: a row alone must read as it did in training.
    """
    names = text_columns(data, serialize)
    if serialize.order == "dictionary" or serialize.style == "template":
        return names
    if serialize.order == "by_cardinality":
        return sorted(names, key=lambda name: frame[name].n_unique())
    return sorted(names, key=lambda name: _entropy_a_character(frame[name], name, data, serialize))


def _entropy_a_character(values: pl.Series, name: str, data: DataConfig, serialize: SerializeConfig) -> float:
    """Two rows share a column with a chance that falls with its entropy, and gain its length in
    text.

    Of two neighbours in the text, the one with less entropy a character should come first: sharing
    is lost later.
    """
    counts = values.value_counts()["count"].to_numpy()
    shares = counts / counts.sum()
    text = _column_pieces(values, name, data, serialize)
    length = cast(float, text.str.len_chars().mean() or 1.0)
    return float(-(shares * np.log(shares)).sum()) / length


def text_columns(data: DataConfig, serialize: SerializeConfig) -> list[str]:
    """Feature columns that the text tells: those of sections that are not left out."""
    return [name for name in data.features if data.columns[name].section not in serialize.leave_out]


def serialize_rows(
    frame: pl.DataFrame, order: Sequence[str], data: DataConfig, serialize: SerializeConfig
) -> list[str]:
    """The patient's text of every row, ready or made. Equal values give equal text, whatever the
    other rows are."""
    ready = data.name_of("text")
    if ready:
        return frame[ready].fill_null(NOT_RECORDED).to_list()
    if serialize.style == "template":
        return _from_template(frame, order, data, serialize)
    pieces = [_column_pieces(frame[name], name, data, serialize) for name in order]
    joiner = {"sentence": " ", "list": "\n", "compact": ", "}[serialize.style]
    return pl.select(pl.concat_str(pieces, separator=joiner, ignore_nulls=True)).to_series().to_list()


def _column_pieces(values: pl.Series, name: str, data: DataConfig, serialize: SerializeConfig) -> pl.Series:
    """One column's share of the text."""
    column, style = data.columns[name], serialize.style
    label = schema.label(name, column)
    missing = _piece(label, NOT_RECORDED, style) if serialize.missing == "say" else None
    return _write(values, lambda value: _piece(label, _in_words(value, column, serialize), style), missing)


def _in_words(value: object, column: Column, serialize: SerializeConfig) -> str:
    """A value as it is told. The word for where a number stands comes before it, for rows share it
    that do not share the number."""
    return schema.interpreted(value, column) if serialize.interpret else schema.words(value, column)


def _write(values: pl.Series, text_of: Callable[[object], str], missing: str | None) -> pl.Series:
    """Text of every cell, made once for each distinct value and not once for each row."""
    distinct = values.drop_nulls().unique()
    if distinct.is_empty():
        return pl.Series(values.name, [missing] * len(values), pl.String)
    texts = pl.Series([text_of(value) for value in distinct], dtype=pl.String)
    return values.replace_strict(distinct, texts, default=missing, return_dtype=pl.String)


def _piece(label: str, words: str, style: str) -> str:
    if style == "sentence":
        return label.replace("{value}", words) if "{value}" in label else f"The {label} is {words}."
    label = re.sub(r"\s*\{value\}[.]?\s*", " ", label).strip()
    return f"- {label}: {words}" if style == "list" else f"{label} {words}"


def _from_template(
    frame: pl.DataFrame, order: Sequence[str], data: DataConfig, serialize: SerializeConfig
) -> list[str]:
    """The user's Jinja2 template, sandboxed. Values are data: braces in a cell are never read as a
    template."""
    source = serialize.template or ""
    if serialize.template_file:
        file = Path(serialize.template_file)
        if not file.is_file():
            raise ConfigError(f"serialize.template_file: {file}: no such file")
        source = file.read_text("utf-8")
    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=False)
    try:
        template = environment.from_string(source)
        names = jinja2.meta.find_undeclared_variables(environment.parse(source)) - environment.globals.keys()
    except jinja2.exceptions.TemplateError as error:
        raise ConfigError(f"serialize.template: {error.message}") from None
    left_out = set(data.features) - set(text_columns(data, serialize))
    strange = [f"{name} ({suggest(name, order)})" for name in sorted(names - set(order) - left_out)]
    if strange:
        raise ConfigError(f"serialize.template: not feature columns: {'; '.join(strange)}")
    missing = NOT_RECORDED if serialize.missing == "say" else ""
    words = frame.select(
        _write(frame[name], partial(_in_words, column=data.columns[name], serialize=serialize), missing).alias(name)
        for name in order
    )
    try:
        return [template.render(row | dict.fromkeys(left_out, "")).strip() for row in words.iter_rows(named=True)]
    except (jinja2.exceptions.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        # The message may quote a cell.
        raise ConfigError(
            f"serialize.template: {type(error).__name__} while a row was written; values are text"
        ) from None
