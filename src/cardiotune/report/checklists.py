"""Reporting checklists, filled with what the run knows: TRIPOD+AI, TRIPOD-LLM and a PROBAST+AI
sheet.

Items stand in `checklists.json` with their published numbers, in short words of our own, each with
the names of the facts that answer it and with what only the authors can add. What the run does not
know is "not provided": nothing is guessed.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cardiotune.audit.findings import Finding
from cardiotune.comparators import LANGUAGE, having
from cardiotune.data.schema import label
from cardiotune.data.serialize import shared_pieces
from cardiotune.data.small_counts import HIDDEN, is_small
from cardiotune.evaluation.sample_size import Needed, SampleSize
from cardiotune.evaluation.verdict import FEW_ROWS
from cardiotune.models.saved import saved_models
from cardiotune.report import done
from cardiotune.report.done import MISSING
from cardiotune.report.record import Record
from cardiotune.report.wording import capitalized, estimate, listed, metric_words, model_words, percent, plain
from cardiotune.settings import Config

FILE = Path(__file__).with_suffix(".json")
NOT_PROVIDED = "not provided"


@dataclass(frozen=True)
class Answer:
    """One item of a checklist and what the run says to it."""

    number: str
    section: str
    asks: str
    answer: str
    authors: str
    """What only the authors can add; empty where nothing is left."""

    @property
    def provided(self) -> bool:
        """Whether the run knows anything about it."""
        return self.answer != NOT_PROVIDED


@dataclass(frozen=True)
class Checklist:
    """A filled checklist."""

    name: str
    title: str
    source: str
    numbering: str
    answers: list[Answer]

    @property
    def provided(self) -> int:
        """How many items the run answers, at least in part."""
        return sum(answer.provided for answer in self.answers)


def fill(record: Record) -> list[Checklist]:
    """The checklists that concern the run; TRIPOD-LLM only where a language model is used."""
    known = facts(record)
    return [
        Checklist(
            **{key: entry[key] for key in ("name", "title", "source", "numbering")},
            answers=[_answer(item, known) for item in entry["items"]],
        )
        for entry in json.loads(FILE.read_text("utf-8"))
        if record.config.needs_llm or not entry.get("llm_only")
    ]


def _answer(item: dict[str, Any], known: dict[str, str]) -> Answer:
    found = [known[name] for name in item["facts"] if known.get(name)]
    return Answer(
        number=item["number"],
        section=item["section"],
        asks=item["asks"],
        answer=". ".join(map(capitalized, found)) or NOT_PROVIDED,
        authors=item["authors"],
    )


def as_markdown(checklists: list[Checklist]) -> str:
    """The content of `checklists.md`."""
    lines = [
        "# Checklists",
        "",
        "Filled from the files of the run. The authors check every line and add what is left.",
        "",
    ]
    for checklist in checklists:
        lines += [f"## {checklist.name}", "", f"{checklist.title}. {checklist.source}.", ""]
        lines += [f"Numbering: {checklist.numbering}.", ""]
        lines += [f"The run answers {checklist.provided} of {len(checklist.answers)} lines, in full or in part.", ""]
        lines += [
            "| Item | Section | What is asked | What the run says | For the authors to add |",
            "|---|---|---|---|---|",
        ]
        for line in checklist.answers:
            cells = (line.number or "–", line.section, line.asks, line.answer, line.authors or "–")
            lines.append("| " + " | ".join(plain(cell) for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------
# what the run knows


def facts(record: Record) -> dict[str, str]:
    """Name -> a sentence without its full stop. A fact that the run does not know is empty or not
    there."""
    return {
        **_about_data(record),
        **_about_models(record),
        **(_about_the_language_model(record) if set(LANGUAGE) & set(record.models) else {}),
        **_about_results(record),
    }


def _about_data(record: Record) -> dict[str, str]:
    data = record.config.data
    units = [", ".join(filter(None, (data.columns[name].type, data.columns[name].unit))) for name in data.inputs]
    predictors = [f"{name} ({unit})" for name, unit in zip(data.inputs, units, strict=True)]
    return {
        "source": done.source(record),
        "flow": done.flow(record),
        "checks": done.checks(record),
        "outcome": done.outcome(record),
        "predictors": f"{len(predictors)} columns: {done.columns(predictors)}",
        "predictor_choice": done.predictor_choice(record),
        "size": done.size(record),
        "size_to_develop": _needed((record.part.sample_size or SampleSize()).develop),
        "size_to_validate": _needed((record.part.sample_size or SampleSize()).validate),
        "missing": _missing(record, record.models),
        "main_missing": _missing(record, [record.main]),
        "split": done.split(record),
        "seeds": f"seeds: {done.seeds(record)}",
        "characteristics": "Table 1 of the report" if record.table1.columns else "",
        "overlap": _overlap(record.cohort.get("overlap", {})),
        "audit": _audit(record.findings),
    }


def _needed(found: Needed | None) -> str:
    """By Riley's criteria."""
    if found is None:
        return ""
    words = "to validate" if found.parameters is None else f"to develop a regression of {found.parameters} parameters"
    return (
        f"{words} it takes {found.most:,} rows by Riley's criteria, at the AUROC of {found.auroc:.2f} and prevalence of "
        f"{percent(found.prevalence)} found; there are {found.here:,}"
    )


