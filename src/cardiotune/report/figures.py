"""What is drawn. Nothing here judges: every metric comes from `metrics.json`, every curve and bin
from `curves`."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from cardiotune.comparators import IN_WORDS, main_model
from cardiotune.data.small_counts import SMALL, told
from cardiotune.evaluation.explain import Dependence, Explanations, Importance
from cardiotune.evaluation.judgement import UNDEFINED, DecisionCurve, Group, Part
from cardiotune.evaluation.random_effects import METRICS as OVER_TABLES
from cardiotune.report import curves
from cardiotune.report.drawing import (
    LONGEST,
    REFERENCE,
    WIDTH,
    Drawing,
    height_with_legend,
    legend,
    look,
    square,
    svg,
    table,
)
from cardiotune.report.learning_curve import PLOTTED
from cardiotune.report.leave_out import NEUTRAL
from cardiotune.report.places import Places
from cardiotune.report.record import Array, Record, Scores
from cardiotune.report.wording import in_order, metric_words, model_words

BLUE, GREY, RED = "#0072b2", "#999", "#b00020"
MOST_COLUMNS = 20
"""Columns in a figure of importance, the most important ones."""
BAND: dict[str, Any] = {"alpha": 0.18, "linewidth": 0}
EVENT: dict[str, Any] = {"fill": True, "facecolor": "white", "edgecolor": "#333", "linewidth": 0.8, "hatch": "/////"}
BEFORE: dict[str, Any] = {"color": "#555", "linestyle": (0, (4, 2)), "linewidth": 1.2, "marker": "o", "mfc": "white"}
NO_EVENT: dict[str, Any] = {"fill": True, "facecolor": "#c8d4dc", "edgecolor": "#333", "linewidth": 0.8}


def performance(record: Record) -> list[Drawing]:
    """How good the models are on the test part. Curves that are not defined there are left out."""
    part = record.part
    # The same risk for every row has no curve: it is the reference line. Nor have answers in words.
    scored = {
        model: found for model, found in record.scored.items() if np.ptp(found.y_prob) > 0 and model not in IN_WORDS
    }
    drawings = []
    if all(len(np.unique(found.y_true)) == 2 for found in scored.values()) and scored:
        drawings += [_roc(record, scored), _precision_recall(part, scored)]
    if scored:
        drawings.append(_calibration(record, scored))
    drawings.append(_risks(record.main, record.scored[record.main], record.config.task.flagged_at))
    if decision := part.decision_curve:
        judged = [m for m in record.models if m in scored or m in IN_WORDS]
        matter = [record.config.task.flagged_at, *(one.value for one in part.thresholds.get(record.main, ()))]
        drawings.append(_decision(decision, judged, record.main, matter))
    if record.part.censoring:
        drawings = [replace(drawing, caption=f"{drawing.caption} IPCW-weighted.") for drawing in drawings]
    if record.training:
        drawings.append(_training(record.training))
    return drawings


# --------------------------------------------------------------------------------------------------
# discrimination


def _values(part: Part, model: str, *metrics: str) -> list[Any]:
    return [part.models[model][metric].value for metric in metrics]


def _curve(axes: Axes, model: str, line: tuple[Array, Array], point: list[Any], area: float) -> None:
    """One model's curve, with a marker at `point`, where the threshold puts it (not drawn when
    undefined)."""
    style = look(model)
    axes.plot([], [], label=f"{model_words(model)} ({area:.2f})", **style)
    axes.plot(*line, **{**style, "marker": ""})
    if None not in point:
        axes.plot([point[0]], [point[1]], **style)


def _roc(record: Record, scored: dict[str, Scores]) -> Drawing:
    part, main = record.part, record.main
    lines = {model: curves.roc(found.y_true, found.y_prob, found.weight) for model, found in scored.items()}
    band = None
    if found := scored.get(main):
        band = curves.roc_band(found.y_true, found.y_prob, _resampling(record, found))

    def paint(figure: Figure) -> None:
        axes = square(figure, "1 − specificity", "Sensitivity (recall)")
        axes.plot([0, 1], [0, 1], **REFERENCE, label="Chance (0.50)")
        if band:
            axes.fill_between(curves.BAND_GRID, *band, color=look(main)["color"], **BAND)
        for model, line in lines.items():
            area, specificity, recall = _values(part, model, "auroc", "specificity", "recall")
            point = [None if specificity is None else 1 - specificity, recall]
            _curve(axes, model, line, point, area)
        legend(figure)

    rows: list[tuple[Any, ...]] = [
        (model, x, y, None, None) for model, line in lines.items() for x, y in zip(*line, strict=True)
    ]
    if band:
        rows += [
            (f"{main} 95 % band", x, None, low, high) for x, low, high in zip(curves.BAND_GRID, *band, strict=True)
        ]
    return Drawing(
        name="roc",
        title="ROC curves",
        label=f"ROC curves on the test part: {_listed(scored)}",
        caption="Look for curves that rise steeply to the upper left, far from the dotted line of chance; in brackets "
        "the AUROC, and a marker where the threshold puts each model."
        + (f" Shaded: pointwise 95 % bootstrap band of {model_words(main)}." if band else ""),
        svg=svg("roc", (WIDTH, height_with_legend(4.6, len(lines) + 1)), paint),
        data=table(("model", "1 - specificity", "sensitivity", "low", "high"), rows),
    )


def _precision_recall(part: Part, scored: dict[str, Scores]) -> Drawing:
    share = part.censoring.prevalence if part.censoring else next(iter(scored.values())).y_true.mean()
    lines = {
        model: curves.precision_recall(found.y_true, found.y_prob, found.weight) for model, found in scored.items()
    }

    def paint(figure: Figure) -> None:
        axes = square(figure, "Recall (sensitivity)", "Precision (PPV)")
        axes.axhline(share, **REFERENCE, label=f"Prevalence ({share:.2f})")
        for model, line in lines.items():
            area, *point = _values(part, model, "auprc", "recall", "precision")
            _curve(axes, model, line, point, area)
        legend(figure)

    rows = [(model, x, y) for model, line in lines.items() for x, y in zip(*line, strict=True)]
    return Drawing(
        name="precision-recall",
        title="Precision and recall",
        label=f"Precision-recall curves on the test part: {_listed(scored)}; prevalence {share:.2f}",
        caption="Look for curves that stay high to the right, well above the dotted line of the prevalence, which is "
        "the precision of flagging everyone; in brackets the AUPRC.",
        svg=svg("pr", (WIDTH, height_with_legend(4.6, len(lines) + 1)), paint),
        data=table(("model", "recall", "precision"), rows),
    )


# --------------------------------------------------------------------------------------------------
# risks


def _resampling(record: Record, found: Scores) -> curves.Resampling:
    """As the intervals of the tables were made."""
    return curves.Resampling(record.interval.seed, record.interval.stratified, found.weight, found.clusters)


def _calibration(record: Record, scored: dict[str, Scores]) -> Drawing:
    end = curves.axis_end(risk for found in scored.values() for risk in (found.y_prob, found.y_prob_raw))
    panels = {model: _calibration_lines(found, _resampling(record, found)) for model, found in scored.items()}
    both = any(len(lines) > 1 for lines in panels.values())

    def painter(model: str) -> Callable[[Figure], None]:
        def paint(figure: Figure) -> None:
            axes, bars = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
            axes.set_title(textwrap.shorten(model_words(model), 26, placeholder="…"), fontsize=11)
            axes.set(ylabel="Observed share of events", xlim=(-0.02 * end, 1.02 * end), ylim=(-0.02 * end, 1.02 * end))
            axes.set(xticks=np.linspace(0, end, 6), yticks=np.linspace(0, end, 6))
            axes.plot([0, 1], [0, 1], **REFERENCE)
            lines = panels[model]
            if "before" in lines:
                _calibration_line(axes, lines["before"], BEFORE, "before")
            _calibration_line(axes, lines["final"], look(model) | {"linestyle": "-", "linewidth": 1.8}, "after")
            if len(lines) > 1:
                axes.legend(frameon=False, fontsize=8, loc="upper left", borderaxespad=0)
            _two_sided(bars, _histogram(scored[model], end))

        return paint

    rows = [
        (model, when, drawn, *point)
        for model, lines in panels.items()
        for when, line in lines.items()
        for drawn, points in line._asdict().items()
        for point in zip(*points, strict=True)
    ]
    margins = {"left": 0.18, "right": 0.97, "bottom": 0.12, "top": 0.93, "hspace": 0.12}
    drawn = [svg(f"calibration{number}", (3.1, 3.8), painter(model), margins) for number, model in enumerate(scored)]
    return Drawing(
        name="calibration",
        title="Calibration",
        label=f"Calibration on the test part, one panel a model: {_listed(scored)}",
        caption="Look for a line on the dotted diagonal: below it the risks are too high, above it too low. The line is the "
        "smoothed share of events from which the ICI is computed, drawn where all but the outermost risks are, with its "
        "pointwise 95 % bootstrap band; each point is a group of rows of similar risk (tenths, fewer with few rows), its "
        "bar the 95 % Wilson interval. Below, how many rows have which risk: with the event upwards, without it "
        "downwards."
        + (" Dashed and hollow: the probabilities as the model gives them." if both else "")
        + (f" The axes end at {end:g}, above which 1 % of the rows are at most." if end < 1 else ""),
        svg=Markup("\n").join(drawn),
        data=table(("model", "probabilities", "drawn as", "risk", "share of events", "low", "high"), rows),
        panels="small",
    )


class Calibration(NamedTuple):
    """What one panel shows of some risks; each (4, points): risk, share of events, and its
    interval's ends or NaN."""

    group: Array
    curve: Array


