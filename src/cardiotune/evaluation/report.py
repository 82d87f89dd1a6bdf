"""The report: one HTML file and its text twin, drawn from the files of a run folder.

It draws and computes no metric. Nothing of a single row is written: curves, bins and counts only.
"""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cardiotune.config import Config, load_resolved
from cardiotune.errors import DataError
from cardiotune.evaluation.evaluate import DIFFERENCES, LOWER_IS_BETTER
from cardiotune.evaluation.metrics import PROBABILITY
from cardiotune.evaluation.predict import read_predictions
from cardiotune.runs import RunFolder, write_text

Array = NDArray[np.float64]
Scored = dict[str, tuple[Array, Array]]
"""Model -> y_true and y_prob of the test part, (rows,) each."""

WORDS = {
    "tuned": "Tuned LLM",
    "zero_shot": "Zero-shot LLM",
    "few_shot": "Few-shot LLM",
    "logistic_regression": "Logistic regression",
    "lightgbm": "LightGBM",
    "prevalence": "Prevalence",
}
METRICS = {
    "auroc": ("AUROC", "higher is better"),
    "auprc": ("AUPRC", "higher is better"),
    "accuracy": ("Accuracy", "higher is better"),
    "precision": ("Precision", "higher is better"),
    "recall": ("Recall (sensitivity)", "higher is better"),
    "specificity": ("Specificity", "higher is better"),
    "f1": ("F1", "higher is better"),
    "f1_weighted": ("Weighted F1", "higher is better"),
    "brier": ("Brier score", "lower is better"),
    "log_loss": ("Log-loss", "lower is better"),
    "calibration_intercept": ("Calibration intercept", "0 is best"),
    "calibration_slope": ("Calibration slope", "1 is best"),
}
DECISIONS = {
    "better": "Better than the best classical model",
    "worse": "Not worth it here",
    "no_difference_shown": "Not shown to be worth it",
    "no_comparison": "No comparison",
}
ORDERS = {"dictionary": "in dictionary order", "by_cardinality": "with few values first"}
SPLITS = {
    "random": "random, stratified by the outcome",
    "site": "whole sites held out",
    "time": "latest rows held out",
    "column": "given by a column of the table",
    "files": "the test part is a file of its own",
}

STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
LOOKS: dict[str, dict[str, Any]] = {
    "tuned": {"color": "#0072b2", "linestyle": "-", "marker": "o", "linewidth": 2.2, "zorder": 3},
    "zero_shot": {"color": "#333", "linestyle": (0, (1, 1.2)), "marker": "v"},
    "few_shot": {"color": "#a6508a", "linestyle": (0, (4, 1.5, 1, 1.5)), "marker": "^"},
    "logistic_regression": {"color": "#d55e00", "linestyle": (0, (5, 2)), "marker": "s"},
    "lightgbm": {"color": "#009e73", "linestyle": (0, (7, 1.5, 1, 1.5, 1, 1.5)), "marker": "D"},
}
UNKNOWN_LOOK = {"color": "#8a6d00", "linestyle": (0, (1, 3)), "marker": "x"}
REFERENCE: dict[str, Any] = {"color": "#777", "linewidth": 1, "linestyle": (0, (2, 2))}
MIN_GROUP_ROWS = 15
"""A calibration group has about this many rows at least, so that few rows give few groups."""


def write_report(run: RunFolder) -> Path:
    """Write `report.html` and `report.md` from the other files of the run folder; returns the HTML's path.

    Raises DataError when the run has no predictions or no metrics.
    """
    content = _content(run)
    write_text(run.report.with_suffix(".md"), _render("report.md.j2", content))
    write_text(run.report, _render("report.html.j2", content))
    return run.report


def _render(name: str, content: dict[str, Any]) -> str:
    html = name.endswith(".html.j2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=html,
        finalize=None if html else _plain,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name).render(content)


def _plain(value: Any) -> Any:
    """A value that cannot end a table cell or open a tag in Markdown."""
    if not isinstance(value, str):
        return value
    return re.sub(r"\s*\n\s*", " ", value).replace("|", r"\|").replace("<", "&lt;")


# --------------------------------------------------------------------------------------------------------------
# what the templates say


