"""A row to text: pinned exactly, and the same alone as within its table."""

import itertools
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardiotune.config import load_config, load_dataset
from cardiotune.data import schema
from cardiotune.data.cohort import read_rows
from cardiotune.data.prepare import read_prepared
from cardiotune.data.serialize import column_order, serialize_rows, shared_pieces
from cardiotune.errors import ConfigError
from cardiotune.settings import DataConfig, SerializeConfig, TaskConfig
from conftest import TOY_COLUMNS, build_toy_table, toy_config

COLUMNS = {
    "age_years": {"type": "integer", "unit": "years", "phrase": "age"},
    "sex": {"type": "binary", "codes": {"0": "woman", "1": "man"}},
    "chol": {"unit": "mmol/L", "decimals": 1, "phrase": "The cholesterol was {value} at the visit."},
    "seen": {"type": "date", "phrase": "first seen"},
    "chest_pain": {"type": "categorical"},
    "note": {"type": "text"},
    "y": {"role": "target"},
}
ROWS = pl.DataFrame(
    {
        "age_years": [61.0, None],
        "sex": ["1", None],
        "chol": [5.25, None],
        "seen": [date(2020, 1, 31), None],
        "chest_pain": ["typical angina", None],
        "note": ["{{ 7*7 }} {value}", None],
    }
)
DATA = DataConfig.model_validate({"path": "t.csv", "columns": COLUMNS})


def text(rows: pl.DataFrame = ROWS, **settings: Any) -> list[str]:
    return serialize_rows(rows, DATA.features, DATA, SerializeConfig.model_validate(settings))


def test_sentence() -> None:
    assert text(style="sentence") == [
        "The age is 61 years. The sex is man. The cholesterol was 5.2 mmol/L at the visit. The first seen is 2020-01-31. "
        "The chest pain is typical angina. The note is {{ 7*7 }} {value}.",
        "The age is not recorded. The sex is not recorded. The cholesterol was not recorded at the visit. "
        "The first seen is not recorded. The chest pain is not recorded. The note is not recorded.",
    ]


def test_list() -> None:
    assert text(style="list")[0] == (
        "- age: 61 years\n- sex: man\n- The cholesterol was at the visit.: 5.2 mmol/L\n- first seen: 2020-01-31\n"
        "- chest pain: typical angina\n- note: {{ 7*7 }} {value}"
    )


def test_compact() -> None:
    assert text(style="compact") == [
        "age 61 years, sex man, The cholesterol was at the visit. 5.2 mmol/L, first seen 2020-01-31, "
        "chest pain typical angina, note {{ 7*7 }} {value}",
        "age not recorded, sex not recorded, The cholesterol was at the visit. not recorded, first seen not recorded, "
        "chest pain not recorded, note not recorded",
    ]


@pytest.mark.parametrize("style", ["sentence", "list", "compact"])
def test_missing_values_can_be_left_out(style: str) -> None:
    first, second = text(style=style, missing="omit")
    assert first == text(style=style)[0] and second == ""


def test_template() -> None:
    source = "{% if sex == 'man' %}He{% else %}They{% endif %}: {{ age_years }}, {{ note }}."
    assert text(style="template", template=source) == [
        "He: 61 years, {{ 7*7 }} {value}.",
        "They: not recorded, not recorded.",
    ]
    assert text(style="template", template=source, missing="omit")[1] == "They: , ."


def test_template_file(tmp_path: Path) -> None:
    file = tmp_path / "patient.j2"
    file.write_text("{{ sex }}\n")
    assert text(style="template", template_file=str(file)) == ["man", "not recorded"]
    with pytest.raises(ConfigError, match="no such file"):
        text(style="template", template_file=str(tmp_path / "none.j2"))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ age_year }}", r"not feature columns: age_year \(did you mean age_years\?\)"),
        ("{{ y }}", "not feature columns: y"),
        ("{{ age_years", "serialize.template: unexpected end"),
        ("{{ note + 1 }}", "TypeError while a row was written"),
        ("{{ {}[note] }}", "UndefinedError while a row was written"),
        ("{{ note.__class__.__mro__ }}", "SecurityError while a row was written"),
        ("{{ 1 // 0 }}", "ZeroDivisionError while a row was written"),
        ("{% for i in range(10**9) %}x{% endfor %}", "OverflowError while a row was written"),
    ],
)
def test_bad_templates_show_no_cell(source: str, said: str) -> None:
    rows = ROWS.with_columns(note=pl.lit("ZZCANARY42"))
    with pytest.raises(ConfigError, match=said) as caught:
        text(rows, style="template", template=source)
    assert "ZZCANARY42" not in str(caught.value)


