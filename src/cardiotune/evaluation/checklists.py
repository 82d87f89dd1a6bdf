"""Reporting checklists, filled with what the run knows: TRIPOD+AI, TRIPOD-LLM and a PROBAST+AI sheet.

Items stand in `checklists.json` with their published numbers, in short words of our own, each with the names of the facts
that answer it and with what only the authors can add. What the run does not know is "not provided": nothing is guessed.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cardiotune.config import Config
from cardiotune.data.small_counts import HIDDEN, is_small
from cardiotune.evaluation.record import Record, read_record
from cardiotune.evaluation.wording import (
    capitalized,
    estimate,
    events,
    metric_words,
    model_words,
    percent,
    plain,
    step_words,
)
from cardiotune.runs import RunFolder, write_text

FILE = Path(__file__).with_suffix(".json")
NOT_PROVIDED = "not provided"
FEW_EVENTS = 100
"""Fewer events, or non-events, in the test part judge a model poorly. Collins et al., Stat Med 2016;35:214."""
SPLITS = {
    "random": "random, stratified by the outcome",
    "site": "whole sites held out",
    "time": "latest rows held out",
    "column": "given by a column of the table",
    "files": "the test part is a file of its own",
}
OUT_OF_RANGE = {
    "exclude": "rows with an implausible value are left out",
    "missing": "an implausible value is taken as missing",
    "error": "an implausible value stops the run",
}
MOST_NAMES = 200
"""Names of columns that a line of a checklist or a model card lists."""
DUPLICATES = {
    "by_id": "rows that repeat an id and all its values are left out; equal rows without an id stay",
    "exclude": "rows equal to an earlier one are left out",
    "keep": "equal rows stay",
    "error": "equal rows stop the run",
}
MISSING = {"say": 'written as "not recorded" in the text', "omit": "left out of the text"}
QUANTIZED = {"none": "not quantized", "nf4": "in 4 bits (NF4)", "int8": "in 8 bits"}


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


def write_checklists(run: RunFolder) -> Path:
    """Write `checklists.md` into the run folder. Raises DataError when the run has no predictions or no metrics."""
    file = run.path / "checklists.md"
    write_text(file, as_markdown(fill(read_record(run))))
    return file


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


# ---------------------------------------------------------------------------------------------------------------------
# what the run knows


def facts(record: Record) -> dict[str, str]:
    """Name -> a sentence without its full stop. A fact that the run does not know is empty or not there."""
    return {
        **_about_data(record),
        **_about_models(record),
        **(_about_the_language_model(record) if record.config.needs_llm else {}),
        **_about_results(record),
    }


def _about_data(record: Record) -> dict[str, str]:
    config, cohort, manifest = record.config, record.cohort, record.manifest
    data, split, notes = config.data, config.split, cohort.get("notes", {})
    file, digest = manifest.get("data", {}).get("file"), manifest.get("data", {}).get("sha256")
    units = [f"{name} ({data.columns[name].unit})" if data.columns[name].unit else name for name in data.inputs]
    flow = [f"{step['excluded']} excluded ({step['step']})" for step in cohort.get("flow", [])[1:]]
    train = 1 - split.validation - split.test
    shares = f" ({percent(train)} training, {percent(split.validation)} validation, {percent(split.test)} test)"
    group = data.name_of("group")
    return {
        "source": f"table {file}, sha256 {digest[:12]}…" if file and digest else "",
        "flow": f"{cohort['flow'][0]['left']} rows in the table; {', '.join(flow) or 'none excluded'}; "
        f"{cohort['flow'][-1]['left']} analysed"
        if cohort.get("flow")
        else "",
        "checks": f"types, codes and plausible ranges checked by a data dictionary: {OUT_OF_RANGE[data.out_of_range]}; "
        f"{DUPLICATES[data.duplicate_rows]}",
        "outcome": f"{config.task.outcome}, yes or no, from column {data.name_of('target')}",
        "predictors": f"{len(units)} columns: {', '.join(units[:MOST_NAMES])}"
        + (f" and {len(units) - MOST_NAMES} more, listed in config.yaml" if len(units) > MOST_NAMES else ""),
        "predictor_choice": "all feature columns of the data dictionary; the run selects none by its relation to the outcome",
        "size": "; ".join(
            f"{part}: {size['n'] or 'few'} rows, {events(size['n'], size['n_events'])}"
            for part, size in cohort.get("parts", {}).items()
        ),
        "missing": _missing(config, notes.get("missing"), record.extras["table1"]),
        "split": f"{SPLITS[split.by]}{'' if split.by in ('column', 'files') else shares}"
        + (f"; rows of one {group} stay together" if group else ""),
        "seeds": f"seed {config.seed}, split seed {config.split_seed}",
        "characteristics": "Table 1 of the report" if record.extras["table1"] else "",
        "overlap": _overlap(cohort.get("overlap", {})),
        "audit": _audit(record.extras["audit"]),
    }


def _missing(config: Config, counts: dict[str, int | str] | None, table1: dict[str, Any]) -> str:
    """Without the sum where Table 1 withholds a column's count: the sum less the others would tell it."""
    text = (
        f"missing values are {MISSING[config.serialize.missing]} for the language model; classical models learn how to fill "
        "them on the training part"
    )
    if counts is None:
        return text
    where = f"in {sum(map(bool, counts.values()))} of {len(counts)} columns"
    numbers = [count for count in counts.values() if not isinstance(count, str) and not is_small(count)]
    withheld = len(numbers) < len(counts) or HIDDEN in [row["missing"] for row in table1.get("columns", [])]
    return f"{text}; {'' if withheld else f'{sum(numbers)} '}values are missing {where}"