def _calibration_lines(found: Scores, drawn_as: curves.Resampling) -> dict[str, Calibration]:
    """The final probabilities and, where they differ, those before correction and calibration,
    which have no band."""
    lines = {}
    for when, risk in (("final", found.y_prob), ("before", found.y_prob_raw)):
        if when == "before" and np.array_equal(found.y_prob, found.y_prob_raw):
            continue
        curve = np.empty((4, 0))
        if 0 < found.y_true.sum() < len(found.y_true):
            at = curves.curve_risks(risk)
            band = (
                curves.calibration_band(found.y_true, risk, at, drawn_as)
                if when == "final"
                else np.full((2, len(at)), np.nan)
            )
            curve = np.array([at, curves.calibration_curve(found.y_true, risk, at, found.weight), *band])
        lines[when] = Calibration(
            np.array(curves.calibration_points(found.y_true, risk, found.weight, found.clusters)), curve
        )
    return lines


def _calibration_line(axes: Axes, line: Calibration, style: dict[str, Any], label: str) -> None:
    mean, share, low, high = line.group
    at, smooth, bottom, top = line.curve
    axes.plot([], [], label=label, **style)
    axes.plot(at, smooth, **{**style, "marker": ""})
    axes.fill_between(at, bottom, top, color=style["color"], **BAND)
    bars = (share - low, high - share) if label == "after" else None
    axes.errorbar(mean, share, yerr=bars, capsize=3, elinewidth=1, **{**style, "linestyle": ""})


