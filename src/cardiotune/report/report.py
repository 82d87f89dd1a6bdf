"""The report: one HTML file and its text twin, made from the files of a run folder.

It says and draws, and computes no metric. Nothing of a single row is written: curves, bins and
counts only. What the run folder does not hold is left out.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from cardiotune.comparators import LANGUAGE, having
from cardiotune.data import roles
from cardiotune.data.small_counts import is_small
from cardiotune.evaluation.catalogue import DIFFERENCES, RAW, SUBGROUPS, THRESHOLDS, Kind, glossary, named
from cardiotune.evaluation.table1 import HIDDEN, SMALL
from cardiotune.files import read_json, write_text
from cardiotune.report import checklists, curves, done, figures, learning_curve, model_card
from cardiotune.report.done import CALIBRATIONS, HEADS, MOST_NAMES
from cardiotune.report.record import Record, read_record
from cardiotune.report.wording import (
    KEY_METRICS,
    METRICS,
    capitalized,
    events,
    in_order,
    metric_words,
    model_words,
    number,
    percent,
    plain,
    reads,
    span,
)
from cardiotune.runs import RunFolder

DECISIONS = {
    "better": "Better than the best classical model",
    "worse": "Not worth it here",
    "no_difference_shown": "Not shown to be worth it",
    "no_comparison": "No comparison",
}
WEIGHTED_WORDS = (
    "every metric, interval and curve on the test part is weighted by the inverse probability of censoring (IPCW), and all "
    "models and calibrators are fitted with these weights"
)
SEVERITIES = ("leak", "warning", "note")
MOST_TABLE1_ROWS = 300
"""More of them nobody reads in a report; `table1.json` has all."""
MOST_MOVED = 5
"""Patients that are named under the probes, and again where risks fell."""
VERDICT = ("auroc", "log_loss")
AT_THRESHOLD = ("flagged", *(metric for metric in THRESHOLDS if metric != "flagged"))
LEARNING_CURVE = Path(learning_curve.FOLDER, learning_curve.FILE)
"""Where `cardiotune learn-curve` leaves the curve in the run folder."""
WATTS = {"cpu": 65, "cuda": 300}
"""Assumed draw of a device that computes: a desktop processor, a data-centre GPU."""


def write_report(run: RunFolder) -> Path:
    """Write `report.html`, its text twin `report.md`, `checklists.md` and `model_card.md`; returns
    the HTML's path.

    Raises DataError when the run has no predictions or no metrics.
    """
    record = read_record(run)
    filled = checklists.fill(record)
    content = {**_words(record), **_drawings(record), "checklists": filled}
    write_text(run.report.with_suffix(".md"), as_text(record))
    write_text(run.path / "checklists.md", checklists.as_markdown(filled))
    write_text(run.path / "model_card.md", model_card.render(record))
    write_text(run.report, _render("report.html.j2", content))
    return run.report


def as_text(record: Record) -> str:
    """The content of `report.md`."""
    return _render("report.md.j2", _words(record))


def _render(name: str, content: dict[str, Any]) -> str:
    html = name.endswith(".html.j2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=html,
        finalize=None if html else plain,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["capitalized"] = capitalized
    return environment.get_template(name).render(content)


def _stages(record: Record) -> dict[str, Any]:
    """Cost of each stage. The report's own time is known only afterwards: what the manifest has is
    an earlier one's."""
    resumed = (record.manifest.get("training") or {}).get("resumed_after_step")
    names = {"train": f"train, after step {resumed} where it was resumed"} if resumed else {}
    found = record.manifest.get("stages", {})
    return {names.get(name, name): cost for name, cost in found.items() if name != "report"}


def _drawings(record: Record) -> dict[str, Any]:
    """What the page has beyond its text twin."""
    points = read_json(record.run.checked(record.run.path / LEARNING_CURVE)).get("points")
    return {
        "figures": figures.performance(record),
        "forest": figures.forest(record),
        "explanations": figures.explanations(record.extras["explanations"]),
        "costs": figures.costs(_stages(record)),
        "learning_figure": figures.learning_curve(points) if points else None,
    }


