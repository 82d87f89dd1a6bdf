"""The fitted regressions of a run, term by term, so that a reader can compute a risk (TRIPOD+AI,
item 22)."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cardiotune.data.schema import codes_of
from cardiotune.data.small_counts import is_small
from cardiotune.models.regression import Regression, Term
from cardiotune.models.saved import read_model, saved_models
from cardiotune.report.record import Record
from cardiotune.report.tables import WrittenCell, WrittenRow, WrittenTable
from cardiotune.report.wording import listed, model_words
from cardiotune.settings import Column

MOST_TERMS = 200
WITHHELD = "few patients"
"""In the place of a coefficient that so few patients stand behind that it tells of them."""


@dataclass(frozen=True, slots=True)
class Coefficients:
    """One regression, written."""

    title: str
    words: str
    """How a risk is made of them, and what is not in the table."""
    table: WrittenTable


def tables(record: Record, models: Iterable[str] | None = None) -> list[Coefficients]:
    """Of `models`, by default of all, those that are saved and straight: a curve is no list of
    coefficients for a reader, and stands in the run folder alone."""
    own = record.models if models is None else models
    found = []
    for name in own:
        model = read_model(record.run, name) if name in saved_models(record.run) else None
        if isinstance(model, Regression) and not any(model.design.knots):
            found.append(_written(record, name, model))
    return found


def _written(record: Record, name: str, model: Regression) -> Coefficients:
    columns = record.config.data.columns
    terms = list(zip(model.design.terms, model.coefficients, model.rows, strict=True))
    rows = [_row("intercept", model.intercept, odds=False)]
    for term, value, people in terms[:MOST_TERMS]:
        words = _term(term, columns[term.column], model)
        few = term.kind in ("code", "missing") and is_small(people)
        rows.append(WrittenRow(words, [WrittenCell(WITHHELD)] * 2) if few else _row(words, value))
    told = [
        "The log-odds of the outcome are the intercept and, of each term, its coefficient times its value (1 or 0 where it is "
        f"no number); the risk is 1 / (1 + exp(-log-odds)). L2 penalty with C = {model.penalty:g}"
    ]
    if medians := _medians(model):
        told.append(f"A missing number counts as the median of the training part: {medians}")
    if len(terms) > MOST_TERMS:
        told.append(f"{len(terms) - MOST_TERMS} further terms are in the run folder")
    if model.words:
        told.append(f"{len(model.words)} words of free text are not listed: they stand in the run folder")
    if any(row.cells[0].value == WITHHELD for row in rows):
        told.append("What few patients have is withheld")
    text = ". ".join(told) + f". In full: classical/{name}.json."
    return Coefficients(model_words(name), text, WrittenTable(["Coefficient", "Odds ratio"], rows))


def _row(words: str, value: float, odds: bool = True) -> WrittenRow:
    ratio = f"{np.exp(value):.3g}" if odds and abs(value) < 700 else ""
    return WrittenRow(words, [WrittenCell(f"{value:.5g}"), WrittenCell(ratio)])


def _term(term: Term, column: Column, model: Regression) -> str:
    """`age, per year`; `ward: surgery`; `sbp not recorded`."""
    if term.kind == "missing":
        return f"{term.column}{'' if term.part in ('value', 'rank', 'category') else f', {term.part},'} not recorded"
    if term.kind == "code":
        of = "" if term.part == "category" else f", {term.part}"
        known = codes_of(column).get(term.code, term.code) if term.part == "category" else term.code
        return f"{term.column}{of}: {known or 'other'}"
    if term.part == "day":
        return f"{term.column}, per day since 1970-01-01"
    if term.part == "rank":
        field = next(one for one in model.design.columns.fields if one.column == term.column)
        codes = [codes_of(column).get(code, code) for code in field.codes]
        return f"{term.column}, per step from 0: {', '.join(codes)}"
    return f"{term.column}, per {column.unit or 'unit'}"


def _medians(model: Regression) -> str:
    fields = zip(model.design.columns.fields, model.design.fills, strict=False)
    return listed([f"{field.column} {fill:.5g}" for field, fill in fields])