def _two_sided(axes: Axes, found: curves.Histogram) -> None:
    axes.stairs(found.heights[0], found.edges, **EVENT)
    axes.stairs(-found.heights[1], found.edges, **NO_EVENT)
    axes.axhline(0, color="#333", linewidth=0.8)
    axes.set(xlabel="Predicted risk", ylabel="Rows")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))


def _histogram(found: Scores, end: float) -> curves.Histogram:
    return curves.histogram(found.y_true, found.y_prob, end, found.weight)


def _risks(model: str, found: Scores, threshold: float) -> Drawing:
    end = curves.axis_end([found.y_prob, np.array([threshold])])
    drawn = _histogram(found, end)
    happened = int(found.y_true.sum())
    rows_of = {"Event": told(happened), "No event": told(len(found.y_true) - happened)}

    def paint(figure: Figure) -> None:
        panels = figure.subplots(2, 1, sharex=True, sharey=True)
        for axes, counted, (name, rows), style in zip(
            panels, drawn.heights, rows_of.items(), (EVENT, NO_EVENT), strict=True
        ):
            axes.stairs(counted, drawn.edges, **style)
            axes.axvline(threshold, color=RED, linewidth=1.2, linestyle=(0, (4, 2)))
            axes.set_title(f"{name} ({rows} rows)", fontsize=10, loc="left")
            axes.set_ylabel("Rows")
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        panels[1].set(xlabel="Predicted risk", xlim=(0, end))

    return Drawing(
        name="risks",
        title=f"Risks by outcome: {model_words(model)}",
        label=f"Histograms of the risks of {model_words(model)} on the test part, for rows with and without the event",
        caption="Look for little overlap between the two histograms, with the events to the right; the dashed line is "
        f"the threshold of {threshold:g}. Areas are rows; bins are as wide as it takes for none to have a small count."
        + (f" The axis ends at {end:g}, above which 1 % of the rows are at most." if end < 1 else ""),
        svg=svg("risks", (WIDTH, 4.1), paint),
        data=table(
            ("risk from", "risk to", "rows with the event", "rows without"),
            zip(
                drawn.edges[:-1],
                drawn.edges[1:],
                *([SMALL if np.isnan(c) else c for c in counts] for counts in drawn.counts),
                strict=True,
            ),
        ),
    )