def _words(record: Record) -> dict[str, Any]:
    part, manifest, extras = record.part, record.manifest, record.extras
    notes, stages = Notes(), _stages(record)
    decided = [metric for metric in METRICS if named(metric).kind is Kind.THRESHOLD]
    others = [metric for metric in METRICS if metric not in (*KEY_METRICS, *decided)]
    return {
        "name": record.config.name,
        "verdict": _verdict(record, notes),
        "audit": _audit(extras["audit"]),
        "done": _done(record),
        "cohort": _cohort(record),
        "table1": _table1(extras["table1"]),
        "cautions": part.get("cautions", []),
        "n": part["n"],
        "events": record.events,
        "censoring": _censoring(record, notes),
        "key": _comparison(record, record.models, KEY_METRICS, notes),
        "others": _comparison(record, record.models, others, notes, delong=True),
        "decided": _comparison(record, record.models, decided, notes),
        "differences": _differences(record, notes),
        "raw": _raw(record, notes),
        "between": done.between(record),
        "calibrators": _calibrators(extras["calibration"]),
        "thresholds": [
            _thresholds(model, part["thresholds"][model], notes) for model in _main_first(record, "thresholds")
        ],
        "threshold_sources": done.thresholds(record),
        "subgroups": _subgroups(record, notes),
        "notes": notes.texts,
        "glossary": glossary(),
        "learning": _learning(record),
        "unexplained": extras["explanations"].get("note"),
        "probes": _probes(extras["probes"]),
        "stages": stages,
        "scoring": _scoring(record),
        "written": _written(manifest.get("free_generation")),
        "versions": _versions(manifest),
        "config": record.run.config.read_text("utf-8"),
    }


class Notes:
    """Reasons for what is undefined: each is written once, and cells point to its number, from
    1."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, reason: str | None) -> int | None:
        """The reason's number."""
        if not reason:
            return None
        if reason not in self.texts:
            self.texts.append(reason)
        return self.texts.index(reason) + 1


def _cell(entry: dict[str, Any], notes: Notes, sign: str = "") -> dict[str, Any]:
    reason = entry.get("reason")
    return {
        "value": number(entry["value"], sign),
        "ci": span(entry.get("ci"), sign),
        "note": notes.number(reason),
        "reason": reason,
    }


# --------------------------------------------------------------------------------------------------
# what was found


def _verdict(record: Record, notes: Notes) -> dict[str, Any]:
    verdict = record.part.get("verdict") or {
        "decision": "no_comparison",
        "text": "This run has no tuned language model, so whether one is worth it is not shown.",
    }
    shown = [model for model in (record.main, verdict.get("against")) if model]
    return {
        "decision": verdict["decision"],
        "title": DECISIONS[verdict["decision"]],
        "text": f"{verdict['text']} {_cost(record, shown)}".strip(),
        "numbers": _comparison(record, shown, VERDICT, notes),
    }


def _cost(record: Record, models: list[str]) -> str:
    """What the compared models cost, in a sentence or two."""
    rows = {row["model"]: row for row in _scoring(record)["rows"]}
    told = [f"{rows[m]['seconds']} s, {rows[m]['energy']} Wh with {rows[m]['name']}" for m in models if m in rows]
    if not told:
        return ""
    spent, resumed = _training_seconds(record), (record.manifest.get("training") or {}).get("resumed_after_step")
    after = f" after step {resumed}, where it was resumed," if resumed else ""
    trained = f" Training the language model{after} took {spent:.0f} s." if spent and "tuned" in models else ""
    return f"Cost of scoring 1,000 patients, energy estimated: {'; '.join(told)}.{trained}"


def _training_seconds(record: Record) -> float | None:
    return record.manifest.get("stages", {}).get("train", {}).get("seconds") if "tuned" in record.models else None


def _audit(audit: dict[str, Any]) -> dict[str, Any]:
    """Whether there was an audit, and severity -> its findings."""
    found = audit.get("findings", [])
    return {"made": bool(audit)} | {
        severity: [f for f in found if f["severity"] == severity] for severity in SEVERITIES
    }