def _missing(record: Record, models: list[str]) -> str:
    """Without the sum where Table 1 withholds a column's count: the sum less the others would tell
    it."""
    text, counts = done.missing(record, models), record.cohort.get("notes", {}).get("missing")
    if counts is None:
        return text
    text = f"{text}; " if text else ""
    where = f"in {sum(map(bool, counts.values()))} of {len(counts)} columns"
    numbers = [count for count in counts.values() if not isinstance(count, str) and not is_small(count)]
    withheld = len(numbers) < len(counts) or HIDDEN in [row.missing for row in record.table1.columns]
    return f"{text}{'' if withheld else f'{sum(numbers)} '}values are missing {where}"


def _overlap(overlap: dict[str, dict[str, int | str]]) -> str:
    words = {"rows": "in every feature", "texts": "in the text"}
    counts = [f"{found['test_in_train']} {words.get(kind, kind)}" for kind, found in overlap.items()]
    return (
        f"parts are disjoint by row; test rows with an identical twin in training: {', '.join(counts)}"
        if counts
        else ""
    )


def _audit(findings: list[Finding] | None) -> str:
    if findings is None:
        return ""
    found = [finding.severity for finding in findings]
    return f"automatic audit, listed in the report; leaks: {found.count('leak')}, warnings: {found.count('warning')}"


def _about_models(record: Record) -> dict[str, str]:
    config, manifest = record.config, record.manifest
    commit = manifest.get("git_commit")
    versions = manifest.get("versions", {})
    stages = manifest.get("stages", {})
    seconds = sum(cost["seconds"] for name, cost in stages.items() if name != "report")
    step = (manifest.get("training") or {}).get("resumed_after_step")
    resumed = f" (of training what came after step {step}, where it was resumed)" if step else ""
    language = set(LANGUAGE) & set(record.models)
    device = manifest.get("device", "" if language else "cpu")
    tuned, models = "tuned" in record.models, ", ".join(map(model_words, record.models))
    development = (
        "development and evaluation" if set(having(lambda one: one.fitted)) & set(record.models) else "evaluation"
    )
    ready, main = config.data.name_of("text"), done.description(record.main)
    lacks = (
        'a missing text is written as "not recorded"'
        if ready
        else f"a missing value is {MISSING[config.serialize.missing]}"
    )
    saved = saved_models(record.run)
    return {
        "study": f"{development} of prediction models for {config.task.outcome}: {models}",
        "use": "research only, not for clinical use; the run states no intended clinical use",
        "models": f"compared on the same rows: {models}" if len(record.models) > 1 else f"one model: {models}",
        "model": f"{model_words(record.main)}: {main}",
        "main_handling": done.handling(record, [record.main]),
        "handling": done.handling(record),
        "imbalance": done.imbalance(record),
        "output": f"a probability; {done.threshold(record)}",
        "thresholds": _thresholds(record),
        "new_patients": _new_patients(record),
        "poor_input": f"at scoring, {lacks}, an implausible one is taken as missing, and both are counted for each row"
        if tuned
        else "",
        "code": f"CardioTune {versions.get('cardiotune', '')}{f', git commit {commit}' if commit else ''}"
        if versions
        else "",
        "date": f"run started {manifest['started'][:10]}" if manifest.get("started") else "",
        "compute": f"{seconds:.0f} s in all{resumed}{f' on {device}' if device else ''}, highest memory "
        f"{max(cost['peak_memory_mib'] for cost in stages.values())} MiB"
        if stages
        else "",
        "untouched": "the checkpoint is chosen on validation rows only; this run scores the test part afterwards"
        if tuned
        else "",
        "one_split": f"yes: {done.split(record)}"
        if record.part.cross_validation
        else "does not apply: the test part is held out once; only its rows are resampled, for intervals",
        "calibration": f"calibration: {found}" if (found := done.calibration(record)) else "",
        "main_calibration": f"calibration: {done.calibration(record, [record.main]) or 'none'}",
        "artefacts": "the run folder: settings, hashes of data and files"
        + (", weights of what was tuned" if tuned else "")
        + (", the fitted classical models (classical/)" if saved else "" if tuned else "; no fitted model is kept"),
    }


