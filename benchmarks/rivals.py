"""Is LightGBM at its best beside the language model? As shipped, against the best of random
settings.

    python -m benchmarks.rivals --data ../shared/data

The published half of the Kaggle cardio table (where `--data` holds it) and five public tables:
Statlog heart, Cleveland, Hungary, VA (embedded) and Breast Cancer Wisconsin (of scikit-learn).
Random settings are drawn once and tried on every split: leaves, rows of a leaf, rate, shares of
rows and columns, L2 penalty; the number of trees by the same folds of the training part that the
shipped search has. "chosen" is the best of them by log-loss in these folds, as a careful user would
choose; "in hindsight" the one setting whose median AUROC on the test parts is the highest, which
nobody could have known: its lead is partly luck, the more the smaller the table.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

from cardiotune.config import load_config, load_dataset
from cardiotune.data.cohort import Cohort, read_cohort
from cardiotune.data.split import split_cohort
from cardiotune.models.baselines import BASELINES
from cardiotune.models.columns import learn_columns
from cardiotune.models.labelled import LabelledRows
from cardiotune.models.trees import Material
from cardiotune.settings import DataConfig, SplitConfig

EMBEDDED = ("statlog_heart", "cleveland", "hungarian", "va")
MARGIN = 0.003


@dataclass(frozen=True)
class Found:
    """Test AUROC of a table, (splits,) and (settings, splits)."""

    table: str
    rows: int
    """Of the training part."""
    shipped: list[float]
    random: list[list[float]]
    losses: list[list[float]]
    """(settings, splits) log-loss in the folds."""
    seconds: float
    """Of one shipped fit, the median."""

    @property
    def chosen(self) -> float:
        """Median AUROC of the random setting that the folds prefer at each split."""
        best = np.argmin(np.array(self.losses), axis=0)
        return statistics.median(np.array(self.random)[best, np.arange(len(best))].tolist())

    @property
    def hindsight(self) -> float:
        """The highest median AUROC of a random setting."""
        return float(np.median(np.array(self.random), axis=1).max())

    @property
    def median(self) -> float:
        """Median AUROC as shipped."""
        return statistics.median(self.shipped)


def random_settings(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Settings over the ranges that searches of LightGBM usually have."""
    draw = np.random.default_rng(seed)

    def log_uniform(low: float, high: float) -> float:
        return float(np.exp(draw.uniform(np.log(low), np.log(high))))

    return [
        {
            "num_leaves": round(log_uniform(2, 64)),
            "min_data_in_leaf": round(log_uniform(1, 100)),
            "learning_rate": log_uniform(0.02, 0.2),
            "feature_fraction": float(draw.uniform(0.3, 1)),
            "bagging_fraction": float(draw.uniform(0.5, 1)),
            "bagging_freq": 1,
            "lambda_l2": log_uniform(1e-3, 100),
        }
        for _ in range(count)
    ]


def tables(data: Path | None, place: Path) -> Iterator[tuple[str, DataConfig, SplitConfig]]:
    """Name, dictionary and split of each table."""
    half = SplitConfig(test=0.5, validation=0.1)
    if data and (data / "cardio_train.csv").is_file():
        config = load_config("cardio_published", [f"data.path={data / 'cardio_train.csv'}"])
        yield "cardio half", config.data, config.split
    for name in EMBEDDED:
        yield name, load_dataset(name), half
    cancer = load_breast_cancer()
    names = [name.replace(" ", "_") for name in cancer.feature_names]
    frame = pl.DataFrame({name: cancer.data[:, at] for at, name in enumerate(names)})
    file = place / "wisconsin.csv"
    frame.with_columns(malignant=pl.Series(1 - cancer.target)).write_csv(file)
    columns = {**{name: {} for name in names}, "malignant": {"role": "target", "type": "binary"}}
    yield "wisconsin", DataConfig.model_validate({"path": str(file), "columns": columns}), half


def measure(  # a table, how it is split, what is tried
    name: str, cohort: Cohort, data: DataConfig, split: SplitConfig, splits: range, settings: list[dict[str, Any]]
) -> Found:
    """Shipped and random settings on the same splits."""
    shipped, seconds, rows_of = [], [], 0
    random: list[list[float]] = [[] for _ in settings]
    losses: list[list[float]] = [[] for _ in settings]
    for seed in splits:
        parts = split_cohort(cohort, data, split, 42 + seed)
        rows = LabelledRows(cohort.frame, cohort.events, parts, data, seed)
        test, rows_of = parts == "test", int(rows.train.sum())
        began = time.perf_counter()
        shipped.append(float(roc_auc_score(cohort.events[test], BASELINES["lightgbm"](rows)[test])))
        seconds.append(time.perf_counter() - began)
        material = Material.of(rows, learn_columns(rows.training.frame, data, data.features))
        assert material is not None
        judged = cohort.frame.filter(pl.Series(test))
        for at, one in enumerate(settings):
            loss, trees = material.cross_validated(one)
            losses[at].append(loss)
            risks = material.fit(one, trees).risks(judged)
            random[at].append(float(roc_auc_score(cohort.events[test], risks)))
    return Found(name, rows_of, shipped, random, losses, statistics.median(seconds))


def as_markdown(found: list[Found]) -> str:
    """A row a table."""
    lines = [
        "| table | training rows | as shipped | best of random, chosen | best of random, in hindsight | seconds |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {one.table} | {one.rows:,} | {one.median:.4f} | {one.chosen:.4f} | {one.hindsight:.4f} | {one.seconds:.1f} |"
        for one in found
    ]
    for words, other in (("chosen", "chosen"), ("in hindsight", "hindsight")):
        below = [one.table for one in found if one.median < getattr(one, other) - MARGIN]
        lines.append(f"\nBelow the best {words} minus {MARGIN}: {', '.join(below) or 'none'}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of cardio_train.csv")
    parser.add_argument("--settings", type=int, default=50)
    parser.add_argument("--splits", type=int, default=7)
    parser.add_argument("--large-splits", type=int, default=3, help="splits of tables above 10,000 rows")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    settings, found = random_settings(given.settings), []
    with tempfile.TemporaryDirectory() as place:
        for name, data, split in tables(given.data, Path(place)):
            cohort = read_cohort(data, seed=42)
            splits = given.large_splits if cohort.frame.height > 10_000 else given.splits
            found.append(measure(name, cohort, data, split, range(splits), settings))
            print(as_markdown(found[-1:]).splitlines()[2], flush=True)
    if given.json:
        given.json.write_text(json.dumps([vars(one) for one in found], indent=2) + "\n")
    print("\n" + as_markdown(found))


if __name__ == "__main__":
    main()