def _comparison(
    record: Record, models: list[str], wanted: Sequence[str], notes: Notes, delong: bool = False
) -> dict[str, Any]:
    """A table with a row a model and a column a metric that the run has; `delong` adds the AUROC
    with that interval."""
    judged = record.part["models"]
    columns = [(metric_words(m), m, "ci") for m in wanted if any(m in entries for entries in judged.values())]
    if delong and any(judged[model]["auroc"].get("delong_ci") for model in models):
        columns.append(((named("auroc").words, "interval by DeLong"), "auroc", "delong_ci"))

    def cell(model: str, metric: str, interval: str) -> dict[str, Any]:
        entry = judged[model].get(metric, {"value": None})
        return _cell(entry | {"ci": entry.get(interval)}, notes)

    rows = [
        {
            "name": model_words(model),
            "main": model == record.main,
            "cells": [cell(model, metric, interval) for _, metric, interval in columns],
        }
        for model in models
    ]
    return {"header": [words for words, _, _ in columns], "rows": rows}


def _differences(record: Record, notes: Notes) -> dict[str, Any]:
    """The tuned model minus each other one."""
    found = record.part.get("differences", {})
    delong = any("delong_p" in entries.get("auroc", {}) for entries in found.values())
    rows = []
    for other in (model for model in record.models if model in found):
        cells = [_cell(found[other][m], notes, "+") | {"reads": reads(m, found[other][m]["ci"])} for m in DIFFERENCES]
        auroc = found[other]["auroc"]
        if delong:
            cells.append(
                {
                    "value": _p(auroc.get("delong_p")),
                    "ci": span(auroc.get("delong_ci"), "+"),
                    "note": None,
                    "reason": None,
                }
            )
        rows.append({"name": model_words(other), "cells": cells})
    header = [metric_words(metric) for metric in DIFFERENCES] + ([("DeLong p", "for the AUROC")] if delong else [])
    return {"header": header, "rows": rows}


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _raw(record: Record, notes: Notes) -> dict[str, Any]:
    """Probabilities before and after correction and calibration, where that changed them."""
    raw, judged = record.part.get("raw", {}), record.part["models"]
    rows = [
        {"name": f"{model_words(model)}, {when}", "cells": [_cell(found[model][metric], notes) for metric in RAW]}
        for model in record.models
        if model in raw
        for when, found in (("as the model gives them", raw), ("as judged above", judged))
    ]
    return {"header": [metric_words(metric) for metric in RAW], "rows": rows}


def _calibrators(found: dict[str, Any]) -> list[str]:
    """How each model's probabilities were calibrated, a line each; steps of a curve are not
    listed."""
    lines = []
    for model, calibrator in (found.get("models") or {}).items():
        numbers = {k: v for k, v in calibrator.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        method = CALIBRATIONS[calibrator["method"]]
        described = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in numbers.items())
        lines.append(f"{model_words(model)}: {method}" + (f" ({described})" if described else ""))
    return lines


def _main_first(record: Record, section: str) -> list[str]:
    found = record.part.get(section, {})
    return sorted((model for model in record.models if model in found), key=lambda model: model != record.main)


def _thresholds(model: str, found: list[dict[str, Any]], notes: Notes) -> dict[str, Any]:
    undefined = {"value": None, "ci": None}
    return {
        "model": model_words(model),
        "header": [metric_words(metric)[0] for metric in AT_THRESHOLD],
        "rows": [
            {
                "name": entry["name"],
                "value": f"at {entry['value']:.3f}",
                "cells": [_cell(entry.get(metric) or undefined, notes) for metric in AT_THRESHOLD],
            }
            for entry in found
        ],
    }


def _subgroups(record: Record, notes: Notes) -> dict[str, Any]:
    """The main model in each group; of small groups only that they are small."""
    undefined = {"value": None, "ci": None}
    rows = []
    for group in record.part.get("subgroups") or []:
        found = (group.get("models") or {}).get(record.main, {})
        rows.append(
            {
                "name": f"{group['column']}: {group['group']}",
                "n": "few" if group["n"] is None else group["n"],
                "events": "few" if group["n_events"] is None else group["n_events"],
                "cells": [_cell(found.get(metric) or undefined, notes) for metric in SUBGROUPS],
            }
        )
    meant = {meaning: roles.Meant(**entry) for meaning, entry in record.cohort.get("meanings", {}).items()}
    return {
        "model": model_words(record.main),
        "header": [metric_words(m)[0] for m in SUBGROUPS],
        "rows": rows,
        "columns": f"What was taken for what: {roles.meanings_in_words(meant)}." if "meanings" in record.cohort else "",
    }