STYLES = [
    {"style": "sentence"},
    {"style": "list"},
    {"style": "compact", "missing": "omit"},
    {"style": "template", "template": "{{ age_years }}|{{ chol }}|{{ sex }}|{{ seen }}|{{ note }}"},
]
VALUES = st.fixed_dictionaries(
    {
        "age_years": st.none() | st.integers(0, 120).map(float),
        "sex": st.sampled_from([None, "0", "1"]),
        "chol": st.none() | st.floats(-0.1, 20),
        "seen": st.none() | st.dates(),
        "chest_pain": st.sampled_from([None, "a", "b", "not recorded"]),
        "note": st.none() | st.text(max_size=6),
    }
)


@settings(max_examples=30, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=6))
def test_a_row_reads_the_same_alone(rows: list[dict[str, Any]]) -> None:
    frame = pl.DataFrame(rows, schema=ROWS.schema)
    for style in STYLES:
        together = text(frame, **style)
        assert together == [text(frame[row : row + 1], **style)[0] for row in range(len(rows))]


def written_row_by_row(row: dict[str, Any], style: str, missing: str) -> str:
    """The slow way, without columns."""
    pieces = []
    for name in DATA.features:
        if row[name] is None and missing == "omit":
            continue
        words = "not recorded" if row[name] is None else schema.words(row[name], DATA.columns[name])
        label = schema.label(name, DATA.columns[name])
        sentence = f"The {label} is {words}."
        if name == "chol":  # its phrase is a sentence
            label, sentence = "The cholesterol was at the visit.", f"The cholesterol was {words} at the visit."
        pieces.append({"sentence": sentence, "list": f"- {label}: {words}", "compact": f"{label} {words}"}[style])
    return {"sentence": " ", "list": "\n", "compact": ", "}[style].join(pieces)


@settings(max_examples=60, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=6))
def test_columns_write_what_rows_would(rows: list[dict[str, Any]]) -> None:
    frame = pl.DataFrame(rows, schema=ROWS.schema)
    for style, missing in itertools.product(("sentence", "list", "compact"), ("say", "omit")):
        expected = [written_row_by_row(row, style, missing) for row in rows]
        assert text(frame, style=style, missing=missing) == expected
    source = "{{ sex }}/{{ chol }}{% if note == 'a' %}!{% endif %} "
    for missing, gap in (("say", "not recorded"), ("omit", "")):
        words = [
            {name: gap if row[name] is None else schema.words(row[name], DATA.columns[name]) for name in row}
            for row in rows
        ]
        expected = [f"{row['sex']}/{row['chol']}{'!' if row['note'] == 'a' else ''}".strip() for row in words]
        assert text(frame, style="template", template=source, missing=missing) == expected


def test_order_by_cardinality() -> None:
    frame = pl.DataFrame({"a": [1.0, 2.0, 3.0], "b": ["x", "x", "x"], "c": ["x", "y", "x"]})
    data = DataConfig.model_validate(
        {"path": "t", "columns": {"a": {}, "b": {"type": "text"}, "c": {"type": "text"}, "y": {"role": "target"}}}
    )
    assert column_order(frame, data, SerializeConfig(order="by_cardinality")) == ["b", "c", "a"]
    assert column_order(frame, data, SerializeConfig()) == ["a", "b", "c"]