def instability(record: Record) -> Drawing | None:
    """Of the model that the report is about, or the next that took part in several repeats: what
    risks the same patients get when folds are drawn anew. None where there was one draw, or where
    patients are too few for a band."""
    found = record.part.cross_validation
    bands = {model: one.bands for model, one in (found.stability if found else {}).items() if one.bands}
    bands = {model: found for model, found in bands.items() if found[0].risk < found[-1].risk}
    if not bands:
        return None
    model = main_model(list(bands))
    x, low, middle, high = (np.array([getattr(b, n) for b in bands[model]]) for n in ("risk", "low", "median", "high"))

    def paint(figure: Figure) -> None:
        axes = square(figure, "Risk in the first repeat", "Risk in further repeats")
        axes.plot([0, 1], [0, 1], **REFERENCE, label="The same risk")
        axes.fill_between(x, low, high, color=look(model)["color"], label="95 % of the patients' risks", **BAND)
        axes.plot(x, middle, label=f"Median, {model_words(model)}", **look(model))
        legend(figure)

    rows = [(m, b.risk, b.low, b.median, b.high) for m, own in bands.items() for b in own]
    return Drawing(
        name="instability",
        title="Instability of risks",
        label=f"Risks of the same patients in further repeats over those in the first: {model_words(model)}",
        caption="Look for a narrow band along the dotted line: a wide one says that a patient's risk depends much on which "
        "patients the model happened to learn from (Riley & Collins 2023).",
        svg=svg("instability", (WIDTH, height_with_legend(4.6, 3)), paint),
        data=table(("model", "risk in the first repeat", "low", "median", "high"), rows),
    )