def _content(run: RunFolder) -> dict[str, Any]:
    if not run.metrics.is_file():
        raise DataError(f"{run.metrics}: no metrics yet; make them with `cardiotune evaluate {run.path}`")
    rows = read_predictions(run)
    metrics, config, manifest = _read(run.metrics), load_resolved(run.config), run.read_manifest()
    part = metrics["parts"].get("test")
    if part is None:
        raise DataError(f"{run.metrics}: no test part with known outcomes, so there is nothing to report")
    models = sorted(part["models"], key=lambda name: list(WORDS).index(name) if name in WORDS else len(WORDS))
    scored = _scored(rows, models)
    if any(len(y_true) != part["n"] for y_true, _ in scored.values()):
        raise DataError(f"{run.metrics}: made from other predictions; renew it with `cardiotune evaluate {run.path}`")
    differences = part.get("differences", {})
    notes: list[str] = []
    return {
        "name": config.name,
        "verdict": _verdict(part, models),
        "done": _done(config, manifest, metrics["interval"]),
        "cohort": _cohort(_read(run.cohort)),
        "n": part["n"],
        "events": _events(part),
        "models": [_words(model) for model in models],
        "metric_rows": [_metric_row(part, models, metric, notes) for metric in METRICS],
        "difference_metrics": [METRICS[metric] for metric in DIFFERENCES],
        "difference_rows": [
            _difference_row(model, differences[model], notes) for model in models if model in differences
        ],
        "raw_metrics": [METRICS[metric] for metric in PROBABILITY],
        "raw_rows": [
            {
                "name": f"{_words(model)}, {when}",
                "cells": [_cell(found[model][metric], notes) for metric in PROBABILITY],
            }
            for model in models
            if model in part.get("raw", {})
            for when, found in (("as the model gives them", part["raw"]), ("corrected", part["models"]))
        ],
        "notes": notes,
        "figures": _figures(part, scored, _read(run.training), config.task.threshold),
        # Its own time is known only afterwards: what the manifest has is an earlier report's.
        "stages": {name: cost for name, cost in manifest.get("stages", {}).items() if name != "report"},
        "versions": _versions(manifest),
        "config": run.config.read_text("utf-8"),
    }


def _read(path: Path) -> dict[str, Any]:
    """A JSON file of the run folder; empty when the run has none."""
    content: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return content


def _words(model: str) -> str:
    return WORDS.get(model, model.replace("_", " ").capitalize())


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _main(part: dict[str, Any], models: list[str]) -> str:
    """The model that the report is about: the tuned one or, without it, the one with the highest AUROC."""
    if "tuned" in models:
        return "tuned"
    return max(models, key=lambda model: part["models"][model]["auroc"]["value"] or 0)


def _verdict(part: dict[str, Any], models: list[str]) -> dict[str, Any]:
    verdict = part.get("verdict") or {
        "decision": "no_comparison",
        "text": "This run has no tuned language model, so whether one is worth it is not shown.",
    }
    shown = [model for model in (_main(part, models), verdict.get("against")) if model]
    return {
        "decision": verdict["decision"],
        "title": DECISIONS[verdict["decision"]],
        "text": verdict["text"],
        "numbers": [
            f"{_words(model)}: AUROC {_value(found['auroc'])}, log-loss {_value(found['log_loss'])}"
            for model, found in ((model, part["models"][model]) for model in shown)
        ],
    }


def _value(entry: dict[str, Any]) -> str:
    """`0.870 (0.801 to 0.931)`."""
    cell = _cell(entry, [])
    return f"{cell['value']} ({cell['ci']})" if cell["ci"] else str(cell["value"])


def _cell(entry: dict[str, Any], notes: list[str], sign: str = "") -> dict[str, Any]:
    """A table cell. A reason for something undefined goes to `notes` once; `note` is its number there, from 1."""
    number, ci, reason = f"{sign}z.3f", entry["ci"], entry.get("reason")
    if reason and reason not in notes:
        notes.append(reason)
    return {
        "value": "–" if entry["value"] is None else format(entry["value"], number),
        "ci": None if ci is None else f"{ci[0]:{number}} to {ci[1]:{number}}",
        "note": notes.index(reason) + 1 if reason else None,
        "reason": reason,
    }


def _metric_row(part: dict[str, Any], models: list[str], metric: str, notes: list[str]) -> dict[str, Any]:
    name, better = METRICS[metric]
    return {"name": name, "better": better, "cells": [_cell(part["models"][model][metric], notes) for model in models]}