def _censoring(record: Record, notes: Notes) -> dict[str, Any] | None:
    """How many the weights stand for, C-index and observed risk by groups; None when every row
    counts the same."""
    found = record.censoring
    if not found:
        return None
    weights, judged = found["weights"], found.get("models", {})
    models = [model for model in _main_first(record, "models") if model in judged]
    at_risk = "" if weights["n"] is None else f" of {weights['n']}"
    text = (
        f"{weights['n_known']}{at_risk} people of the test part at risk were followed until the outcome was known. They stand "
        f"for the censored by weights of up to {weights['largest_weight']:.2f}, and are worth {weights['effective_n']:.0f} "
        "equally weighted rows."
    )
    reasons = [judged[model]["observed"]["reason"] for model in models if judged[model]["observed"]["groups"] is None]
    return {
        "text": text,
        "c_index": {
            "header": [(named("c_index").words, "not weighted; the censored count until they leave")],
            "rows": [
                {
                    "name": model_words(model),
                    "main": model == record.main,
                    "cells": [_cell(judged[model]["c_index"], notes)],
                }
                for model in models
            ],
        },
        "observed": [
            _observed(model, judged[model]["observed"]["groups"])
            for model in models
            if judged[model]["observed"]["groups"]
        ],
        "unobserved": reasons[0] if reasons else "",
    }


def _observed(model: str, groups: list[dict[str, Any]]) -> dict[str, Any]:
    def cell(value: str, ci: str | None = None) -> dict[str, Any]:
        return {"value": value, "ci": ci, "note": None, "reason": None}

    return {
        "model": model_words(model),
        "header": ["People", "Events", "Mean risk", "Observed risk"],
        "rows": [
            {
                "name": f"group {place}",
                "cells": [
                    cell("not told" if group["n"] is None else str(group["n"])),
                    cell(str(group["n_events"])),
                    cell(number(group["risk"])),
                    cell(number(group["observed"]), span(group["ci"])),
                ],
            }
            for place, group in enumerate(groups, 1)
        ],
    }


def _learning(record: Record) -> dict[str, Any] | None:
    """Tables of the learning curve; None when none was made."""
    points = read_json(record.run.checked(record.run.path / LEARNING_CURVE)).get("points")
    if not points:
        return None
    models = in_order({point["model"] for point in points})
    tables = []
    for metric in learning_curve.METRICS:
        lines = curves.by_training_rows(points, metric)
        sizes = sorted({rows for line in lines.values() for rows in line})
        rows = [
            {"name": model_words(model), "cells": [_of_seeds(lines[model].get(size, [])) for size in sizes]}
            for model in models
        ]
        tables.append({"metric": metric_words(metric), "header": [f"{size:,.0f} rows" for size in sizes], "rows": rows})
    return {"tables": tables, "seeds": len({p["seed"] for p in points})}


def _of_seeds(values: list[float]) -> dict[str, Any]:
    """The median as a cell, with the lowest and the highest of several in the place of the
    interval."""
    spread = (min(values), max(values)) if len(values) > 1 else None
    middle = float(np.median(values)) if values else None
    return {"value": number(middle), "ci": span(spread), "note": None, "reason": None}


def _probes(found: dict[str, Any]) -> dict[str, Any]:
    moved = [(probe["name"], worst) for probe in found.get("probes", []) for worst in probe.get("worst", [])]
    fell = [(f"{r['column']}, raised", worst) for r in found.get("monotonicity", []) for worst in r.get("worst", [])]
    most = sorted(moved, key=lambda pair: -pair[1]["change"])[:MOST_MOVED]
    most += sorted(fell, key=lambda pair: -pair[1]["change"])[:MOST_MOVED]
    return {
        "worst": [{"name": name, "row_id": w["row_id"], "change": number(w["change"])} for name, w in most],
        "note": found.get("note"),
        "probes": [
            {**probe, "cells": [number(probe[name]) for name in ("mean_change", "p95_change", "max_change")]}
            for probe in found.get("probes", [])
        ],
        "monotonicity": [
            {**rule, "share": "–" if rule["share_wrong"] is None else percent(rule["share_wrong"])}
            for rule in found.get("monotonicity", [])
        ],
    }