def _decision(found: DecisionCurve, models: list[str], main: str, matter: Sequence[float]) -> Drawing:
    """`matter`: thresholds that somebody would use; the figure ends at twice the highest."""
    at = np.array(found.thresholds, float)
    treat_all = np.array(found.treat_all, float)
    judged = {model: found.models[model] for model in models if model in found.models}
    lines = {model: np.array(line.net_benefit, float) for model, line in judged.items()}
    bands = {model: np.array([ci or (None, None) for ci in line.ci], float) for model, line in judged.items()}

    useful = np.any([line > 0 for line in (treat_all, *lines.values())], axis=0)
    last = float(at[useful].max()) if useful.any() else float(at.max())  # beyond it nothing is of use
    last = max(float(at[1]), min(last, 2 * max(matter)))
    shown = at <= last

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="Threshold", ylabel="Net benefit", xlim=(0, last))
        axes.plot(at, treat_all, color="#777", linewidth=1.2, linestyle=(0, (1, 1)), label="Treat all")
        axes.axhline(0, color="#333", linewidth=1, label="Treat none")
        if len(bands.get(main, ())):
            axes.fill_between(at, bands[main][:, 0], bands[main][:, 1], color=look(main)["color"], **BAND)
        every = max(1, int((at <= last).sum()) // 6)
        for number, (model, line) in enumerate(lines.items()):
            axes.plot(at, line, label=model_words(model), markevery=(number % every, every), **look(model))
        high = float(
            np.nanmax([*(np.nanmax(line[shown]) for line in lines.values()), np.nanmax(treat_all[shown]), 0.01])
        )
        axes.set_ylim(-0.15 * high, 1.08 * high)
        legend(figure)

    rows: list[tuple[Any, ...]] = [("treat all", x, y, None, None) for x, y in zip(at, treat_all, strict=True)]
    for model, line in lines.items():
        limits = bands[model] if len(bands[model]) else np.full((len(at), 2), np.nan)
        rows += [(model, x, y, low, high) for x, y, (low, high) in zip(at, line, limits, strict=True)]
    return Drawing(
        name="decision-curve",
        title="Decision curve",
        label=f"Net benefit over the threshold: treat all, treat none, {_listed(lines)}",
        caption="Look for the highest line at the thresholds that matter in the clinic: a model is of use only where it "
        "is above both treating all and treating none (net benefit 0). It ends at twice the highest threshold that is "
        "described below; its data go on."
        + (f" Shaded: the 95 % interval of {model_words(main)}." if len(bands.get(main, ())) else ""),
        svg=svg("decision", (WIDTH, height_with_legend(3.6, len(lines) + 2)), paint),
        data=table(("model", "threshold", "net benefit", "low", "high"), rows),
    )


# --------------------------------------------------------------------------------------------------
# subgroups


def forest(record: Record) -> Drawing | None:
    """AUROC and O:E of the main model in each subgroup; None when the run judged none."""
    groups, main = record.part.subgroups or [], record.main
    if not groups:
        return None
    labels = [_group_label(group) for group in groups]
    withheld = sum(group.suppressed for group in groups)

    def painter(metric: str, best: float | None) -> Callable[[Figure], None]:
        def paint(figure: Figure) -> None:
            axes = figure.add_subplot()
            axes.set_title(metric_words(metric)[0], fontsize=11)
            if best is not None:
                axes.axvline(best, **REFERENCE)
            for y, group in enumerate(groups):
                entry = group.models.get(main, {}).get(metric, UNDEFINED)
                value, ci = entry.value, entry.ci
                if value is None:
                    text = "withheld" if group.suppressed else "not defined"
                    axes.text(
                        0.02, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8, color="#555"
                    )
                    continue
                if ci:
                    axes.plot(ci, [y, y], color="#333", linewidth=1.4)
                axes.plot([value], [y], color=BLUE, marker="s", markersize=6, linestyle="")
            axes.set_yticks(range(len(groups)), labels, fontsize=8.5)
            axes.set_ylim(len(groups) - 0.5, -0.5)
            if metric == "observed_expected":
                _ratio_scale(axes)

        return paint

    weighted = " IPCW-weighted." if record.part.censoring else ""
    overall = record.part.models[main]["auroc"].value
    height = 0.9 + sum(0.24 * (label.count("\n") + 1) + 0.1 for label in labels)
    drawn = [
        svg("forest-auroc", (WIDTH, height), painter("auroc", overall)),
        svg("forest-oe", (WIDTH, height), painter("observed_expected", 1.0)),
    ]
    rows = [
        (
            *(group.column, group.group, group.n, group.n_events),
            model,
            metric,
            entry.value,
            *(entry.ci or (None, None)),
        )
        for group in groups
        for model, entries in group.models.items()
        for metric, entry in entries.items()
    ]
    header = ("column", "group", "n", "events", "model", "metric", "value", "low", "high")
    return Drawing(
        name="subgroups",
        title=f"Subgroups: {model_words(main)}",
        label=f"Forest plot of AUROC and observed by expected events of {model_words(main)} in {len(groups)} subgroups"
        + (f", {withheld} of them withheld" if withheld else ""),
        caption="Look for intervals that all reach the dotted line: the AUROC of everyone, and as many events as expected "
        "(O:E 1). Above 1 the risks of the group are too low. Many groups are looked at, so one that stands out may do "
        "so by chance."
        + (" Withheld: too few events or non-events." if withheld else "")
        + " The data hold every model."
        + weighted,
        svg=Markup("\n").join(drawn),
        data=table(header, rows),
        panels="large",
    )


def by_place(record: Record, places: Places | None) -> Drawing | None:
    """AUROC, O:E and calibration slope of the main model at each table or site and over them; None
    where there are none."""
    if places is None:
        return None
    found, main, one_of, all_of = places.found, record.main, places.one, places.many
    means = places.means.get(main, {})
    names = [
        f"{textwrap.fill(name, 24)}\n({'few rows' if one.n is None else f'n = {one.n}'})" for name, one in found.items()
    ]
    labels = names + ([f"mean over {all_of}\n(thin: a further {one_of})"] if means else [])
    withheld = sum(one.n_events is None for one in found.values())

    def painter(metric: str) -> Callable[[Figure], None]:
        def paint(figure: Figure) -> None:
            axes = figure.add_subplot()
            axes.set_title(metric_words(metric)[0], fontsize=11)
            axes.axvline(NEUTRAL[metric], **REFERENCE)
            for y, one in enumerate(found.values()):
                entry = one.models.get(main, {}).get(metric, UNDEFINED)
                if entry.value is None:
                    text = "withheld" if one.n_events is None else "not defined"
                    place = axes.get_yaxis_transform()
                    axes.text(0.02, y, text, transform=place, va="center", fontsize=8, color="#555")
                    continue
                if entry.ci:
                    axes.plot(entry.ci, [y, y], color="#333", linewidth=1.4)
                axes.plot([entry.value], [y], color=BLUE, marker="s", markersize=6, linestyle="")
            if metric in means and (mean := means[metric]).value is not None:
                if mean.prediction:
                    axes.plot(mean.prediction, [len(found)] * 2, color="#333", linewidth=0.8)
                if mean.ci:
                    axes.plot(mean.ci, [len(found)] * 2, color=BLUE, linewidth=3)
                axes.plot([mean.value], [len(found)], color=BLUE, marker="D", markersize=7, linestyle="")
            axes.set_yticks(range(len(labels)), labels, fontsize=8.5)
            axes.set_ylim(len(labels) - 0.5, -0.5)
            if metric == "observed_expected":
                _ratio_scale(axes)

        return paint

    height = 0.9 + sum(0.24 * (label.count("\n") + 1) + 0.1 for label in labels)
    rows: list[tuple[Any, ...]] = [
        (name, one.n, one.n_events, model, metric, entry.value, *(entry.ci or (None, None)), None, None)
        for name, one in found.items()
        for model, entries in one.models.items()
        for metric, entry in entries.items()
    ]
    rows += [
        (
            f"mean over {all_of}",
            None,
            None,
            model,
            metric,
            one.value,
            *(one.ci or (None, None)),
            *(one.prediction or (None, None)),
        )
        for model, entries in places.means.items()
        for metric, one in entries.items()
    ]
    header = (one_of, "n", "events", "model", "metric", "value", "low", "high", "further low", "further high")
    return Drawing(
        name=all_of,
        title=f"{all_of.capitalize()}: {model_words(main)}",
        label=f"Forest plot of AUROC, observed by expected events and calibration slope of {model_words(main)} in "
        f"{len(found)} {all_of}" + (f", {withheld} of them withheld" if withheld else ""),
        caption="Look for intervals that all reach the dotted line: chance for the AUROC, 1 for O:E and slope. Diamond: the "
        f"random-effects mean over {all_of} with its interval; its thin line, of three at least, reaches over where a "
        f"further {one_of} is expected to lie (95 % prediction interval). The data hold every model.",
        svg=Markup("\n").join(svg(f"{all_of}-{name}", (WIDTH, height), painter(name)) for name in OVER_TABLES),
        data=table(header, rows),
        panels="large",
    )


def _group_label(group: Group) -> str:
    name = textwrap.fill(f"{group.column}: {group.group}", 24)
    return f"{name}\n({'few rows' if group.n is None else 'n = ' + str(group.n)})"


def _ratio_scale(axes: Axes) -> None:
    """Logarithmic, with ticks that read as ratios."""
    axes.set_xscale("log")
    ticks = [
        tick for tick in (0.1, 0.2, 0.5, 0.8, 1, 1.25, 2, 5, 10) if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]
    ]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