def _difference_row(other: str, entries: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    cells = [_cell(entries[m], notes, "+") | {"reads": _reads(m, entries[m]["ci"])} for m in DIFFERENCES]
    return {"name": _words(other), "cells": cells}


def _reads(metric: str, ci: list[float] | None) -> str:
    """The difference in words: clear only when its interval leaves out 0."""
    if ci is None or ci[0] <= 0 <= ci[1]:
        return "not clear"
    return "tuned better" if (ci[1] < 0) == (metric in LOWER_IS_BETTER) else "tuned worse"


def _done(config: Config, manifest: dict[str, Any], interval: dict[str, Any]) -> dict[str, str]:
    """Term -> description: what was done, in short."""
    split = config.split
    train = 1 - split.validation - split.test
    shares = f"; {_percent(train)} training, {_percent(split.validation)} validation, {_percent(split.test)} test"
    found = {"Device": manifest.get("device"), "Started": manifest.get("started")}
    return {
        "Outcome": config.task.outcome,
        "Table": manifest.get("data", {}).get("file") or Path(config.data.path).name,
        **(_language_model(config, manifest) if config.needs_llm else {}),
        "Split": SPLITS[split.by] + ("" if split.by in ("column", "files") else shares),
        "Seeds": f"experiment {config.seed}, split {config.split_seed}",
        "Threshold": f"a row is flagged at a risk of {config.task.threshold} and above",
        "Intervals": f"{_percent(interval['level'])}, {interval['method']}, {interval['replicates']} replicates",
        **{term: str(text) for term, text in found.items() if text},
    }


def _language_model(config: Config, manifest: dict[str, Any]) -> dict[str, str]:
    base = {"name": config.model.name, "license": config.model.license} | (manifest.get("base_model") or {})
    revision = f", revision {base['revision']}" if base.get("revision") else ""
    style, summary = config.serialize, manifest.get("training")
    lines = {"Base model": f"{base['name']}{revision}; licence: {base['license']}"}
    if "tuned" in config.comparators:
        lines["Method"] = _method(config)
        lines["Head"] = {"label_tokens": "the two answers' tokens", "classifier": "linear classifier"}[config.task.head]
    if summary:
        if summary.get("odds_multiplier", 1) != 1:
            lines["Class imbalance"] = (
                f"weights and oversampling multiplied the odds by {summary['odds_multiplier']:.3g}; "
                "this is taken out of the probabilities below"
            )
        lines["Training"] = (
            f"{summary['steps']} of {summary['steps_planned']} planned steps in {summary['dtype']}; "
            f"step {summary['selected_step']} kept for its validation {summary['selected_on'].replace('_', '-')}"
        )
    lines["Prompt style"] = f"{style.style}, columns {ORDERS[style.order]}, as a {config.model.prompt} prompt"
    return lines


def _method(config: Config) -> str:
    method = config.method
    if method.kind == "full":
        return "full fine-tuning"
    base = {"none": "", "nf4": ", base weights in 4 bits (NF4)", "int8": ", base weights in 8 bits"}
    variants = [
        name for name, on in (("DoRA", method.dora), ("rsLoRA", method.rslora), ("LoRA+", method.lora_plus)) if on
    ]
    return f"{' '.join(['LoRA', *variants])}, rank {method.r}, alpha {method.alpha:g}{base[method.quantization]}"


def _events(size: dict[str, int]) -> str:
    """`36 events (54 %)`."""
    return f"{size['n_events']} events" + (f" ({_percent(size['n_events'] / size['n'])})" if size["n"] else "")


def _cohort(found: dict[str, Any]) -> dict[str, Any]:
    """What `cohort.json` says, ready for the templates; empty where it says nothing."""
    notes = found.get("notes", {})
    missing, outside = (
        ", ".join(f"{name} ({count})" for name, count in notes.get(key, {}).items() if count)
        for key in ("missing", "values_out_of_range")
    )
    lines = {
        "Missing values": missing,
        "Values out of range, taken as missing": outside,
        "Columns of the table that were not used": ", ".join(notes.get("columns_ignored", [])),
    }
    return {
        "flow": found.get("flow"),
        "parts": [(name, size["n"], _events(size)) for name, size in found.get("parts", {}).items()],
        "overlap": found.get("overlap"),
        "notes": {title: text for title, text in lines.items() if text},
    }


def _versions(manifest: dict[str, Any]) -> dict[str, str]:
    data = manifest.get("data", {})
    found = {"git commit": manifest.get("git_commit"), "sha256 of the table": data.get("sha256")}
    return {**manifest.get("versions", {}), **{term: text for term, text in found.items() if text}}


# --------------------------------------------------------------------------------------------------------------
# what the figures show


def _scored(rows: list[dict[str, Any]], models: list[str]) -> Scored:
    judged = [row for row in rows if row["part"] == "test" and row["y_true"] is not None]
    by_model = {model: [row for row in judged if row["model"] == model] for model in models}
    return {
        model: (np.array([row["y_true"] for row in own], float), np.array([row["y_prob"] for row in own], float))
        for model, own in by_model.items()
    }


def _figures(part: dict[str, Any], scored: Scored, training: dict[str, Any], threshold: float) -> list[dict[str, Any]]:
    """Each figure's `title`, `label` for a screen reader, `caption` (what to look for) and `drawing`."""
    # The same risk for every row has no curve: it is the reference line.
    curves = {model: pair for model, pair in scored.items() if np.ptp(pair[1]) > 0}
    figures = []
    if 0 < part["n_events"] < part["n"]:
        figures += [_roc(part, curves), _precision_recall(part, curves)]
    if curves:
        figures.append(_calibration(curves))
    main = _main(part, list(scored))
    figures.append(_risks(main, *scored[main], threshold))
    if training:
        figures.append(_learning(training))
    return figures


def _svg(name: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> Markup:
    """What `paint` draws, as inline SVG: the same bytes every time, and ids that no other figure has."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc of the user's must not change the report
        matplotlib.rcParams.update(STYLE)
        matplotlib.rcParams["svg.hashsalt"] = name
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawing = out.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    return Markup(re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", drawing))


def _look(model: str) -> dict[str, Any]:
    return {"linewidth": 1.5, "markersize": 5.5, **LOOKS.get(model, UNKNOWN_LOOK)}


def _square(figure: Figure, x: str, y: str) -> Axes:
    """Axes from 0 to 1 both ways."""
    axes = figure.add_subplot(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set(aspect="equal", xticks=np.linspace(0, 1, 6), yticks=np.linspace(0, 1, 6))
    return axes


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside lower center", ncols=2, frameon=False, handlelength=3.5, fontsize=9)


def _values(part: dict[str, Any], model: str, *metrics: str) -> list[Any]:
    return [part["models"][model][metric]["value"] for metric in metrics]


def _curve(axes: Axes, model: str, line: tuple[Array, Array], point: list[Any], area: float) -> None:
    """One model's curve, with a marker at `point`, where the threshold puts it (not drawn when undefined)."""
    look = _look(model)
    axes.plot([], [], label=f"{_words(model)} ({area:.2f})", **look)
    axes.plot(*line, **{**look, "marker": ""})
    if None not in point:
        axes.plot([point[0]], [point[1]], **look)


def _roc(part: dict[str, Any], curves: Scored) -> dict[str, Any]:
    from sklearn.metrics import roc_curve

    def paint(figure: Figure) -> None:
        axes = _square(figure, "1 − specificity", "Sensitivity (recall)")
        axes.plot([0, 1], [0, 1], **REFERENCE, label="Chance (0.50)")
        for model, (y_true, risk) in curves.items():
            false_alarms, found, _ = roc_curve(y_true, risk)
            area, specificity, recall = _values(part, model, "auroc", "specificity", "recall")
            _curve(axes, model, (false_alarms, found), [1 - specificity, recall], area)
        _legend(figure)

    return {
        "title": "ROC curves",
        "label": f"ROC curves on the test part: {_listed(curves)}",
        "caption": "Look for curves that rise steeply to the upper left, far from the dotted line of chance; in brackets "
        "the AUROC, and a marker where the threshold puts each model.",
        "drawing": _svg("roc", (4.2, 4.8), paint),
    }


def _precision_recall(part: dict[str, Any], curves: Scored) -> dict[str, Any]:
    from sklearn.metrics import precision_recall_curve

    share = part["n_events"] / part["n"]

    def paint(figure: Figure) -> None:
        axes = _square(figure, "Recall (sensitivity)", "Precision")
        axes.axhline(share, **REFERENCE, label=f"Prevalence ({share:.2f})")
        for model, (y_true, risk) in curves.items():
            precision, recall, _ = precision_recall_curve(y_true, risk, drop_intermediate=True)
            area, *point = _values(part, model, "auprc", "recall", "precision")
            _curve(axes, model, (recall, precision), point, area)
        _legend(figure)

    return {
        "title": "Precision and recall",
        "label": f"Precision-recall curves on the test part: {_listed(curves)}; prevalence {share:.2f}",
        "caption": "Look for curves that stay high to the right, well above the dotted line of the prevalence, which is "
        "the precision of flagging everyone; in brackets the AUPRC.",
        "drawing": _svg("pr", (4.2, 4.8), paint),
    }


def _calibration(curves: Scored) -> dict[str, Any]:
    def painter(model: str) -> Callable[[Figure], None]:
        def paint(figure: Figure) -> None:
            axes = _square(figure, "Mean predicted risk", "Observed share of events")
            axes.set_title(_words(model), fontsize=11)
            axes.plot([0, 1], [0, 1], **REFERENCE)
            mean, share, low, high = _calibration_points(*curves[model])
            axes.errorbar(mean, share, yerr=(share - low, high - share), capsize=3, elinewidth=1, **_look(model))

        return paint

    drawings = [_svg(f"calibration{number}", (3.1, 3.2), painter(model)) for number, model in enumerate(curves)]
    return {
        "title": "Calibration",
        "label": f"Calibration on the test part, one panel a model: {_listed(curves)}",
        "caption": "Look for points on the dotted diagonal: below it the risks are too high, above it too low; each point "
        "is a group of rows of similar risk (tenths, fewer with few rows), its bar the 95 % Wilson interval.",
        "drawing": Markup("\n").join(drawings),
        "panels": True,
    }


def _calibration_points(y_true: Array, risk: Array) -> tuple[Array, Array, Array, Array]:
    """(groups,) each: mean risk, share of events, and the share's Wilson interval. Equal risks share a group."""
    from statsmodels.stats.proportion import proportion_confint

    groups = int(np.clip(len(risk) // MIN_GROUP_ROWS, 2, 10))
    edges = np.unique(np.quantile(risk, np.linspace(0, 1, groups + 1)[1:-1]))
    _, group = np.unique(np.searchsorted(edges, risk, side="right"), return_inverse=True)
    rows, events = np.bincount(group), np.bincount(group, y_true)
    mean, share = np.bincount(group, risk) / rows, events / rows
    low, high = proportion_confint(events, rows, method="wilson")
    # At a share of 0 or 1, rounding may put a bound on its wrong side by one part in 10^16.
    return mean, share, np.minimum(low, share), np.maximum(high, share)


def _risks(model: str, y_true: Array, risk: Array, threshold: float) -> dict[str, Any]:
    def paint(figure: Figure) -> None:
        panels = figure.subplots(2, 1, sharex=True, sharey=True)
        looks: Any = ({"color": "white", "hatch": "////"}, {"color": "#c8d4dc"})
        for axes, outcome, name, look in zip(panels, (1, 0), ("Event", "No event"), looks, strict=True):
            values = risk[y_true == outcome]
            axes.hist(values, np.linspace(0, 1, 21), edgecolor="#333", linewidth=0.8, **look)
            axes.axvline(threshold, color="#b00020", linewidth=1.2, linestyle=(0, (4, 2)))
            axes.set_title(f"{name} ({len(values)} rows)", fontsize=10, loc="left")
            axes.set_ylabel("Rows")
            axes.yaxis.get_major_locator().set_params(integer=True)
        panels[1].set(xlabel="Predicted risk", xlim=(0, 1))

    return {
        "title": f"Risks by outcome: {_words(model)}",
        "label": f"Histograms of the risks of {_words(model)} on the test part, for rows with and without the event",
        "caption": "Look for little overlap between the two histograms, with the events to the right; the dashed line is "
        "the threshold.",
        "drawing": _svg("risks", (4.2, 4.1), paint),
    }


def _learning(training: dict[str, Any]) -> dict[str, Any]:
    steps, looks = training["history"]["steps"], training["history"]["validation"]

    def paint(figure: Figure) -> None:
        losses, areas = figure.subplots(2, 1, sharex=True)
        look = {"color": "#0072b2", "marker": "o", "markersize": 4.5}
        losses.plot(*_series(steps, "loss"), color="#999", linewidth=0.8, label="Training loss")
        losses.plot(*_series(looks, "log_loss"), **look, label="Validation")
        areas.plot(*_series(looks, "auroc"), **look)
        losses.axvline(training["selected_step"], **REFERENCE, label="Step kept")
        areas.axvline(training["selected_step"], **REFERENCE)
        losses.set(ylabel="Log-loss")
        areas.set(ylabel="AUROC", xlabel="Optimizer step")
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)

    return {
        "title": "Learning curves",
        "label": "Training loss over the steps, and log-loss and AUROC on the validation part at each look",
        "caption": "Look for a validation log-loss that falls with the training loss; where it rises again, the model "
        "learns the training rows by heart.",
        "drawing": _svg("learning", (4.2, 4.1), paint),
    }


def _series(entries: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    return [entry["step"] for entry in entries], [entry[name] for entry in entries]


def _listed(curves: Scored) -> str:
    return ", ".join(_words(model) for model in curves)
