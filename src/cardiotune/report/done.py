"""What a run did, in words: each sentence stands under the condition that it was done. Report,
checklists and card say these.

Words for the values of a setting stand in a table each, without a default: a value without words is
an error here, and `tests/test_settings_in_words.py` sends every value through.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cardiotune.comparators import COMPARATORS, ON_LANGUAGE, ON_TUNED, PUBLISHED_SCORES, Comparator, having
from cardiotune.data.small_counts import HIDDEN
from cardiotune.data.split import PARTS, UNUSED
from cardiotune.evaluation.judgement import Group
from cardiotune.models.baselines import age_and_sex
from cardiotune.models.columns import ENCODINGS, TREE_TERMS
from cardiotune.report.record import Record
from cardiotune.report.wording import events, listed, model_words, percent, step_words
from cardiotune.settings import DataConfig, TrainConfig

SPLITS = {
    "random": "random, stratified by the outcome",
    "site": "whole sites held out",
    "time": "latest rows held out",
    "column": "given by a column of the table",
    "files": "the test part is a file of its own",
    "table": "whole tables held out for the test, validation drawn at random from the others",
    "cross_validation": "cross-validation, folds stratified by the outcome",
}
OUT_OF_RANGE = {
    "exclude": "rows with an implausible value are left out",
    "missing": "an implausible value is taken as missing",
    "error": "an implausible value stops the run",
}
DUPLICATES = {
    "by_id": "rows that repeat an id and all its values are left out; equal rows without an id stay",
    "exclude": "rows equal to an earlier one are left out",
    "keep": "equal rows stay",
    "error": "equal rows stop the run",
}
MOST_NAMES = 200
"""Names of columns that a line of the report, a checklist or a model card lists."""
MISSING = {"say": 'written as "not recorded" in the text', "omit": "left out of the text"}
STYLES = {
    "sentence": "a sentence a column",
    "list": "a line a column",
    "compact": "names and values between commas",
    "template": "by the template of the settings",
}
ORDERS = {
    "dictionary": "in dictionary order",
    "by_cardinality": "with few values first",
    "by_sharing": "with long texts that tell little first",
}
PROMPTS = {"plain": "plain prompt", "chat": "chat prompt"}
HEADS = {"label_tokens": "the two answers' tokens", "classifier": "linear classifier"}
READ_AT = {"decoder": "the last token", "encoder": "the first token"}
CALIBRATIONS = {
    "none": "none",
    "temperature": "temperature scaling",
    "platt": "Platt scaling",
    "isotonic": "isotonic regression",
    "beta": "beta calibration",
    "intercept": "recalibration of the intercept",
    "logistic": "logistic recalibration",
}
"""Methods of the experiment, and those that adapt a published score."""
QUANTIZED = {"none": "", "nf4": ", base weights in 4 bits (NF4)", "int8": ", base weights in 8 bits"}
VARIED = {
    "order": "the order of columns",
    "drop": "the columns that are left out",
    "wording": "names and words of codes",
    "units": "units",
    "numbers": "decimals",
    "missing": "whether missing values are said",
}
OPTIMIZERS = {
    "adamw": "AdamW",
    "paged_adamw_32bit": "paged AdamW in 32 bits",
    "adafactor": "Adafactor",
    "sgd": "stochastic gradient descent",
}
SCHEDULES = {"cosine": "a cosine schedule", "linear": "a linear schedule", "constant": "a constant rate"}
DEATHS = {
    "no_event": "death from other causes counts as no event",
    "censored": "death from other causes counts as censored",
}
TEACHERS = {"logistic_regression": "logistic regression", "lightgbm": "LightGBM"}
"""`train.teacher` -> in words."""
RULES = {
    "sensitivity": "the highest one that flags so many of the events",
    "youden": "the highest sensitivity + specificity",
    "net_benefit": "the highest net benefit",
}
GUIDELINES = {0.075: "ACC/AHA 2019", 0.1: "NICE NG238"}
"""Threshold -> who set it, for the 10-year risk of cardiovascular disease and for nothing else."""
REGIONS = {"low": "low", "moderate": "moderate", "high": "high", "very_high": "very high"}

TAKES_MISSING = having(lambda one: one.takes_missing)
READS_COLUMNS = having(lambda one: one.columns == "all")
READS_TEXT = having(lambda one: one.reads_text)
COUNTS_WORDS = having(lambda one: one.terms)
AGE_AND_SEX = having(lambda one: one.columns == "age and sex")
HELD_OUT = {
    "by name": "the training tables' columns that a held-out table has by the same name or known meaning",
    "matched": "the training tables' columns that were found in a held-out table automatically",
    "own": "of each table its own columns, whatever they are called",
}
"""Columns of a comparator about a held-out table -> in words."""
SHOWS_EXAMPLES = having(lambda one: one.examples)
READS_LOGITS = having(lambda one: one.answer == "logits")
READS_STATES = having(lambda one: one.answer == "states")


def _has(record: Record, names: Iterable[str]) -> list[str]:
    return [model for model in record.models if model in names]


def _called(models: Iterable[str], part: Callable[[Comparator], str]) -> str:
    """What the records of these models call a part of theirs, each word once; empty when none
    does."""
    words = dict.fromkeys(part(record) for name, record in COMPARATORS.items() if name in models)
    return listed(filter(None, words)) if any(words) else ""


def _tuned(record: Record) -> bool:
    return "tuned" in record.models


def columns(names: Sequence[str]) -> str:
    """Names of columns, as many as a line may list."""
    more = f" and {len(names) - MOST_NAMES} more, listed in config.yaml" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


# --------------------------------------------------------------------------------------------------
# data


def source(record: Record) -> str:
    """Name and digest of the table, and of a test or validation file."""
    found = record.manifest.get("data", {})
    if tables := found.get("tables"):
        return "; ".join(
            f"table {name}: {file['file']}, sha256 {file['sha256'][:12]}…" for name, file in tables.items()
        )
    files = {"table": found, **{f"{part} file": found.get(part, {}) for part in ("validation", "test")}}
    return "; ".join(
        f"{what} {file['file']}, sha256 {file['sha256'][:12]}…"
        for what, file in files.items()
        if file.get("file") and file.get("sha256")
    )


def outcome(record: Record) -> str:
    """What is predicted, and where the table says so."""
    data, asked = record.config.data, record.config.task.outcome
    if data.format == "ukb":
        return (
            f"{asked}, yes or no within {data.ukb.horizon_years:g} years of baseline, made from health records by the endpoint "
            f"{data.ukb.endpoint.rpartition('/')[2]}; {DEATHS[data.ukb.other_deaths]}"
        )
    if tables := record.config.tables:
        return f"{asked}, yes or no, from " + ", ".join(
            f"column {table.data.name_of('target')} of table {name}" for name, table in tables.items()
        )
    return f"{asked}, yes or no, from column {data.name_of('target')}"


def checks(record: Record) -> str:
    """How the table was checked; of several, each as its own dictionary asks, once where they ask
    the same."""
    tables, checked = record.config.tables, "types, codes and plausible ranges checked by a data dictionary"
    if not tables:
        return f"{checked}: {_asked(record.config.data)}"
    asked = {name: _asked(table.data) for name, table in tables.items()}
    if len(set(asked.values())) == 1:
        return f"{checked} for each table: {next(iter(asked.values()))}"
    return f"{checked} for each table; " + "; ".join(f"table {name}: {words}" for name, words in asked.items())


def _asked(data: DataConfig) -> str:
    """What becomes of rows that a dictionary's checks find."""
    return f"{OUT_OF_RANGE[data.out_of_range]}; {DUPLICATES[data.duplicate_rows]}"


