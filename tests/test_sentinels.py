"""Values that may be codes for missing: told where they are, and silent where a column only looks
odd."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.random import Generator

from cardiotune.audit.audit import audit_raw
from cardiotune.data.draft import draft
from cardiotune.data.sentinels import in_words, sentinels
from cardiotune.settings import DataConfig

Draw = Callable[[Generator, int], np.ndarray]


def found(values: np.ndarray | list[float]) -> list[float]:
    return [value for value, _ in sentinels(pl.Series("x", np.asarray(values, float)))]


CLEAN: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(0, 1, n),
    "normal, one decimal": lambda rng, n: rng.normal(0, 1, n).round(1),
    "lognormal": lambda rng, n: rng.lognormal(3, 1.5, n).round(),
    "heavy tails": lambda rng, n: rng.standard_cauchy(n).round(),
    "pareto": lambda rng, n: (rng.pareto(1, n) * 10).round(),
    "ages": lambda rng, n: rng.integers(18, 100, n),
    "years": lambda rng, n: rng.integers(1990, 2020, n),
    "base excess": lambda rng, n: rng.normal(-1, 3, n).round(),
    "a count": lambda rng, n: rng.poisson(2, n) * rng.integers(0, 2, n),
    "zero-inflated": lambda rng, n: np.where(rng.random(n) < 0.7, 0, rng.lognormal(4, 1, n).round()),
    "a dose or none": lambda rng, n: np.where(rng.random(n) < 0.7, 0, rng.normal(150, 5, n).round()),
    "heaped pressure": lambda rng, n: (rng.normal(135, 20, n) / 10).round() * 10,
    "a ceiling": lambda rng, n: np.minimum(rng.lognormal(3, 1, n).round(), 100),
    "doses": lambda rng, n: rng.choice([5, 10, 20, 40, 80], n),
    "other doses": lambda rng, n: rng.choice([10, 20, 100], n),
    "a score": lambda rng, n: rng.integers(0, 4, n),
    "a scale to nine": lambda rng, n: rng.integers(1, 10, n),
    "a change": lambda rng, n: rng.integers(-3, 4, n),
    "worse, same, better": lambda rng, n: rng.choice([-1, 0, 1], n),
    "ejection fraction": lambda rng, n: rng.choice(np.arange(25, 70, 5), n),
    "one value": lambda rng, n: np.full(n, 7),
}


@pytest.mark.parametrize("kind", CLEAN)
def test_no_false_alarm(kind: str) -> None:
    for seed in range(60):
        for rows in (5, 50, 1000):
            assert found(CLEAN[kind](np.random.default_rng(seed), rows)) == [], (seed, rows)


@pytest.mark.parametrize(
    ("draw", "codes"),
    [
        (lambda rng, n: rng.normal(27, 4, n).round(1), [-99, 999.9]),
        (lambda rng, n: rng.normal(27, 4, n).round(1), [-9, -8, -7]),
        (lambda rng, n: rng.normal(27, 4, n).round(1), [500]),
        (lambda rng, n: rng.normal(130, 20, n).round(), [999]),
        (lambda rng, n: rng.integers(0, 11, n), [88, 99]),
        (lambda rng, n: rng.integers(18, 90, n), [-1]),
        (lambda rng, n: rng.integers(18, 90, n), [777, 888, 999]),
        (lambda rng, n: rng.integers(18, 66, n), [99]),
        (lambda rng, n: rng.integers(1, 5, n), [9]),
        (lambda rng, n: rng.lognormal(3, 1, n).round(1), [-99, 9999]),
        (lambda rng, n: rng.normal(0, 4, n).round(1), [-999]),
        (lambda rng, n: rng.integers(18, 90, n), [32741]),
        (lambda rng, n: rng.integers(18, 90, n), [2147483621]),
    ],
)
def test_codes_are_found(draw: Draw, codes: list[float]) -> None:
    for seed in range(20):
        values = draw(np.random.default_rng(seed), 400).astype(float)
        for place, code in enumerate(codes):
            values[place * 5 : place * 5 + 5] = code
        assert found(values) == sorted(codes), seed
        few = draw(np.random.default_rng(seed), 400).astype(float)
        few[: 2 * len(codes)] = codes * 2
        assert found(few) == [], "outliers of two rows are none"


def test_a_value_of_few_rows_is_not_repeated() -> None:
    assert in_words([(-99.0, 9)]).startswith("values far from all others (one in <10 rows):")
    assert in_words([(-99.0, 12), (999.9, 3)]).startswith(
        "values far from all others (-99 in 12 rows, one in <10 rows):"
    )


def test_no_false_alarm_on_real_columns(shared_data: Path) -> None:
    table = pl.read_csv(shared_data / "cardio_train.csv", separator=";")
    clean = [name for name in table.columns if not found(table[name].cast(pl.Float64).to_list())]
    assert clean == table.columns


def test_init_and_audit_tell(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bmi, sbp = rng.normal(27, 4, 80).round(1), rng.normal(130, 15, 80).round()
    bmi[:12], sbp[5:9] = -99, 999
    file = tmp_path / "t.csv"
    pl.DataFrame({"bmi": bmi, "sbp": sbp, "age": np.arange(80), "died": [0, 1] * 40}).write_csv(file)
    notes = "\n".join(draft(str(file), "died", tmp_path / "study").notes)
    assert "bmi: role feature, values far from all others (-99 in 12 rows)" in notes
    assert "sbp: role feature, values far from all others (one in <10 rows)" in notes and "age" not in notes
    columns = {"bmi": {}, "sbp": {"type": "integer"}, "age": {}, "died": {"role": "target"}}

    def told(**settings: dict[str, object]) -> dict[str, object]:
        entries = {name: {**entry, **settings.get(name, {})} for name, entry in columns.items()}
        findings = audit_raw(DataConfig.model_validate({"path": str(file), "columns": entries}))
        return {f.numbers["column"]: f.numbers["rows"] for f in findings if f.check == "value_as_missing"}

    assert told() == {"bmi": 12, "sbp": "<10"}
    assert told(bmi={"missing": [-99]}, sbp={"range": [60, 260]}) == {}, "named, or out of range and so missing"