# --------------------------------------------------------------------------------------------------
# what was done


def _done(record: Record) -> dict[str, str]:
    """Term -> description: what was done, in short."""
    config, manifest, interval = record.config, record.manifest, record.interval
    lines = {
        "Outcome": config.task.outcome,
        "Table": done.source(record).split(", sha256")[0].removeprefix("table ") or Path(config.data.path).name,
        **_language_model(record),
        "Classical models read": done.columns_read(record),
        "Split": done.split(record),
        "Seeds": done.seeds(record),
        "Calibration": done.calibration(record),
        "Threshold": f"a row is flagged at a risk of {config.task.threshold} and above",
        "Censoring": WEIGHTED_WORDS if record.censoring else "",
        "Intervals": f"{percent(interval['level'])}, {interval['method']}, {interval['replicates']} replicates"
        + (f"; but {interval['exceptions']}" if "exceptions" in interval else ""),
        "Device": manifest.get("device"),
        "Started": manifest.get("started"),
    }
    return {term: str(text) for term, text in lines.items() if text}


def _language_model(record: Record) -> dict[str, str]:
    if not set(LANGUAGE) & set(record.models):
        return {}
    tuned = "tuned" in record.models
    return {
        "Base model": done.base_model(record),
        "Method": done.method(record),
        "Head": HEADS[record.config.task.head] if tuned else "",
        "Class imbalance": done.imbalance(record) if done.imbalanced(record) else "",
        "Training": done.training(record),
        "Prompt style": done.prompt_style(record),
    }


def _cohort(record: Record) -> dict[str, Any]:
    """What `cohort.json` says, ready for the templates; empty where it says nothing.

    Small counts are not in the file; where it holds plain numbers, as those of earlier versions do,
    they are written by the rule of Table 1: where it hides one that would give a small count away,
    none of the larger ones is written here.
    """
    found, table1, files = record.cohort, record.extras["table1"], len(record.config.data.files)
    notes = found.get("notes", {})
    hidden = any(row["missing"] == HIDDEN for row in table1.get("columns", []))

    def written(count: int | str) -> int | str:
        return count if isinstance(count, str) else SMALL if is_small(count) else HIDDEN if hidden else count

    def listed(names: list[str]) -> str:
        more = f" and {len(names) - MOST_NAMES} more columns" if len(names) > MOST_NAMES else ""
        return ", ".join(names[:MOST_NAMES]) + more

    missing, outside = (
        listed([f"{name} ({written(count)})" for name, count in notes.get(key, {}).items() if count])
        for key in ("missing", "values_out_of_range")
    )
    equal = notes.get("equal_rows")
    chance = "more than chance explains: copies, or patients with several rows"
    lines = {
        "Missing values": missing,
        "Values out of range, taken as missing": outside,
        "Rows that equal an earlier one in every feature and the outcome": f"{equal['rows']} ("
        f"{chance if equal['beyond_chance'] else 'as many as chance explains; they stay'})"
        if equal
        else "",
        "Columns of the table that were not used": listed(notes.get("columns_ignored", [])),
    }
    return {
        "flow": [
            {**step, "step": f"rows in the {files} files"} if files > 1 and not place else step
            for place, step in enumerate(found.get("flow", []))
        ],
        "parts": [
            (name, "few" if size["n"] is None else size["n"], events(size["n"], size["n_events"]))
            for name, size in found.get("parts", {}).items()
        ],
        "overlap": found.get("overlap"),
        "notes": {title: text for title, text in lines.items() if text},
    }


def _table1(found: dict[str, Any]) -> dict[str, Any]:
    """The rows as they were summarised, as many as can be read; sizes of the groups for the
    header."""
    rows = found.get("columns", [])
    return {"n": found.get("n", {}), "rows": rows[:MOST_TABLE1_ROWS], "more": max(0, len(rows) - MOST_TABLE1_ROWS)}


