"""The report: one HTML file and its text twin, made from the files of a run folder.

It says and draws, and computes no metric. Nothing of a single row is written: curves, bins and
counts only. What the run folder does not hold is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from cardiotune.audit.findings import SEVERITIES, Finding
from cardiotune.comparators import LANGUAGE, having
from cardiotune.data.small_counts import is_small
from cardiotune.evaluation.catalogue import Kind, glossary, named
from cardiotune.evaluation.judgement import Decision, Verdict
from cardiotune.evaluation.probes import Monotone, Probe, Probed
from cardiotune.evaluation.table1 import HIDDEN, SMALL, Table1, Table1Row
from cardiotune.files import read_json, write_text
from cardiotune.models.saved import saved_models
from cardiotune.report import checklists, coefficients, done, figures, learning_curve, model_card, places, tables
from cardiotune.report.done import CALIBRATIONS, HEADS, MOST_NAMES
from cardiotune.report.record import Record, read_record
from cardiotune.report.tables import Notes
from cardiotune.report.wording import (
    KEY_METRICS,
    SHOWN,
    capitalized,
    events,
    model_words,
    number,
    percent,
    plain,
)
from cardiotune.runs import RunFolder

DECISIONS = {
    "better": "Better than every classical model",
    "worse": "Not worth it here",
    "no_difference_shown": "Not shown to be worth it",
    "too_small_to_judge": "Too small to judge",
    "no_comparison": "No comparison",
}
WEIGHTED_WORDS = (
    "every metric, interval and curve on the test part is weighted by the inverse probability of censoring (IPCW), and all "
    "models and calibrators are fitted with these weights"
)
MOST_TABLE1_ROWS = 300
"""More of them nobody reads in a report; `table1.json` has all."""
MOST_MOVED = 5
"""Patients that are named under the probes, and again where risks fell."""
VERDICT = ("auroc", "log_loss", "calibration_slope", "observed_expected")
"""What stands beside the verdict: what decides it, and whether the risks are right."""
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
    points = _points(record)
    return {
        "figures": figures.performance(record),
        "forest": figures.forest(record),
        "tables_figure": figures.by_place(record, places.tables(record)),
        "sites_figure": figures.by_place(record, places.sites(record)),
        "instability": figures.instability(record),
        "explanations": figures.explanations(record.explanations),
        "costs": figures.costs(_stages(record)),
        "learning_figure": figures.learning_curve(points) if points else None,
    }


def _points(record: Record) -> list[dict[str, Any]]:
    """Of the learning curve; none without one."""
    points: list[dict[str, Any]] = read_json(record.run.checked(record.run.path / LEARNING_CURVE)).get("points", [])
    return points


def _words(record: Record) -> dict[str, Any]:
    part, manifest = record.part, record.manifest
    notes, stages = Notes(), _stages(record)
    decided = [metric for metric in SHOWN if named(metric).kind is Kind.THRESHOLD]
    others = [metric for metric in SHOWN if metric not in (*KEY_METRICS, *decided)]
    return {
        "name": record.config.name,
        "verdict": _verdict(record, notes),
        "audit": _audit(record.findings),
        "done": _done(record),
        "cohort": _cohort(record),
        "table1": _table1(record.table1),
        "cautions": part.cautions,
        "n": part.n,
        "events": record.events,
        "censoring": tables.censoring(record, notes),
        "sample_size": tables.sample_size(record),
        "key": tables.comparison(record, record.models, KEY_METRICS, notes),
        "others": tables.with_delong(tables.comparison(record, record.models, others, notes), record, notes),
        "decided": tables.comparison(record, record.models, decided, notes),
        "differences": tables.differences(record, notes),
        "raw": tables.raw(record, notes),
        "between": done.between(record),
        "coefficients": coefficients.tables(record),
        "calibrators": _calibrators(record.calibration),
        "thresholds": [
            tables.at_thresholds(model, part.thresholds[model], notes)
            for model in tables.main_first(record, part.thresholds)
        ],
        "threshold_sources": done.thresholds(record),
        "folds": bool(record.part.cross_validation),
        "steady": tables.steady(record),
        "by_table": tables.by_place(record, places.tables(record), notes),
        "by_site": tables.by_place(record, places.sites(record), notes),
        "subgroups": tables.subgroups(record, notes),
        "notes": notes.texts,
        "glossary": glossary(),
        "learning": tables.learned(_points(record)),
        "unexplained": record.explanations.note,
        "probes": _probes(record.probes),
        "stages": stages,
        "scoring": _scoring(record),
        "written": _written(manifest.get("free_generation")),
        "versions": _versions(manifest),
        "config": record.run.config.read_text("utf-8"),
    }


# --------------------------------------------------------------------------------------------------
# what was found


@dataclass(frozen=True, slots=True)
class Headline:
    """The verdict, at the head of the page."""

    decision: Decision
    title: str
    text: str
    numbers: tables.WrittenTable


def _verdict(record: Record, notes: Notes) -> Headline:
    verdict = record.part.verdict or Verdict(
        "no_comparison", "This run has no tuned language model, so whether one is worth it is not shown."
    )
    otherwise = verdict.unharmonised.against if verdict.unharmonised else None
    shown = list(dict.fromkeys(model for model in (record.main, verdict.against, otherwise) if model))
    return Headline(
        verdict.decision,
        DECISIONS[verdict.decision],
        " ".join(filter(None, (verdict.text, _at_hand(record, verdict), _cost(record, shown)))),
        tables.comparison(record, shown, VERDICT, notes),
    )


def _at_hand(record: Record, verdict: Verdict) -> str:
    """How the model is used that the verdict prefers to the tuned one; empty where that is the
    tuned one, none is saved, or the run has several tables, which `--model` does not read."""
    preferred = verdict.against if "tuned" in record.models else record.main
    if verdict.decision == "better" or record.config.tables or preferred not in saved_models(record.run):
        return ""
    return (
        f"{capitalized(model_words(preferred))} is saved with the run: cardiotune predict RUN TABLE --model {preferred} "
        "scores new patients with it."
    )


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


@dataclass(frozen=True, slots=True)
class Audited:
    """Whether there was an audit, and its findings by severity."""

    made: bool
    leak: list[Finding]
    warning: list[Finding]
    note: list[Finding]


def _audit(findings: list[Finding] | None) -> Audited:
    leak, warning, note = ([f for f in findings or [] if f.severity == severity] for severity in SEVERITIES)
    return Audited(findings is not None, leak, warning, note)


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


@dataclass(frozen=True, slots=True)
class Steadiness:
    """What came of the probes."""

    worst: list[tuple[str, str, str]]
    """Row id, what was changed, and by how much the risk moved."""
    note: str | None
    probes: list[tuple[Probe, list[str]]]
    """Each with its changes, written."""
    monotonicity: list[tuple[Monotone, str]]
    """Each with the share that moved the wrong way, written."""


def _probes(found: Probed) -> Steadiness:
    moved = [(probe.name, worst) for probe in found.probes for worst in probe.worst]
    fell = [(f"{rule.column}, raised", worst) for rule in found.monotonicity for worst in rule.worst]
    most = sorted(moved, key=lambda pair: -pair[1].change)[:MOST_MOVED]
    most += sorted(fell, key=lambda pair: -pair[1].change)[:MOST_MOVED]
    return Steadiness(
        [(worst.row_id, name, number(worst.change)) for name, worst in most],
        found.note,
        [
            (probe, [number(change) for change in (probe.mean_change, probe.p95_change, probe.max_change)])
            for probe in found.probes
        ],
        [(rule, "–" if rule.share_wrong is None else percent(rule.share_wrong)) for rule in found.monotonicity],
    )


# --------------------------------------------------------------------------------------------------
# what was done


def _done(record: Record) -> dict[str, str]:
    """Term -> description: what was done, in short."""
    config, manifest, interval = record.config, record.manifest, record.interval
    lines = {
        "Outcome": config.task.outcome,
        **_tables(record),
        **_language_model(record),
        "Classical models read": done.columns_read(record),
        **done.matching(record),
        "Split": done.split(record),
        "What is shown": done.pooled(record),
        "Seeds": done.seeds(record),
        "Calibration": done.calibration(record),
        "Threshold": done.threshold(record),
        "Censoring": WEIGHTED_WORDS if record.part.censoring else "",
        "Intervals": f"{percent(interval.level)}, {interval.method}, {interval.replicates} replicates"
        + (f"; but {interval.exceptions}" if interval.exceptions else ""),
        "Device": manifest.get("device"),
        "Started": manifest.get("started"),
    }
    return {term: str(text) for term, text in lines.items() if text}


def _tables(record: Record) -> dict[str, str]:
    """The table's file, or those of several tables by their names."""
    if record.config.tables:
        files = record.manifest.get("data", {}).get("tables", {})
        return {"Tables": "; ".join(f"{name}: {found['file']}" for name, found in files.items())}
    first = done.source(record).split(", sha256")[0].removeprefix("table ")
    return {"Table": first or Path(record.config.data.path).name}


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
    found, files = record.cohort, len(record.config.data.files)
    notes = found.get("notes", {})
    hidden = any(row.missing == HIDDEN for row in record.table1.columns)

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


@dataclass(frozen=True, slots=True)
class Table1Shown:
    """As many rows as can be read, and how many more there are; sizes of the groups for the
    header."""

    n: Mapping[str, int]
    rows: list[Table1Row]
    more: int


def _table1(found: Table1) -> Table1Shown:
    return Table1Shown(found.n, found.columns[:MOST_TABLE1_ROWS], max(0, len(found.columns) - MOST_TABLE1_ROWS))


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
