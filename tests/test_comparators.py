"""Every comparator's record is whole, and what is allowed, made, said and drawn is what the records
say."""

import re
import typing
from itertools import combinations

import pytest
from matplotlib.figure import Figure

from cardiotune.comparators import COMPARATORS, PUBLISHED_SCORES, ComparatorName, Look, having, main_model
from cardiotune.evaluation import schema
from cardiotune.models.risk_scores import PUBLISHED
from cardiotune.models.risks import MAKERS
from cardiotune.report import done
from cardiotune.report.drawing import UNKNOWN_LOOK, look
from cardiotune.report.learning_curve import COMPARED
from cardiotune.report.wording import in_order, model_words
from cardiotune.settings import Config

EVERY = pytest.mark.parametrize("name", COMPARATORS)


@EVERY
def test_every_comparator_has_its_words_and_its_description(name: str) -> None:
    record = COMPARATORS[name]
    assert record.name == name and re.fullmatch("[a-z][a-z0-9_]*", name)
    assert model_words(name) == record.words and record.words[0].isupper()
    assert done.description(name) == record.description and not record.description.endswith(".")
    assert record.shown > 0 and record.main > 0
    assert sum(one.words == record.words for one in COMPARATORS.values()) == 1
    assert sum(one.description == record.description for one in COMPARATORS.values()) == 1


@EVERY
def test_every_comparator_can_be_drawn(name: str) -> None:
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], **look(name))  # raises for what matplotlib does not know
    axes.errorbar([0], [1], yerr=[1], **look(name))


def test_no_two_comparators_look_alike_without_colour_or_with() -> None:
    looks = [record.look for record in COMPARATORS.values()] + [UNKNOWN_LOOK]

    def drawn(one: Look) -> tuple[object, ...]:
        return one.dash, one.marker

    for first, second in combinations(looks, 2):
        assert first.color != second.color
        assert first.marker != second.marker
        assert drawn(first) != drawn(second)


@EVERY
def test_what_a_record_says_fits_together(name: str) -> None:
    record = COMPARATORS[name]
    assert (record.answer is not None) == bool(record.language)
    assert record.language or not (record.decoder or record.examples)
    assert not (record.columns and record.language), "a language model reads the text alone"
    assert bool(record.fills_missing or record.takes_missing) == (
        record.columns not in ("", "formula") and not record.views
    )
    assert bool(record.like) == record.held_out
    assert not record.like or COMPARATORS[record.like].columns == "all" or record.like in record.needs
    assert record.columns == "formula" or not record.regional
    before = list(COMPARATORS)[: list(COMPARATORS).index(name)]
    assert set(record.needs) <= set(before), "what it stands on is made before it"
    assert not (record.rival and (record.language or record.needs)), "the verdict is about the language model"
    assert record.in_curves <= (not record.on_request)


def test_each_has_one_function_that_makes_its_risks() -> None:
    assert set(MAKERS) == set(COMPARATORS)
    assert set(PUBLISHED) == set(PUBLISHED_SCORES)


def test_the_settings_allow_the_records_and_no_other_name() -> None:
    names = typing.get_args(ComparatorName)
    assert names == tuple(COMPARATORS)
    allowed = typing.get_args(typing.get_args(Config.model_fields["models"].annotation)[0])[0]
    assert typing.get_args(allowed) == names


def test_the_schema_of_metrics_names_the_rivals() -> None:
    defs = schema.renewed(schema.read())["$defs"]
    assert defs["verdict"]["properties"]["against"]["enum"] == list(having(lambda one: one.rival))


def test_orders_are_those_of_the_records() -> None:
    """Pinned, for which of two models a report is about is not to change by an edit elsewhere."""
    shown = "tuned zero_shot few_shot free_generation stacked logistic_regression lightgbm"
    held_out = " logistic_regression_by_name logistic_regression_matched logistic_regression_local"
    held_out += held_out.replace("logistic_regression", "lightgbm")
    shown += f"{held_out} spline_regression"
    shown += " age_sex_logistic_regression tfidf embedding score2 pooled_cohort framingham framingham_bmi prevalence"
    assert in_order(reversed(shown.split())) == shown.split()
    assert in_order(("b", "prevalence", "a", "tuned")) == ["tuned", "prevalence", "b", "a"]
    main = "tuned stacked logistic_regression lightgbm spline_regression"
    main += f"{held_out} tfidf embedding few_shot zero_shot score2"
    main += " pooled_cohort framingham framingham_bmi age_sex_logistic_regression free_generation prevalence"
    left, found = set(main.split()), []
    while left:
        found.append(main_model(left))
        left.remove(found[-1])
    assert found == main.split()


def test_a_learning_curve_has_some_of_those_that_run_by_themselves() -> None:
    assert set(COMPARED) >= {"logistic_regression", "lightgbm", "zero_shot", "few_shot", "tuned"}
    assert not set(COMPARED) & set(having(lambda one: one.on_request))