# --------------------------------------------------------------------------------------------------
# training


def _training(training: dict[str, Any]) -> Drawing:
    steps, looks = training["history"]["steps"], training["history"]["validation"]

    def paint(figure: Figure) -> None:
        losses, areas = figure.subplots(2, 1, sharex=True)
        style = {"color": BLUE, "marker": "o", "markersize": 4.5}
        losses.plot(*_series(steps, "loss"), color=GREY, linewidth=0.8, label="Training loss")
        losses.plot(*_series(looks, "log_loss"), **style, label="Validation")
        areas.plot(*_series(looks, "auroc"), **style)
        losses.axvline(training["selected_step"], **REFERENCE, label="Step kept")
        areas.axvline(training["selected_step"], **REFERENCE)
        losses.set(ylabel="Log-loss")
        areas.set(ylabel="AUROC", xlabel="Optimizer step")
        areas.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        legend(figure, columns=3)

    rows: list[tuple[Any, ...]] = [("training", entry["step"], float(entry["loss"]), None) for entry in steps]
    rows += [("validation", entry["step"], float(entry["log_loss"]), entry["auroc"]) for entry in looks]
    return Drawing(
        name="training",
        title="Loss during training",
        label="Training loss over the steps, and log-loss and AUROC on the validation part at each look",
        caption="Look for a validation log-loss that falls with the training loss; where it rises again, the model "
        "learns the training rows by heart.",
        svg=svg("training", (WIDTH, 4.1), paint),
        data=table(("part", "step", "log-loss", "AUROC"), rows),
    )