def split(record: Record) -> str:
    """How rows were parted, and what share of the rows used each part has."""
    config = record.config
    data, settings = config.data, config.split
    text = SPLITS[settings.by]
    if settings.by == "cross_validation":
        text = _folds(record)
    if settings.by == "table":
        text += f"; held out: {', '.join(config.test_tables)}"
    if settings.by == "files":
        text += ", and so is validation" if data.validation_path else ", validation is drawn at random, stratified"
    sizes = [record.cohort.get("parts", {}).get(part, {}).get("n") for part in PARTS]
    if settings.by not in ("column", "cross_validation") and None not in sizes and sum(sizes):
        names = ("training", "validation", "test")
        shares = [f"{percent(size / sum(sizes))} {name}" for size, name in zip(sizes, names, strict=True)]
        text += f"; {', '.join(shares)} of the rows used"
    if group := data.name_of("group"):
        text += f"; rows of one {group} stay together"
    return text + "".join(f"; {reason}" for reason in _unused(record))


def _folds(record: Record) -> str:
    """How rows were cross-validated; of a run that is one fold, which."""
    settings = record.config.split
    text = f"{settings.folds}-fold {SPLITS['cross_validation']}"
    if settings.whole_sites:
        text += f"; whole sites (column {record.config.data.name_of('site')}) fall in one fold"
    if settings.fold:
        return f"{text}; this run is fold {settings.fold} of repeat {settings.repeat}"
    return (
        f"{text}, {repeats(record)}: every row was held out once in every repeat, and everything that is learned was learned "
        f"anew in every fold; {percent(settings.validation)} of the rows, drawn from the other folds, for validation"
    )