def _overlap(overlap: dict[str, dict[str, int | str]]) -> str:
    words = {"rows": "in every feature", "texts": "in the text"}
    counts = [f"{found['test_in_train']} {words.get(kind, kind)}" for kind, found in overlap.items()]
    return (
        f"parts are disjoint by row; test rows with an identical twin in training: {', '.join(counts)}"
        if counts
        else ""
    )


def _audit(audit: dict[str, Any]) -> str:
    if not audit:
        return ""
    found = [finding["severity"] for finding in audit.get("findings", [])]
    return f"automatic audit, listed in the report; leaks: {found.count('leak')}, warnings: {found.count('warning')}"


def _about_models(record: Record) -> dict[str, str]:
    config, manifest = record.config, record.manifest
    commit = manifest.get("git_commit")
    versions = manifest.get("versions", {})
    weights, oversample = config.imbalance.class_weights, config.imbalance.oversample
    used = [name for name, on in (("class weights", weights != "none"), ("oversampling", oversample)) if on]
    stages = manifest.get("stages", {})
    seconds = sum(cost["seconds"] for name, cost in stages.items() if name != "report")
    tuned = "tuned" in record.models
    return {
        "study": "development and evaluation of prediction models for "
        f"{config.task.outcome}: {', '.join(map(model_words, record.models))}",
        "use": "research only, not for clinical use; the run states no intended clinical use",
        "models": f"compared on the same rows: {', '.join(map(model_words, record.models))}",
        "handling": "classical models: medians with an indicator for missing numbers, scaling and one-hot codes, learned "
        "on the training part; language model: the row as text",
        "imbalance": f"{' and '.join(used)} in the training part only, taken out of the probabilities again"
        if used
        else "no class weights, no oversampling",
        "output": f"a probability; a row is flagged at {config.task.threshold} and above",
        "thresholds": _thresholds(record),
        "new_patients": "from the run folder alone, with `cardiotune predict RUN TABLE`" if tuned else "",
        "poor_input": f"at scoring, a missing value is {MISSING[config.serialize.missing]}, an implausible one is taken as "
        "missing, and both are counted for each row"
        if tuned
        else "",
        "code": f"CardioTune {versions.get('cardiotune', '')}{f', git commit {commit}' if commit else ''}"
        if versions
        else "",
        "date": f"run started {manifest['started'][:10]}" if manifest.get("started") else "",
        "compute": f"{seconds:.0f} s in all on {manifest.get('device', 'cpu')}, highest memory "
        f"{max(cost['peak_memory_mib'] for cost in stages.values())} MiB"
        if stages
        else "",
        "untouched": "the checkpoint is chosen on validation rows only; this run scores the test part afterwards"
        if tuned
        else "",
        "one_split": "does not apply: the test part is held out once; only its rows are resampled, for intervals",
        "calibration": _calibration(record),
        "artefacts": "the run folder: settings, hashes of data and files"
        + (", weights of what was tuned" if tuned else "; no fitted classical model is kept"),
    }