def _new_patients(record: Record) -> str:
    """How risks of new patients are had."""
    own = [] if "tuned" not in record.models else ["from the run folder alone, with `cardiotune predict RUN TABLE`"]
    saved = [model for model in saved_models(record.run) if model in record.models]
    own += [f"by {listed(map(model_words, saved))} with `--model {' | '.join(saved)}`"] if saved else []
    return "; ".join(own)


def _thresholds(record: Record) -> str:
    found = record.part.thresholds.get(record.main, [])
    named = [f"{entry.name} ({entry.value:.3f})" for entry in found]
    if not named:
        return ""
    sources = done.thresholds(record)
    return f"also judged at {', '.join(named)}, fixed before the test part was looked at{f': {sources}' if sources else ''}"


def _about_the_language_model(record: Record) -> dict[str, str]:
    pieces = shared_pieces(record.config.task)
    asked = f'instruction: "{pieces.instruction}"; question: "{pieces.question}"'
    if pieces.alone:
        asked = "no instruction and no question: the patient's text is the whole prompt"
    return {
        "base_model": f"base model {done.base_model(record)}",
        "method": done.method(record) or "no fine-tuning",
        "training": done.training(record),
        "prompt": f"{asked}; {done.prompt_style(record)}",
        "main_prompt": f"{asked}; {done.prompt_style(record, [record.main])}",
        "text": done.text(record),
        "scoring": done.scoring(record),
        "main_scoring": done.scoring(record, [record.main]),
        "no_generation": _written(record.manifest.get("free_generation")),
    }


def _written(found: dict[str, Any] | None) -> str:
    if found is None:
        return "does not apply: no text is generated"
    return (
        f"one comparator writes its answers, greedily, and they are parsed: {found['n_unparsable']} of {found['n']} could not "
        "be parsed"
    )


def _about_results(record: Record) -> dict[str, str]:
    part, main = record.part, record.main
    columns = list(dict.fromkeys(group.column for group in done.judged_groups(record)))
    data = record.config.data
    site = data.name_of("site")
    judged = part.models[main]
    shown = [metric for metric in ("auroc", "brier", "calibration_slope", "observed_expected") if metric in judged]
    measures = ["discrimination (AUROC, AUPRC)", "calibration (intercept, slope, figure)", "Brier score, log-loss"]
    measures += ["net benefit (decision curve)"] if part.decision_curve else []
    if part.censoring and part.censoring.models:
        measures.append(metric_words("c_index")[0])
    interval = record.interval
    raw = part.raw.get(main)
    sites = site is not None and label(site, data.columns[site]) in columns
    return {
        "measures": "; ".join(measures),
        "intervals": f"{percent(interval.level)} by {interval.method}, {interval.replicates} replicates"
        + (f"; but {interval.exceptions}" if interval.exceptions else ""),
        "performance": f"{model_words(main)}: "
        + ", ".join(f"{metric_words(m)[0]} {estimate(judged[m])}" for m in shown),
        "subgroups": done.subgroups(record),
        "subgroups_judged": f"discrimination, calibration and missed events by {', '.join(columns)}" if columns else "",
        "sites": "performance by site, in the subgroup table" if sites else "",
        "updating": f"log-loss {estimate(raw['log_loss'])} before and {estimate(judged['log_loss'])} after "
        f"{done.between(record, [main]) or 'an adjustment'}"
        if raw
        else "",
        "verdict": part.verdict.text.rstrip(".") if part.verdict else "",
        "limits": _limits(record),
        "probes": f"{len(record.probes.probes)} changes of the input tried; see the report"
        if record.probes.probes
        else "",
    }


def _limits(record: Record) -> str:
    n, happened = record.part.n, record.part.n_events
    limits = []
    if happened is None or min(happened, n - happened) < FEW_ROWS:
        limits.append(
            f"the test part has {n} rows and {'few' if happened is None else happened} events, so intervals are wide"
        )
    if same := _from_training(record.config):
        limits.append(same)
    return "; ".join(limits)


def _from_training(config: Config) -> str:
    """What test rows from tables of training do not show; empty where none is from there."""
    mixed, held = config.mixed_tables, config.test_tables
    if config.split.by == "cross_validation" and not config.split.whole_sites:
        return "all rows come from one table, so nothing is shown about other places or times"
    if config.split.by != "random" or (config.tables and not mixed):
        return ""
    if held:
        return (
            f"test rows of {listed(mixed)} come from tables of training, so only those of {listed(held)} may show anything "
            "about other places or times"
        )
    tables = "tables" if config.tables else "table"
    return f"the test part comes from the same {tables} as training, so nothing is shown about other places or times"