def repeats(record: Record) -> str:
    """`3 repeats (Tuned LLM: 1)`; empty where rows were parted once."""
    found = record.part.cross_validation
    if not found:
        return ""
    most = max(found.repeats.values())
    fewer: dict[int, list[str]] = {}
    for model in record.models:
        if found.repeats[model] < most:
            fewer.setdefault(found.repeats[model], []).append(model_words(model))
    said = "; ".join(f"{listed(models)}: {number}" for number, models in fewer.items())
    return f"{most} {'repeat' if most == 1 else 'repeats'}" + (f" ({said})" if said else "")


def pooled(record: Record) -> str:
    """What figures and tables of cross-validated rows show; empty where rows were parted once."""
    found = record.part.cross_validation
    if not found:
        return ""
    text = "risks of the rows as they were held out"
    if max(found.repeats.values()) > 1:
        text += (
            "; metrics are means over repeats, differences from the tuned model over the repeats that both took part in; "
            "curves, subgroups and probabilities before calibration are of the first repeat"
        )
    return text


def seeds(record: Record) -> str:
    """The seeds that were drawn from."""
    config = record.config
    by, drawn = config.split.by, config.split.train_rows
    parted = (
        by in ("random", "site", "table", "cross_validation")
        or (by == "files" and not config.data.validation_path)
        or drawn
    )
    return f"experiment {config.seed}" + (f", split {config.split_seed}" if parted else "")


def _unused(record: Record) -> list[str]:
    """Why rows of the cohort stand in no part, a reason each; empty when all do."""
    found = record.cohort.get("parts", {}).get(UNUSED)
    if not found:
        return []
    settings, group = record.config.split, record.config.data.name_of("group")
    why = [f"the training part is cut to {settings.train_rows} rows"] if settings.train_rows else []
    if settings.shared_groups == "unused" and group:
        why.append(f"rows whose {group} is also in a later part are left out")
    return [f"{_count(found['n'])} rows unused: {' and '.join(why) or 'in no part'}"]


def _count(count: int | str | None) -> str:
    return "some" if count in (None, HIDDEN) else str(count)


def predictor_choice(record: Record) -> str:
    """Which columns were predictors, and whether the run chose among them."""
    text = "all feature columns of the data dictionary; the run selects none by its relation to the outcome"
    if "terms" in _encodings(record.config.data) and _has(record, TAKES_MISSING):
        text += f", and of free text with more than {TREE_TERMS:,} terms those for LightGBM that go most with it"
    return text


def flow(record: Record) -> str:
    """From the table to the rows analysed. Counts that are not told are `some`."""
    steps = record.cohort.get("flow")
    if not steps:
        return ""
    config = record.config
    read = "tables" if config.tables else "files" if len(config.data.files) > 1 else "table"
    first = f"{_count(steps[0]['left'])} rows in the {read}"
    left_out = [f"{_count(step['excluded'])} excluded ({step['step']})" for step in steps[1:]]
    left = steps[-1]["left"]
    unused = record.cohort.get("parts", {}).get(UNUSED)
    pieces = [first, ", ".join(left_out) or "none excluded"]
    if unused:
        analysed = left - unused["n"] if isinstance(left, int) and unused["n"] is not None else None
        pieces += [f"{_count(left)} left", *_unused(record), f"{_count(analysed)} analysed"]
    else:
        pieces.append(f"{_count(left)} analysed")
    return "; ".join(pieces)