def _scoring(record: Record) -> dict[str, Any]:
    """What each model's risks cost: seconds to start, to fit and to score, and of scoring 1,000
    patients at that rate.

    The base model's start counts for each that reads it, and the tuned model's costs for what
    stands on it: each line is what the model takes alone. Watt-hours at an assumed draw of the
    device that it ran on.
    """
    manifest = record.manifest
    found = {
        model: {"device": manifest.get("device", "cpu") if model in LANGUAGE else "cpu", **cost}
        for model, cost in manifest.get("scoring", {}).items()
        if cost.get("rows")
    }
    on_base = having(lambda one: one.language == "base")
    base = max((found[m].get("start_seconds", 0) for m in found if m in on_base), default=0)
    rows = []
    for model, cost in found.items():
        needed = [cost, *(found[other] for other in cost.get("needs", []) if other in found)]
        if len(needed) <= len(cost.get("needs", [])):
            continue  # what it stands on has no costs
        seconds = sum(1000 * one["seconds"] / one["rows"] for one in needed)
        spent = sum(1000 * one["seconds"] / one["rows"] * _watts(one) / 3600 for one in needed)
        whole = "fit_seconds" in cost  # an earlier version counted everything as scoring
        start = max(base, cost["start_seconds"]) if whole and model in on_base else None
        fit = sum(one.get("fit_seconds", 0) for one in needed)
        trained = _training_seconds(record) if model == "tuned" or "tuned" in cost.get("needs", []) else None
        rows.append(
            {
                "model": model,
                "name": model_words(model)
                + (
                    ""
                    if not cost.get("needs")
                    else f", with the {' and '.join(map(model_words, cost['needs']))} it needs"
                )
                + ("" if whole else ", starting and fitting included"),
                "rows": cost["rows"],
                "start": _seconds(start if start is not None else sum(one.get("start_seconds", 0) for one in needed)),
                "fit": _seconds(fit + (trained or 0)),
                "measured": _seconds(cost["seconds"]),
                "seconds": _seconds(seconds),
                "energy": f"{spent:.2g}",
            }
        )
    many = max((cost.get("processes", 1) for cost in found.values()), default=1)
    return {"watts": ", ".join(f"{watts} W ({name})" for name, watts in _draws(found)), "processes": many, "rows": rows}


def _seconds(value: float) -> str:
    return "under 0.01" if 0 < value < 0.01 else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _watts(cost: dict[str, Any]) -> float:
    """Of the device that one model ran on; each process has a GPU of its own, and all share one
    processor."""
    kind = _kind(cost)
    return WATTS.get(kind, WATTS["cpu"]) * (cost.get("processes", 1) if kind == "cuda" else 1)


def _kind(cost: dict[str, Any]) -> str:
    return str(cost["device"] or "cpu").partition(":")[0]


def _draws(found: dict[str, dict[str, Any]]) -> list[tuple[str, int]]:
    kinds = {_kind(cost) for cost in found.values()}
    names = {"cpu": "processor", "cuda": "GPU"}
    return [(name, WATTS[kind]) for kind, name in names.items() if kind in kinds]


def _written(found: dict[str, Any] | None) -> str:
    """What came of answers in words, in a sentence."""
    if not found:
        return ""
    parsed = found["accuracy_parsed"]
    rest = "" if parsed is None else f", and {parsed:.1%} of those that could be parsed"
    return (
        f"Free generation: {found['n_unparsable']} of {found['n']} written answers ({found['share_unparsable']:.1%}) could not "
        f"be parsed. Counted as wrong, as is usual where answers are parsed, {found['accuracy']:.1%} of all are right{rest}. The "
        "table counts them so too, as neither flagged nor unflagged, and as wrong. Words are no probabilities, so there are no "
        "figures but those at a threshold."
    )


def _versions(manifest: dict[str, Any]) -> dict[str, str]:
    data = manifest.get("data", {})
    found = {"git commit": manifest.get("git_commit"), "sha256 of the table": data.get("sha256")}
    return {**manifest.get("versions", {}), **{term: text for term, text in found.items() if text}}