def _series(entries: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    return [entry["step"] for entry in entries], [entry[name] for entry in entries]


def learning_curve(points: list[dict[str, Any]]) -> Drawing:
    """AUROC and log-loss by the number of training rows; points as `learning_curve.json` holds
    them, one at least."""
    models = in_order({point["model"] for point in points})

    def paint(figure: Figure) -> None:
        panels = figure.subplots(2, 1, sharex=True)
        for axes, metric in zip(panels, PLOTTED, strict=True):
            lines = curves.by_training_rows(points, metric)
            for number, model in enumerate(models):
                line = {rows: values for rows, values in lines[model].items() if values}
                # A little apart, so that bars of the same size do not cover each other.
                at = np.array(list(line)) * 1.03 ** (number - (len(models) - 1) / 2)
                middle = np.array([np.median(values) for values in line.values()])
                low, high = (np.array([end(values) for values in line.values()]) for end in (min, max))
                bars = (middle - low, high - middle)
                label = model_words(model) if axes is panels[0] else None
                axes.errorbar(at, middle, yerr=bars, capsize=3, elinewidth=1, label=label, **look(model))
            axes.set_ylabel(metric_words(metric)[0])
        sizes = sorted({rows for line in lines.values() for rows in line})
        panels[1].set(xlabel="Training rows", xscale="log")
        panels[1].xaxis.set_minor_locator(NullLocator())
        panels[1].set_xticks(sizes, [f"{rows:,.0f}" for rows in sizes], rotation=45)
        legend(figure)

    rows = [(p["model"], p["size"], p["train_rows"], p["seed"], *(p[metric] for metric in PLOTTED)) for p in points]
    return Drawing(
        name="learning-curve",
        title="By the number of training rows",
        label=f"AUROC and log-loss on the test part over the number of training rows: {_listed(models)}",
        caption="Look for where the lines cross and whether they still climb (AUROC) or fall (log-loss) at the right end, "
        "where more patients would help. Points are medians over the seeds, bars reach from the lowest to the highest.",
        svg=svg("learning-curve", (WIDTH, height_with_legend(WIDTH, len(models))), paint),
        data=table(("model", "size", "training rows", "seed", *(metric_words(metric)[0] for metric in PLOTTED)), rows),
    )


# --------------------------------------------------------------------------------------------------
# explanations and costs


def explanations(found: Explanations) -> list[Drawing]:
    """Importance of the columns, and how the mean risk changes with each; what the run has of
    them."""
    drawings = []
    if found.importance:
        drawings.append(_importance(found.importance))
    if found.partial_dependence:
        drawings.append(_partial_dependence(found.partial_dependence))
    return drawings


def _importance(entries: list[Importance]) -> Drawing:
    models = list(dict.fromkeys(entry.model for entry in entries))
    known = [entry for entry in entries if entry.value is not None]

    def painter(model: str) -> Callable[[Figure], None]:
        own = sorted((e for e in known if e.model == model), key=lambda e: -(e.value or 0))[:MOST_COLUMNS]

        def paint(figure: Figure) -> None:
            axes = figure.add_subplot(xlabel="Fall of the AUROC")
            axes.set_title(textwrap.fill(model_words(model), LONGEST), fontsize=11)
            axes.axvline(0, **REFERENCE)
            for y, entry in enumerate(own):
                if entry.ci:
                    axes.plot(entry.ci, [y, y], color="#333", linewidth=1.4)
                axes.plot(
                    [entry.value or 0.0], [y], color=look(model)["color"], marker=look(model)["marker"], linestyle=""
                )
            axes.set_yticks(range(len(own)), [textwrap.fill(_spoken(e.column), 22) for e in own], fontsize=8.5)
            axes.set_ylim(len(own) - 0.5, -0.5)
            axes.xaxis.set_major_locator(MaxNLocator(5))

        return paint

    most = min(MOST_COLUMNS, max((sum(e.model == model for e in known) for model in models), default=1))
    drawn = [
        svg(f"importance{number}", (WIDTH, 1.1 + 0.3 * most), painter(model)) for number, model in enumerate(models)
    ]
    rows = [(e.model, e.column, e.value, *(e.ci or (None, None))) for e in entries]
    return Drawing(
        name="importance",
        title="Which columns matter",
        label=f"Importance of the columns, one panel a model: {_listed(models)}",
        caption="Look for columns whose interval is right of 0: so much worse does the model rank when the column is "
        "shuffled among the patients. It says what the model uses, not what causes the outcome; columns that stand in for "
        "each other look less important than they are.",
        svg=Markup("\n").join(drawn),
        data=table(("model", "column", "importance", "low", "high"), rows),
        panels="large",
    )


def _partial_dependence(entries: list[Dependence]) -> Drawing:
    def painter(entry: Dependence) -> Callable[[Figure], None]:
        words = any(isinstance(x, str) for x in entry.x)
        at = list(range(len(entry.x))) if words else entry.x

        def paint(figure: Figure) -> None:
            unit = f" ({entry.unit})" if entry.unit else ""
            name = textwrap.fill(_spoken(entry.column) + unit, LONGEST)
            axes = figure.add_subplot(xlabel=name, ylabel="Mean risk")
            for model, risks in entry.models.items():
                style = look(model) | ({"linestyle": ""} if words else {"markevery": max(1, len(at) // 5)})
                axes.plot(at, np.array(risks, float), label=model_words(model), **style)
            if words:
                axes.set_xticks(at, [textwrap.fill(str(x), 12) for x in entry.x], fontsize=8.5)
                axes.set_xlim(-0.5, len(at) - 0.5)
            legend(figure, columns=1)

        return paint

    drawn = [
        svg(f"dependence{number}", (3.1, 2.4 + 0.2 * len(entry.models)), painter(entry))
        for number, entry in enumerate(entries)
    ]
    rows = [
        (entry.column, x, model, risk)
        for entry in entries
        for model, risks in entry.models.items()
        for x, risk in zip(entry.x, risks, strict=True)
    ]
    return Drawing(
        name="partial-dependence",
        title="How the risk changes with a column",
        label="Mean risk when a column is set to each value for every row, one panel a column: "
        + ", ".join(_spoken(entry.column) for entry in entries),
        caption="Look for directions that medicine knows; the other columns stay as they are, so combinations may be "
        "rare or impossible where columns go together.",
        svg=Markup("\n").join(drawn),
        data=table(("column", "value", "model", "mean risk"), rows),
        panels="small",
    )


def costs(stages: dict[str, dict[str, Any]]) -> Drawing | None:
    """Seconds a stage; None without stages."""
    if not stages:
        return None
    names, seconds = list(stages), [float(cost["seconds"]) for cost in stages.values()]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot(xlabel="Seconds")
        bars = axes.barh(range(len(names)), seconds, color="#c8d4dc", edgecolor="#333", linewidth=0.8)
        axes.bar_label(bars, [f"{value:.3g}" for value in seconds], padding=3, fontsize=8.5)
        axes.set_yticks(range(len(names)), [_spoken(name) for name in names], fontsize=9)
        axes.set(ylim=(len(names) - 0.5, -0.5), xlim=(0, 1.18 * max([*seconds, 0.01])))

    return Drawing(
        name="costs",
        title="Seconds a stage",
        label="Bars of the seconds that each stage took: "
        + ", ".join(f"{_spoken(name)} {value:.3g}" for name, value in zip(names, seconds, strict=True)),
        caption="Look for the longest bar: it is what a faster machine, or fewer comparators, would shorten.",
        svg=svg("costs", (WIDTH, 0.9 + 0.28 * len(names)), paint),
        data=table(
            ("stage", "seconds", "peak memory (MiB)"),
            [(n, c["seconds"], c["peak_memory_mib"]) for n, c in stages.items()],
        ),
    )


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _listed(models: Any) -> str:
    return ", ".join(model_words(model) for model in models)