def size(record: Record) -> str:
    """Rows and events of each part."""
    parts = "; ".join(
        f"{part}: {'few' if found['n'] is None else found['n']} rows, {events(found['n'], found['n_events'])}"
        for part, found in record.cohort.get("parts", {}).items()
        if part != UNUSED
    )
    return f"of the first fold, {parts}" if parts and record.part.cross_validation else parts


def missing(record: Record, models: Iterable[str] | None = None) -> str:
    """What the models do where a value is missing; those of `models`, by default all."""
    config, said, own = record.config, [], set(record.models if models is None else models)
    if own & set(READS_TEXT):
        ready = config.data.name_of("text")
        said.append("texts come ready made" if ready else f"missing values are {MISSING[config.serialize.missing]}")
    if fill := _called(own, lambda one: one.fills_missing):
        said.append(f"{fill} fill missing numbers with the training part's median and get an indicator")
    if take := _called(own, lambda one: one.takes_missing):
        said.append(f"{take} takes missing values as they are")
    if own & set(PUBLISHED_SCORES):
        said.append("published scores get what the training part has most often")
    return "; ".join(said)


def handling(record: Record, models: Iterable[str] | None = None) -> str:
    """In what form the models read the columns; of `models`, by default of all."""
    own = set(record.models if models is None else models)
    said = []
    if fill := _called(own, lambda one: one.fills_missing):
        said.append(
            f"{fill}: medians with an indicator for missing numbers, scaling and one-hot codes (one that training has not is "
            "none of them), learned on the training part"
        )
    if take := _called(own, lambda one: one.takes_missing):
        said.append(f"{take}: numbers, ranks of ordered codes, and categories as they are")
    if own & set(READS_COLUMNS):
        said += _forms(record.config.data)
    if own & set(ON_LANGUAGE):
        said.append(f"language model: {text(record)}")
    said += [
        f"{model_words(model)}: words and pairs of words of the {'ready' if _ready(record) else 'same'} text"
        for model in COUNTS_WORDS
        if model in own
    ]
    return "; ".join(said)


def _ready(record: Record) -> str | None:
    return record.config.data.name_of("text")


def _forms(data: DataConfig) -> list[str]:
    """How the classical models read what is no plain number or code."""
    read = {ENCODINGS[kind].words: names for kind, names in _encodings(data).items()}
    return [f"{words} ({columns(names)})" for words, names in read.items() if words]


def _encodings(data: DataConfig) -> dict[str, list[str]]:
    """Encoding (`cardiotune.models.columns.ENCODINGS`) -> the feature columns that have it."""
    found: dict[str, list[str]] = {}
    for name in data.features:
        found.setdefault(data.columns[name].kind.encoding, []).append(name)
    return found


def columns_read(record: Record) -> str:
    """Which columns each classical model reads, and how; and what only one side reads. Empty
    without a classical model."""
    config, said = record.config, []
    data = config.data
    if readers := _has(record, READS_COLUMNS):
        forms = _forms(data)
        all_of = f"all {len(data.features)} feature columns" if data.features else "no column, for none is a feature"
        said.append(f"{listed(map(model_words, readers))}: {all_of}" + "".join(f"; {form}" for form in forms))
    for model in _has(record, AGE_AND_SEX):
        said.append(f"{model_words(model)}: {', '.join(age_and_sex(data)) or 'no column'}")
    for read, words in HELD_OUT.items():
        if models := [model for model in record.models if model in COMPARATORS and COMPARATORS[model].columns == read]:
            said.append(f"{listed(map(model_words, models))}: {words}")
    for score in _has(record, PUBLISHED_SCORES):
        region = f", in the {REGIONS[record.config.evaluation.score2_region]}-risk region"
        region = region if COMPARATORS[score].regional else ""
        said.append(f"{model_words(score)}: what its formula asks for{region}")
    said += [f"{model_words(model)}: {_ready_or_row(record)}" for model in _has(record, COUNTS_WORDS)]
    if not said:
        return ""
    ready, texts = _ready(record), _has(record, READS_TEXT)
    if ready and readers:
        said.append(f"the ready text (column {ready}) is not read by {listed(map(model_words, readers))}")
    if ready and data.features and texts:
        said.append(f"the {len(data.features)} feature columns are not read by {listed(map(model_words, texts))}")
    if not ready and texts and (left := _left_out(record)):
        said.append(f"{columns(left)} are not in the text that {listed(map(model_words, texts))} read")
    return ". ".join(said)