def _thresholds(record: Record) -> str:
    found = record.part.get("thresholds", {}).get(record.main, [])
    named = [f"{entry['name']} ({entry['value']:.3f})" for entry in found]
    return f"also judged at {', '.join(named)}, fixed before the test part was looked at" if named else ""


def _calibration(record: Record) -> str:
    found = record.extras["calibration"]
    if not found.get("method"):
        return ""
    size = f", {found['n']} rows, {found['n_events'] or 'few'} events" if found.get("n") else ""
    return f"calibration by {found['method']}, fitted on the {found.get('fitted_on', 'validation')} part{size}"


def _about_the_language_model(record: Record) -> dict[str, str]:
    config, manifest = record.config, record.manifest
    base = {"name": config.model.name, "revision": config.model.revision, "license": config.model.license}
    base |= manifest.get("base_model") or {}
    revision = f", revision {base['revision']}" if base["revision"] else ""
    revision += f", from {base['source']}" if base.get("source") else ""
    tokens, task = record.cohort.get("tokens") or {}, config.task
    method, summary = config.method, manifest.get("training")
    tuned = "tuned" in record.models
    read = bool({"tuned", "zero_shot", "few_shot"} & set(record.models))
    adapters = f"LoRA, rank {method.r}, alpha {method.alpha:g}, base weights {QUANTIZED[method.quantization]}"
    return {
        "base_model": f"base model {base['name']}{revision}, licence: {base['license']}",
        "method": (adapters if method.kind == "lora" else "full fine-tuning") if tuned else "no fine-tuning",
        "training": f"learning rate {config.train.learning_rate:g}, {summary['steps']} of {summary['steps_planned']} "
        f"planned steps; {step_words(summary)}"
        if tuned and summary
        else "",
        "prompt": f'instruction: "{task.fill(task.instruction)}"; question: "{task.fill(task.question)}"; '
        f"{config.serialize.style} text of the row",
        "text": "each row is written as text by one rule a column; a prompt is never cut"
        + (f"; {tokens['shortest']} to {tokens['longest']} tokens" if tokens else ""),
        "scoring": ""
        if not read
        else "the risk is read from the logits of the two answers at the last position, without sampling"
        if task.head == "label_tokens"
        else "the risk is read from a linear classifier on the last hidden state, without sampling",
        "no_generation": _written(manifest.get("free_generation")),
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
    groups = part.get("subgroups") or []
    columns = list(dict.fromkeys(group["column"] for group in groups))
    site = record.config.data.name_of("site")
    shown = [
        metric
        for metric in ("auroc", "brier", "calibration_slope", "observed_expected")
        if metric in part["models"][main]
    ]
    measures = ["discrimination (AUROC, AUPRC)", "calibration (intercept, slope, figure)", "Brier score, log-loss"]
    measures += ["net benefit (decision curve)"] if part.get("decision_curve") else []
    interval = record.interval
    raw = part.get("raw", {}).get(main)
    sites = bool(site) and any(str(site).replace("_", " ") in (column, column.replace("_", " ")) for column in columns)
    return {
        "measures": "; ".join(measures),
        "intervals": f"{percent(interval['level'])} by {interval['method']}, {interval['replicates']} replicates",
        "performance": f"{model_words(main)}: "
        + ", ".join(f"{metric_words(m)[0]} {estimate(part['models'][main][m])}" for m in shown),
        "subgroups": f"judged in {len(groups)} groups by {', '.join(columns)}; see the forest plot" if groups else "",
        "subgroups_judged": f"discrimination, calibration and missed events by {', '.join(columns)}" if groups else "",
        "sites": "performance by site, in the subgroup table" if sites else "",
        "updating": f"log-loss {estimate(raw['log_loss'])} before and {estimate(part['models'][main]['log_loss'])} after "
        "correction and calibration"
        if raw
        else "",
        "verdict": part.get("verdict", {}).get("text", "").rstrip("."),
        "limits": _limits(record),
        "probes": f"{len(record.extras['probes'].get('probes', []))} changes of the input tried; see the report"
        if record.extras["probes"]
        else "",
    }


def _limits(record: Record) -> str:
    n, happened = record.part["n"], record.part["n_events"]
    limits = []
    if happened is None or min(happened, n - happened) < FEW_EVENTS:
        limits.append(f"the test part has {n} rows and {happened or 'few'} events, so intervals are wide")
    if record.config.split.by == "random":
        limits.append(
            "the test part comes from the same table as training, so nothing is shown about other places or times"
        )
    return "; ".join(limits)