def test_order_by_sharing_shares_more_than_order_by_cardinality() -> None:
    """Few values are not all: a rare one is shared by most rows, and a long text is worth more when
    it is shared."""
    draw = np.random.default_rng(0)
    columns = {"coin": draw.integers(0, 2, 400), "rare": (draw.random(400) < 0.02).astype(int)}
    columns["seldom"] = draw.choice(5, 400, p=[0.96, 0.01, 0.01, 0.01, 0.01])
    frame = pl.DataFrame({name: values.astype(str) for name, values in columns.items()})
    entries: dict[str, Any] = {name: {"type": "text", "phrase": name * 5} for name in columns}
    data = DataConfig.model_validate({"path": "t", "columns": {**entries, "y": {"role": "target"}}})

    def distinct(order: str) -> float:
        """Characters a row that are left when those that rows of a batch of 20 begin with alike
        count once."""
        serialize = SerializeConfig.model_validate({"order": order})
        texts = serialize_rows(frame, column_order(frame, data, serialize), data, serialize)
        return (
            sum(len({t[:n] for t in texts[i : i + 20] for n in range(1, len(t) + 1)}) for i in range(0, 400, 20)) / 400
        )

    assert column_order(frame, data, SerializeConfig(order="by_cardinality")) == ["coin", "rare", "seldom"]
    assert column_order(frame, data, SerializeConfig(order="by_sharing")) == ["rare", "seldom", "coin"]
    assert distinct("by_sharing") < 0.9 * distinct("by_cardinality")


