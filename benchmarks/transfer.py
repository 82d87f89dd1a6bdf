"""Leave one of the four UCI hospitals out: the tuned model beside models on columns.

    python -m benchmarks.transfer same --seeds 5
    python -m benchmarks.transfer columns --seeds 20

`same`: all columns, each hospital under its own dictionary. `columns`: of each hospital age, sex
and its own random 6 of the 11 others, drawn anew for every seed. Runs that are finished are read
and not repeated. Differences are of the mean over hospitals, of AUROCs averaged over seeds; their
intervals resample the patients of each hospital, with the outcomes' numbers as they are.
"""

import argparse
from itertools import product

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from cardiotune import stages
from cardiotune.cli import configure_logging
from cardiotune.config import load_config
from cardiotune.evaluation.metrics import calibration_slope
from cardiotune.settings import Config
from cardiotune.settings.tables import TableConfig, pooled_dictionary, shared_name

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
MODELS = (
    "logistic_regression",
    "logistic_regression_by_name",
    "logistic_regression_matched",
    "lightgbm",
    "lightgbm_matched",
    "tuned",
    "tuned_matched",
    "stacked",
)
PAIRS = (
    ("tuned", "logistic_regression"),
    ("tuned", "lightgbm"),
    ("tuned_matched", "logistic_regression_matched"),
    ("tuned_matched", "logistic_regression_by_name"),
    ("stacked", "logistic_regression"),
)
ALWAYS = ("age", "sex")
KEPT = 6
RESAMPLES = 1000

Array = NDArray[np.float64]


def experiment(protocol: str, hospital: str, seed: int, overrides: list[str]) -> Config:
    """One hospital held out."""
    given = [
        f"seed={seed}",
        f"name={protocol}_{hospital}_{seed}",
        f"split.test_tables=[{hospital}]",
        f"models=[{','.join(MODELS)}]",
    ]
    config = load_config("uci_hospitals", given + overrides)
    if protocol == "same":
        return config
    tree = config.model_dump(mode="json")
    for place, name in enumerate(HOSPITALS):
        columns = config.tables[name].data.columns
        others = [n for n in config.tables[name].data.features if shared_name(n, columns[n]) not in ALWAYS]
        left = np.random.default_rng([seed, place]).permutation(others)[KEPT:]
        for column in left:
            del tree["tables"][name]["data"]["columns"][column]
    tables = {name: TableConfig.model_validate(table) for name, table in tree["tables"].items()}
    tree["data"] = pooled_dictionary(tables).model_dump(mode="json")
    return Config.model_validate(tree)


def test_part(config: Config) -> tuple[NDArray[np.int_], dict[str, Array]]:
    """Outcomes of the held-out hospital and every model's risks."""
    folder = config.run_path
    if not (folder / "predictions.jsonl").is_file():
        run, prepared = stages.prepare(config, overwrite=folder.exists())
        if "tuned" in config.comparators:
            stages.train(run, prepared)
        stages.predict(run, prepared)
    lines = pl.read_ndjson(folder / "predictions.jsonl", infer_schema_length=None).filter(pl.col("part") == "test")
    by_model = {str(key[0]): rows for key, rows in lines.group_by("model", maintain_order=True)}
    first = next(iter(by_model.values()))
    return first["y_true"].to_numpy(), {name: rows["y_prob"].to_numpy() for name, rows in by_model.items()}


def resampled(events: NDArray[np.int_], draw: np.random.Generator) -> NDArray[np.int_]:
    """Row numbers drawn with replacement among those of each outcome."""
    return np.concatenate([draw.choice(rows := np.flatnonzero(events == label), len(rows)) for label in (0, 1)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", choices=("same", "columns"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--hospitals", nargs="+", default=HOSPITALS, choices=HOSPITALS)
    parser.add_argument("--runs-dir", default="runs/transfer")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    configure_logging(debug=False)
    seeds = range(given.first, given.first + given.seeds)
    overrides = [f"runs_dir={given.runs_dir}", *given.overrides]
    found = {
        (hospital, seed): test_part(experiment(given.protocol, hospital, seed, overrides))
        for seed, hospital in product(seeds, given.hospitals)
    }
    models = [name for name in MODELS if all(name in risks for _, risks in found.values())]

    def area(model: str, hospital: str, rows: NDArray[np.int_] | slice) -> float:
        each = [
            (events[rows], risks[model][rows]) for (place, _), (events, risks) in found.items() if place == hospital
        ]
        return float(np.mean([roc_auc_score(events, risk) for events, risk in each]))

    every = slice(None)
    print(f"| test AUROC, mean of {len(seeds)} seeds | {' | '.join(given.hospitals)} | mean | slopes |")
    print("|---|" + "---|" * (len(given.hospitals) + 2))
    for model in models:
        areas = [area(model, hospital, every) for hospital in given.hospitals]
        slopes = [
            np.mean([calibration_slope(y, r[model]) for (place, _), (y, r) in found.items() if place == hospital])
            for hospital in given.hospitals
        ]
        cells = [f"{value:.3f}" for value in (*areas, np.mean(areas))]
        print(f"| {model} | {' | '.join(cells)} | {', '.join(f'{slope:.2f}' for slope in slopes)} |")
    draw = np.random.default_rng(0)
    events = {hospital: found[hospital, seeds[0]][0] for hospital in given.hospitals}
    drawn = [{hospital: resampled(events[hospital], draw) for hospital in given.hospitals} for _ in range(RESAMPLES)]
    print()
    for one, other in PAIRS:
        if one in models and other in models:
            points = [area(one, hospital, every) - area(other, hospital, every) for hospital in given.hospitals]
            spread = [
                np.mean([area(one, h, rows[h]) - area(other, h, rows[h]) for h in given.hospitals]) for rows in drawn
            ]
            low, high = np.quantile(spread, [0.025, 0.975])
            print(f"{one} - {other}: {np.mean(points):+.3f} ({low:+.3f} to {high:+.3f})")


if __name__ == "__main__":
    main()