MATCHED_WORDS = {"by name": "Matched by name", "matched": "Matched automatically"}


def matching(record: Record) -> dict[str, str]:
    """Term -> what each column of the held-out tables was taken for; empty where none was
    matched."""
    said = {}
    for way, tables in (record.manifest.get("matching") or {}).items():
        lines = [f"{table}: {_matched(found)}" for table, found in tables.items()]
        said[MATCHED_WORDS[way]] = ". ".join(lines)
    return said


def _matched(found: Mapping[str, Any]) -> str:
    """`AGE is age, SEX is sex (F is 0, M is 1); without a match SUGAR; 2 of 3 as same_as has
    them`."""
    pairs = []
    for name, match in found["columns"].items():
        if match:
            other = [f"{code} is {theirs}" for code, theirs in match["codes"].items() if code != theirs]
            pairs.append(f"{name} is {match['is']}" + (f" ({', '.join(other)})" if other else ""))
    alone = [name for name, match in found["columns"].items() if not match]
    text = ", ".join(pairs) or "no column"
    text += f"; without a match {', '.join(alone)}" if alone else ""
    return f"{text}; {found['as_given']} of {len(found['columns'])} as same_as has them"


def _ready_or_row(record: Record) -> str:
    ready = _ready(record)
    return f"the ready text (column {ready})" if ready else "the words of the row's text"


def _left_out(record: Record) -> list[str]:
    data, sections = record.config.data, record.config.serialize.leave_out
    return [name for name in data.features if data.columns[name].section in sections]


# --------------------------------------------------------------------------------------------------
# models


def description(model: str) -> str:
    """What a model is, in a few words."""
    return COMPARATORS[model].description if model in COMPARATORS else model_words(model)


def method(record: Record) -> str:
    """How the language model was fine-tuned; empty when it was not."""
    settings = record.config.method
    if not _tuned(record):
        return ""
    if settings.kind == "full":
        return "full fine-tuning"
    variants = [
        name for name, on in (("DoRA", settings.dora), ("rsLoRA", settings.rslora), ("LoRA+", settings.lora_plus)) if on
    ]
    text = f"{' '.join(['LoRA', *variants])}, rank {settings.r}, alpha {settings.alpha:g}{QUANTIZED[settings.quantization]}"
    return text + (f", on the last {settings.top_layers} layers" if settings.top_layers else "")


def training(record: Record) -> str:
    """Steps of the fine-tuning, and how the kept one was chosen; empty when nothing was trained."""
    found, settings = record.manifest.get("training"), record.config.train
    if not found or not _tuned(record):
        return ""
    resumed = f"; resumed after step {found['resumed_after_step']}" if found.get("resumed_after_step") else ""
    deepspeed, processes = record.config.deepspeed, found.get("processes", 1)
    several = f", in {processes} processes" if processes > 1 else ""
    several += f", by DeepSpeed ZeRO stage {deepspeed.stage}" if deepspeed else ""
    first = "in the first fold " if record.part.cross_validation else ""
    return (
        f"{first}{found['steps']} of {found['steps_planned']} planned steps in {found['dtype']}, "
        f"{OPTIMIZERS[settings.optimizer]}, learning rate {settings.learning_rate:g} with {SCHEDULES[settings.schedule]}; "
        f"{step_words(found)}{several}{resumed}{_started(found)}{_taught(settings)}"
    )


def _started(found: Mapping[str, Mapping[str, str]]) -> str:
    """From whose weights a training began; empty where it began afresh."""
    start = found.get("start_from")
    return f"; started from the weights of {start['name']} ({start['patients']})" if start else ""


def _taught(settings: TrainConfig) -> str:
    """Whose risks were learned from beside the outcomes; empty where none were."""
    if not (teacher := settings.teacher):
        return ""
    share = f"{settings.teacher_weight:.0%}".replace("%", " %")
    return f"; {share} of each training row's target is its risk by {TEACHERS[teacher]}, fitted on the same rows"


