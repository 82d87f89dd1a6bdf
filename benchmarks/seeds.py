"""Run an experiment with several seeds (split, adapters, order) and print every model's test AUROC
and log-loss.

    python -m benchmarks.seeds statlog_heart --seeds 5

Finished runs are read, not repeated.
"""

import argparse
import json
import statistics
from pathlib import Path

from cardiotune import stages
from cardiotune.cli import configure_logging
from cardiotune.config import load_config

METRICS = ("auroc", "log_loss", "calibration_slope")


def measure(experiment: str, seeds: int, runs_dir: str, overrides: list[str]) -> dict[str, dict[str, list[float]]]:
    """Metric -> model -> a value for each seed, of the test part."""
    found: dict[str, dict[str, list[float]]] = {metric: {} for metric in METRICS}
    for seed in range(seeds):
        config = load_config(experiment, [f"seed={seed}", f"name=s{seed}", f"runs_dir={runs_dir}", *overrides])
        metrics = config.run_path / "metrics.json"
        if not metrics.is_file():
            stages.run(config, overwrite=config.run_path.exists())
        models = json.loads(metrics.read_text())["parts"]["test"]["models"]
        for metric in METRICS:
            for model, values in models.items():
                if values[metric]["value"] is not None:
                    found[metric].setdefault(model, []).append(values[metric]["value"])
    return found


def as_markdown(found: dict[str, dict[str, list[float]]]) -> str:
    """One table a metric: a row a model, a column a seed, and the median."""
    lines = []
    for metric, models in found.items():
        seeds = max(len(values) for values in models.values())
        lines += [f"| test {metric} | " + " | ".join(f"seed {s}" for s in range(seeds)) + " | median |"]
        lines += ["|---|" + "---|" * (seeds + 1)]
        for model, values in models.items():
            cells = " | ".join(f"{value:.3f}" for value in values)
            lines.append(f"| {model} | {cells} | **{statistics.median(values):.3f}** |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs-dir", default="runs/seeds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    configure_logging(debug=False)
    found = measure(given.experiment, given.seeds, given.runs_dir, given.overrides)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    print(as_markdown(found))


if __name__ == "__main__":
    main()