def test_the_order_is_that_of_the_training_rows(tmp_path: Path) -> None:
    """Validation and test rows hold more values of `a`, so all rows together would say b, a. Ties
    stay as they stood."""
    parts = ["train"] * 12 + ["validation"] * 4 + ["test"] * 4
    table = pl.DataFrame(
        {
            "same": [str(row % 3) for row in range(20)],
            "b": [str(row % 3) for row in range(20)],
            "a": [str(row % 2) if part == "train" else f"new {row}" for row, part in enumerate(parts)],
            "part": parts,
            "y": [row // 2 % 2 for row in range(20)],
        }
    )
    columns = {"b": {"type": "text"}, "same": {"type": "text"}, "a": {"type": "text"}}
    columns |= {"part": {"role": "split"}, "y": {"role": "target"}}
    file = tmp_path / "t.csv"
    settings = {"split": {"by": "column"}, "serialize": {"order": "by_cardinality"}}
    config = toy_config(tmp_path, data={"path": str(file), "columns": columns, "duplicate_rows": "keep"}, **settings)
    for rows in (table, table.reverse()):
        rows.write_csv(file)
        prepared = read_prepared(config)
        assert prepared.order == ["a", "b", "same"]
        assert prepared.texts[0].startswith("a ")
        assert column_order(prepared.cohort.frame, config.data, config.serialize) == ["b", "same", "a"]


def test_only_features_are_written(tmp_path: Path) -> None:
    build_toy_table(30).write_csv(tmp_path / "t.csv")
    data = DataConfig.model_validate({"path": "-", "columns": TOY_COLUMNS})
    cohort = read_rows(str(tmp_path / "t.csv"), data)
    texts = serialize_rows(cohort.frame, data.features, data, SerializeConfig())
    assert not any("P000" in line or "disease" in line for line in texts)
    first = build_toy_table(30).row(0, named=True)
    assert texts[0] == (
        f"age {first['age']} years, sex {['woman', 'man'][first['sex']]}, systolic pressure {first['sbp']} mmHg, "
        f"smoker {['no', 'yes'][first['smoker']]}, chest pain {first['pain'] or 'not recorded'}"
    )


CHECK_UP = {"id": "7", "gender": "2", "cholesterol": "3", "gluc": "1", "smoke": "0", "alco": "0", "active": "1"}
CHECK_UP |= {"age": "18393", "ap_hi": "150", "ap_lo": "85", "height": "168", "weight": "62.0", "cardio": "0"}


def cardio_text(tmp_path: Path, *overrides: str) -> tuple[str, str]:
    """Patient's text and question of a made-up check-up."""
    pl.DataFrame([CHECK_UP]).write_csv(tmp_path / "t.csv", separator=";")
    config = load_config("cardio_medgemma_4b", ["data.path=t.csv", *overrides])
    rows = read_rows(str(tmp_path / "t.csv"), config.data).frame
    pieces = shared_pieces(config.task)
    return serialize_rows(rows, config.data.features, config.data, config.serialize)[0], pieces.question


def test_published_prompt(tmp_path: Path) -> None:
    text, question = cardio_text(tmp_path)
    assert text == (
        "50 years of age, gender 2, 168 cm tall, weighs 62.0 kg (BMI 22.0).\n"
        "Blood pressure 150/85 mmHg, in the category Hypertension Stage 1.\n"
        "Cholesterol level 3, glucose level 1.\n"
        "Lifestyle: smoking = 0, alcohol = 0, physical activity = 1."
    )
    assert question == (
        "Does this patient run a risk of cardiovascular disease? Reply with one of these options in full and nothing "
        "else:\n0: No risk\n1: Risk of cardiovascular disease\n"
    )
    guideline, _ = cardio_text(tmp_path, "data.columns.bp_category.derive.bp_rule=acc_aha_2017")
    assert guideline == text.replace("Stage 1", "Stage 2")


def test_short_prompt(tmp_path: Path) -> None:
    text, question = cardio_text(tmp_path, "use.task=cardio_short_prompt")
    assert text == (
        "alcohol no, smoker no, active yes, glucose normal, cholesterol well above normal, man, blood pressure 150/85, "
        "age 50, BMI 22"
    )
    assert question == ""


def test_shared_pieces() -> None:
    task = TaskConfig(
        outcome="gout", instruction="Of {outcome}: {json}", question="{positive}/{negative}?", negative_label="N"
    )
    pieces = shared_pieces(task)
    assert (pieces.instruction, pieces.question) == ("Of gout: {json}", "Yes/N?")


# --------------------------------------------------------------------------------------------------
# where a number stands to its reference range

REFERENCED = DataConfig.model_validate(
    {
        "path": "t.csv",
        "columns": {**COLUMNS, "chol": {**COLUMNS["chol"], "reference": [3, 5.17]}},  # type: ignore[dict-item]
    }
)


def told(values: list[float | None], **settings: Any) -> list[str]:
    serialize = SerializeConfig.model_validate(settings)
    frame = pl.DataFrame({"chol": values}, schema={"chol": pl.Float64})
    return serialize_rows(frame, ["chol"], REFERENCED, serialize)


def test_a_number_is_low_normal_or_high_and_a_missing_one_nothing() -> None:
    values = [2.99, 3.0, 5.17, 5.18, None]
    places = ["low at 3.0", "normal at 3.0", "normal at 5.2", "high at 5.2"]
    assert told(values, style="sentence", interpret=True) == [
        *(f"The cholesterol was {place} mmol/L at the visit." for place in places),
        "The cholesterol was not recorded at the visit.",
    ]
    assert (
        told(values[3:], style="list", interpret=True)[0] == "- The cholesterol was at the visit.: high at 5.2 mmol/L"
    )
    assert told(values[:1], style="template", template="chol {{ chol }}", interpret=True) == ["chol low at 3.0 mmol/L"]
    assert told([None], missing="omit", interpret=True) == [""]


@pytest.mark.parametrize("style", ["sentence", "list", "compact"])
def test_without_the_setting_a_reference_changes_nothing(style: str) -> None:
    assert serialize_rows(ROWS, DATA.features, REFERENCED, SerializeConfig.model_validate({"style": style})) == text(
        style=style
    )


def test_to_interpret_needs_a_reference(tmp_path: Path) -> None:
    said = r"serialize.interpret: no column has a reference range; give it, data.columns.NAME.reference"
    with pytest.raises(ValueError, match=said):
        toy_config(tmp_path, serialize={"interpret": True})


def test_references_of_shipped_dictionaries_are_in_the_unit_of_their_column() -> None:
    """ACC/AHA 2017 and NCEP ATP III, in conventional units; other units by the AMA's factors."""
    limits = {"mg/dL": 200.0, "mmol/L": 200 * 0.0259, "mmHg": 120.0, "mm Hg": 120.0}
    for name in ("statlog_heart", "uci_heart", "cleveland", "hungarian", "va", "switzerland"):
        referenced = [column for column in load_dataset(name).columns.values() if column.reference]
        assert referenced, name
        for column in referenced:
            assert column.reference and column.unit
            upper = column.reference[1]
            assert upper < limits[column.unit] <= upper + (0.02 if column.unit == "mmol/L" else 1), name