def imbalance(record: Record) -> str:
    """What was done about class imbalance, and what became of it in the probabilities."""
    settings, found = record.config.imbalance, record.manifest.get("training") or {}
    used = imbalanced(record)
    if not used:
        asked = settings.class_weights != "none" or settings.oversample
        return "no class weights, no oversampling" + (
            ": those of the settings are for a tuned model, which this run has not" if asked else ""
        )
    times = found.get("odds_multiplier", 1)
    effect = (
        "they left the odds as they were"
        if times == 1
        else f"they multiplied the odds by {times:.3g}, which is taken out of the probabilities again"
    )
    return f"{' and '.join(used)} in the training part of the tuned model only; {effect}"


def imbalanced(record: Record) -> list[str]:
    """What was done to the training part of the tuned model, in words; empty when nothing was."""
    settings = record.config.imbalance
    wanted = (("class weights", settings.class_weights != "none"), ("oversampling", settings.oversample))
    return [name for name, on in wanted if on and _tuned(record)]


def calibration(record: Record, models: Iterable[str] | None = None) -> str:
    """How probabilities were calibrated, of `models`, by default of all; empty when the run does
    not say."""
    own = list(record.models if models is None else models)
    found = record.calibration
    if not found.get("method"):
        return ""
    size = f", {found['n']} rows, {events(found['n'], found['n_events'])}" if found.get("n") else ""
    each = " of each fold" if record.part.cross_validation else ""
    where = f"fitted on the {found.get('fitted_on', 'validation')} part{each}{size}"
    said = []
    used = _method_of(record, "tuned") if "tuned" in own else "none"
    if used != "none":
        said.append(f"{CALIBRATIONS[used]}, {where}")
        if others := [model for model in own if _method_of(record, model) == "none"]:
            said[-1] += f", of the tuned model alone; not of {listed(map(model_words, others))}"
    elif "tuned" in own and found["method"] != "none":
        few = f"the {found.get('fitted_on', 'validation')} part{each} has too few events or non-events"
        said.append(f"none: {CALIBRATIONS[found['method']]} was asked for, but {few}")
    scores = [model for model in own if model != "tuned" and _method_of(record, model) != "none"]
    said += [f"{model_words(score)}: {CALIBRATIONS[_method_of(record, score)]}, {where}" for score in scores]
    return "; ".join(said) or "none"


def _method_of(record: Record, model: str) -> str:
    """The calibrator that a model's probabilities went through."""
    found = record.calibration.get("models", {}) if model in record.models else {}
    return str(found.get(model, {}).get("method", "none"))


def between(record: Record, models: Iterable[str] | None = None) -> str:
    """What lies between the probabilities as models give them and the judged ones; of `models`, by
    default of all. Empty when nothing does.
    """
    own = list(record.models if models is None else models)
    used, times = imbalanced(record), (record.manifest.get("training") or {}).get("odds_multiplier", 1)
    said = [f"the correction for {' and '.join(used)}"] if used and times != 1 and "tuned" in own else []
    methods = [_method_of(record, model) for model in own]
    return " and ".join([*said, *dict.fromkeys(CALIBRATIONS[method] for method in methods if method != "none")])


def base_model(record: Record) -> str:
    """The base model, where it comes from, and its licence."""
    model = record.config.model
    found = {"name": model.name, "license": model.license} | (record.manifest.get("base_model") or {})
    revision = f", revision {found['revision']}" if found.get("revision") else ""
    revision += f", from {found['source']}" if found.get("source") else ""
    return f"{found['name']}{revision}; licence: {found['license']}"


def prompt_style(record: Record, models: Iterable[str] | None = None) -> str:
    """How a row becomes a prompt, in short; for `models`, by default all."""
    style = record.config.serialize
    if ready := _ready(record):
        text = f"the ready text of column {ready}"
    elif style.style == "template":
        text = STYLES[style.style]
    else:
        text = f"{style.style} ({STYLES[style.style]}), columns {ORDERS[style.order]}"
    left = _left_out(record)
    text += f"; not in it: {columns(left)}" if left and not ready else ""
    shown = record.config.task.few_shot_examples
    solved = set(SHOWS_EXAMPLES) & set(models or record.models)
    few = f"; few-shot prompts show {shown} solved training rows first" if solved else ""
    return f"{text}, as a {PROMPTS[record.config.model.prompt]}{few}"


