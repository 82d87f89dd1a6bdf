"""How the models do at each table when they learn from all others (internal-external validation:
Steyerberg & Harrell, J Clin Epidemiol 2016;69:245), and at tables like these."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cardiotune.config import run_name
from cardiotune.errors import ConfigError, DataError
from cardiotune.evaluation.catalogue import named
from cardiotune.evaluation.judgement import Estimate, Mean
from cardiotune.evaluation.random_effects import METRICS, across
from cardiotune.files import atomic, read_json, write_json, write_text
from cardiotune.report.drawing import REFERENCE, STYLE, look
from cardiotune.report.wording import estimate, events, in_order, model_words, percent, plain, span
from cardiotune.runs import RunFolder
from cardiotune.settings import Config

NEUTRAL = {"auroc": 0.5, "observed_expected": 1.0, "calibration_slope": 1.0}
"""Where a dotted line stands: chance, or the best."""
FILE = "leave_out.json"


def turns(config: Config, place: Path) -> dict[str, Config]:
    """Table -> the experiment with that table as the test part and all others to learn from, its
    run folder in `place`.

    A table of part `train` is learned from in all of them; one of part `test` takes its turn as the
    others do. ConfigError where there is one table, or no table may be the test.
    """
    if not config.tables:
        raise ConfigError("leave-out: this experiment has one table; name several under `tables`")
    held = [name for name in config.tables if name not in config.training_tables]
    if not held:
        raise ConfigError("leave-out: every table has part train, so none can be the test; say part: both of some")
    names = {name: run_name(name) for name in held}
    if len({name.casefold() for name in names.values()}) < len(held):
        raise ConfigError(f"leave-out: tables {', '.join(held)} give one folder; name them otherwise")
    found = {}
    for name in held:
        tree = config.model_dump(mode="json") | {"name": names[name], "runs_dir": str(place)}
        for other in held:
            tree["tables"][other]["part"] = "both"
        tree["split"] |= {"by": "table", "test_tables": [name]}
        found[name] = type(config).model_validate(tree)
    return found


def judged(run: RunFolder) -> dict[str, Any]:
    """`{"n", "n_events", "models": {model: {metric: {"value", "ci"}}}}` of the table that a run
    held out."""
    try:
        test = read_json(run.checked(run.metrics))["parts"]["test"]
        models = {
            model: {name: Estimate.from_json(found[name]).as_json() for name in METRICS}
            for model, found in test["models"].items()
        }
        return {
            "n": test["n"],
            "n_events": test["n_events"],
            "models": {name: models[name] for name in in_order(models)},
        }
    except (KeyError, TypeError):
        raise DataError(f"{run.metrics}: damaged; delete this run's folder, and it is made anew") from None


def pooled(tables: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """`{"tables": {table: as judged}, "mean": {model: {metric: ...}}}`: of every model's metrics
    the random-effects mean over tables, with its interval and that in which a further table is
    expected to lie."""
    models = in_order({model for table in tables.values() for model in table["models"]})
    return {"tables": dict(tables), "mean": {model: _means(model, tables.values()) for model in models}}


def _means(model: str, tables: Any) -> dict[str, Any]:
    shown = [table["models"][model] for table in tables if model in table["models"]]
    return {name: across(name, [Estimate.from_json(one[name]) for one in shown]).as_json() for name in METRICS}


# --------------------------------------------------------------------------------------------------
# what is shown


def write(found: dict[str, Any], folder: Path) -> None:
    """`leave_out.json`, and it as a table and as a figure beside it."""
    write_json(folder / FILE, found)
    write_text(folder / "leave_out.md", to_markdown(found))
    draw(found, folder / "leave_out.png")


def to_markdown(found: dict[str, Any]) -> str:
    """A line a table and model, and below them each model's mean."""
    head = ["Test table", "Model", *(named(name).words for name in METRICS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for table, one in found["tables"].items():
        who = f"{plain(table)} ({one['n']} rows, {events(one['n'], one['n_events'])})"
        for model, metrics in one["models"].items():
            lines.append(_line(who, model, [estimate(Estimate.from_json(metrics[name])) for name in METRICS]))
    for model, metrics in found["mean"].items():
        lines.append(_line("**mean**", model, [_mean_words(Mean.from_json(metrics[name])) for name in METRICS]))
    note = (
        "Each table was the test once, and all others were learned from. In brackets 95 % intervals. Mean: random effects "
        "over tables; *next*: where a further table of this kind is expected to lie (95 % prediction interval); *I²*: the share "
        "of the variance that is between the tables."
    )
    return "\n".join([*lines, "", note, ""])


def _line(who: str, model: str, cells: list[str]) -> str:
    return "| " + " | ".join([who, model_words(model), *cells]) + " |"


def _mean_words(mean: Mean) -> str:
    following = span(mean.prediction)
    words = estimate(Estimate(mean.value, mean.ci)) + (f"; next {following}" if following else "")
    return words + (f"; I² {percent(mean.i2)}" if mean.i2 is not None else "")


def draw(found: dict[str, Any], file: Path) -> Path:
    """A panel a metric: tables from top to bottom, below them the means, whose thin lines reach
    over the prediction interval. PNG or SVG by the ending of `file`, which is returned."""
    rows = [*found["tables"], "mean"]
    models = list(found["mean"])
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc of the user's must not change the figure
        matplotlib.rcParams.update({**STYLE, "svg.hashsalt": "leave_out"})
        figure = Figure(figsize=(10, 1.6 + len(rows) * (0.25 + 0.13 * len(models))), layout="constrained")
        for place, name in enumerate(METRICS):
            axes = figure.add_subplot(1, len(METRICS), place + 1, xlabel=named(name).words)
            _panel(axes, name, found, models)
            axes.set_yticks(range(len(rows)), rows if place == 0 else [""] * len(rows))
            axes.set_ylim(len(rows) - 0.5, -0.5)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
        with atomic(file) as temporary:
            kind = file.suffix.removeprefix(".").lower()
            figure.savefig(temporary, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else {})
    return file


def _panel(axes: Axes, metric: str, found: dict[str, Any], models: list[str]) -> None:
    tables = list(found["tables"].values())
    axes.axvline(NEUTRAL[metric], **REFERENCE)
    axes.axhline(len(tables) - 0.5, color="#ccc", linewidth=0.8)
    for number, model in enumerate(models):
        shift = (number - (len(models) - 1) / 2) * 0.7 / max(len(models), 1)
        style = {key: value for key, value in look(model).items() if key not in ("linestyle", "linewidth")}
        one = [table["models"].get(model, {}).get(metric) for table in tables]
        entries = [*one, found["mean"][model][metric]]
        for row, entry in enumerate(entries):
            if entry is None or entry["value"] is None:
                continue
            low, high = entry["ci"] or (entry["value"], entry["value"])
            reach = [[entry["value"] - low], [high - entry["value"]]]
            axes.errorbar([entry["value"]], [row + shift], xerr=reach, elinewidth=1.6, capsize=0, **style)
            if further := entry.get("prediction"):
                axes.plot(further, [row + shift] * 2, color=style["color"], linewidth=0.8)
        axes.plot([], [], label=model_words(model), linestyle="", **style)