def text(record: Record) -> str:
    """How a row is written, and that nothing of it is cut."""
    tokens = record.cohort.get("tokens") or {}
    if ready := _ready(record):
        made = f"the text of column {ready} as it stands"
    elif record.config.serialize.style == "template":
        made = "each row is written by the template of the settings"
    else:
        made = "each row is written as text by one rule a column"
    if record.config.serialize.interpret:
        made += ", which calls a number low, normal or high by the dictionary's reference range"
    if vary := record.config.vary:
        made += f"; training texts vary from batch to batch in {listed([VARIED[way] for way in VARIED if getattr(vary, way)])}"
    if (views := record.config.serialize.views) > 1:
        made += f"; to be scored it is written in {views} ways, a held-out table's in the words of training as far as "
        made += "its columns are matched, and the log-odds are averaged"
    return f"{made}; a prompt is never cut" + (
        f"; {tokens['shortest']} to {tokens['longest']} tokens" if tokens else ""
    )


def scoring(record: Record, models: Iterable[str] | None = None) -> str:
    """How a risk is read from the language model, by `models` (default: all); empty when none
    is."""
    said, own = [], list(record.models if models is None else models)
    tuned = bool(set(ON_TUNED) & set(own))
    place = READ_AT[record.config.model.family]
    answers = "the logits of the two answers at the last position"
    if tuned and record.config.task.head == "classifier":
        said.append(f"the tuned model's risk is read from a linear classifier on the hidden state of {place}")
    readers = [model for model in own if model in READS_LOGITS]
    if tuned and record.config.task.head == "label_tokens":
        readers = [*readers, "tuned"]
    if readers:
        said.append(f"the risk of {listed(map(model_words, readers))} is read from {answers}")
    said += [
        f"{model_words(model)}: a logistic regression on the hidden states of {place}"
        for model in own
        if model in READS_STATES
    ]
    return "; ".join(said) + (", without sampling" if said else "")


# --------------------------------------------------------------------------------------------------
# results


FROM = {
    "given": "given in the settings",
    "cost": "where a missed event weighs {missed_event:g} false alarms",
    "prevalence": "the share of events in the training part, to two digits",
}
"""Where the task's threshold is from -> in words."""


def threshold(record: Record) -> str:
    """At which risk a row is flagged, and who says so."""
    task, found = record.config.task, record.manifest.get("threshold")
    text = f"a row is flagged at a risk of {task.flagged_at:.3g} and above"
    if not found:
        return text
    return f"{text}, {FROM[found['from']].format(missed_event=task.missed_event)}"


def thresholds(record: Record) -> str:
    """Where the decision thresholds beside the task's come from; empty without any."""
    found = record.part.thresholds.get(record.main, [])
    known = {rule.label: rule for rule in record.config.thresholds}
    named = [known[entry.name] for entry in found if entry.name in known]
    values = [rule for rule in named if rule.value is not None]
    guided = [rule for rule in values if rule.value in GUIDELINES]
    said = []
    if guided and record.config.ten_year_coronary:
        sources = [f"{rule.label} ({GUIDELINES[rule.value]})" for rule in guided if rule.value is not None]
        said.append(f"{listed(sources)}: by a guideline for the 10-year risk of cardiovascular disease")
        values = [rule for rule in values if rule not in guided]
    if values:
        said.append(f"{listed(rule.label for rule in values)}: example thresholds, given in the settings")
    rules = {rule.rule: rule.label for rule in named if rule.rule}
    each = " of each fold, whose rows are flagged by it (the median is shown)" if record.part.cross_validation else ""
    said += [f"{label}: {RULES[rule]} on the validation part{each}" for rule, label in rules.items()]
    return "; ".join(said)


def subgroups(record: Record) -> str:
    """How many groups of patients were judged, and how many not; empty without any."""
    groups = record.part.subgroups or []
    judged = judged_groups(record)
    if not groups:
        return ""
    columns = listed(dict.fromkeys(group.column for group in groups))
    if not judged:
        return f"not one of {len(groups)} groups by {columns} was judged: too few events or non-events in them"
    withheld = len(groups) - len(judged)
    text = f"judged in {len(judged)}{f' of {len(groups)}' if withheld else ''} groups by {columns}"
    text += f", {withheld} withheld for few events or non-events" if withheld else ""
    return f"{text}; see the forest plot"


def judged_groups(record: Record) -> list[Group]:
    """Groups of patients whose numbers are told."""
    return [group for group in record.part.subgroups or [] if not group.suppressed]
