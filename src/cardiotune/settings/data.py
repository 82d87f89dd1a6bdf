"""The table, its parts and its text."""

from collections import Counter
from datetime import date
from typing import Literal

from pydantic import Field, model_validator

from cardiotune.settings.column_types import COLUMN_ROLES
from cardiotune.settings.columns import MEANINGS, Column
from cardiotune.settings.strict import Settings, Share, raise_all


class CensoringDates(Settings):
    """Last day with complete hospital records, a nation; ISO dates."""

    England: date
    """Of who was assessed in England."""
    Scotland: date
    """Of who was assessed in Scotland."""
    Wales: date
    """Of who was assessed in Wales."""


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
    """`exclude`: who was not followed to the horizon is left out, and so is everybody, cases too,
    whose nation's records end before it. `ipcw`: those who were followed stand for them, by
    inverse-probability-of-censoring weights."""
    other_deaths: Literal["no_event", "censored"] = "no_event"
    """Who dies of something else can no longer have the event: `no_event`, for the risk in the
    presence of other deaths. `censored`: the risk if nobody died of anything else."""
    withdrawals: str | None = None
    """List of eids that withdrew, one a line. Default: `w*.csv` or `*withdraw*` in the export's
    folder, if there is one."""
    kinship: str | None = None
    """`ukb_rel.dat`. Default: `*rel*.dat` in the export's folder, if there is one."""
    showcase: str | None = None
    """`Data_Dictionary_Showcase.tsv`, to check field ids. Default: that of the export's folder, if
    there is one."""

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
    """CSV, TSV, JSON or JSONL, also gzipped, or Parquet; `builtin:NAME` for a table shipped with
    the package. With `format: ukb` an export: a CSV, TSV, R `.tab` or Parquet file, or a folder of
    such files."""
    format: Literal["table", "ukb"] = "table"
    """`ukb`: the columns of the dictionary are made from UK Biobank's fields, and the target from
    records."""
    ukb: UkbConfig = UkbConfig()
    """Only for `format: ukb`."""
    test_path: str | None = None
    """A file of its own for the test part; `path` then holds the training rows."""
    validation_path: str | None = None
    """With `test_path`: the validation part. Default: the share `split.validation` of the rows of
    `path`."""
    separator: str | None = Field(None, min_length=1, max_length=1)
    """The sign between cells. Default: detected among comma, semicolon, tab and bar, and said."""
    encoding: str | None = None
    """How the file's letters are stored, by the names that Python has. Default: UTF-8
    (with or without BOM), else Windows-1252, and said."""
    column_names: list[str] | None = None
    """For a table without a header line."""
    max_rows: int | None = Field(None, ge=1)
    """A random sample of this many rows, stratified by the target. Default: all."""
    out_of_range: Literal["missing", "exclude", "error"] = "missing"
    """What to do with an implausible value or unknown code: blank it, as a table to be scored does;
    exclude its row, so that the figures are of other patients than those that the model will see;
    or stop."""
    duplicate_rows: Literal["by_id", "exclude", "keep", "error"] = "by_id"
    """Rows equal in every column of the dictionary. `by_id`: left out where the id is equal too;
    without an id column they are patients who are alike, and stay (copies beyond chance are said).
    `exclude`, `keep` and `error` do not ask for an id."""
    columns: dict[str, Column]
    """The data dictionary: an entry for each column that is read, by its name in the table."""

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
        for role in (name for name, record in COLUMN_ROLES.items() if record.single and name != "target"):
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
                if stored is None or stored.derive or not stored.is_number:
                    what = (
                        "not in data.columns" if stored is None else "derived itself" if stored.derive else stored.type
                    )
                    problems.append(
                        f"data.columns.{name}.derive.inputs: {source} is {what}; expected a numeric or integer column"
                    )
        twice = sorted(name for name, times in Counter(self.column_names or []).items() if times > 1)
        if twice:
            problems.append(f"data.column_names: {', '.join(twice)} stand twice")
        raise_all(problems)
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
        ready = [name for name, column in self.columns.items() if column.is_input and column.role != "feature"]
        return self.features + ready

    @property
    def files(self) -> dict[str, str]:
        """Path of each file; its key is the part that its rows are, and `train` where they are
        still to be parted."""
        named = {"train": self.path, "validation": self.validation_path, "test": self.test_path}
        return {part: path for part, path in named.items() if path}


class SplitConfig(Settings):
    """How rows are parted. Shares are shares of all rows."""

    by: Literal["random", "site", "time", "column", "files", "table", "cross_validation"] = "random"
    """`random` is stratified by the target and keeps a group (or id) whole; `site` holds out whole
    sites; `time` holds out the latest rows; `column` takes the parts from the column with role
    split; `files` from `data.test_path` (it is the default when that is given), and shares are then
    shares of the rows of `data.path`; `table` holds out whole tables for the test, and draws
    validation at random from the others; `cross_validation` holds out every row once in each
    repeat, by folds that are drawn as `random` draws, and makes a run of each fold."""
    validation: Share = 0.15
    """Share of all rows in the validation part: the checkpoint, calibration and thresholds stand on
    it."""
    test: Share = 0.25
    """Share of all rows in the test part, which is judged and from which nothing is learned."""
    folds: int = Field(5, ge=2, le=50)
    """Only for `by: cross_validation`: so many parts, each of which is the test part once. `test`
    is not used."""
    repeats: int = Field(3, ge=1, le=100)
    """Only for `by: cross_validation`: how often folds are drawn anew."""
    language_repeats: int = Field(1, ge=1, le=100)
    """Only for `by: cross_validation`: in how many of the repeats the comparators that hold a
    language model take part, which are far slower to fit; in all of them where `repeats` is
    smaller."""
    whole_sites: bool = False
    """Only for `by: cross_validation`: whole sites fall in a fold, by the column with role site."""
    repeat: int | None = Field(None, ge=1)
    """Only for `by: cross_validation`, with `fold`: the one fold of a run below the experiment's
    own, which sets both."""
    fold: int | None = Field(None, ge=1)
    """See `repeat`."""
    seed: int | None = None
    """Of the rows that are drawn for the parts. Default: the experiment's seed."""
    train_rows: int | None = Field(None, ge=4)
    """Cut the training part to so many rows, stratified; the other parts stay as they are. Default:
    all."""
    test_sites: list[str] | None = None
    """Only for `by: site`. Default: sites drawn at random until the share is reached."""
    test_tables: list[str] | None = None
    """Only for `by: table`. Default: the tables of `part: test`."""
    shared_groups: Literal["error", "unused"] = "error"
    """For `by: site`, `time` and `column`, and `whole_sites`: what to do when a group (relatives,
    say) falls in several parts. `unused` takes its rows out of training and validation, where it
    also has some in a later part."""

    shared_patients: Literal["error", "unused", "allow"] = "error"
    """With several tables: what to do with patients who stand in two of them, equal in what both
    tell, where one is to be learned from and the other is held out. `unused` takes them out of
    training and validation, where they are also in a later part; `allow` keeps them, and the audit
    calls it a leak."""

    @model_validator(mode="after")
    def _room_to_train(self) -> "SplitConfig":
        problems = []
        folds = self.by == "cross_validation"
        if self.validation + (1 / self.folds if folds else self.test) >= 0.95:
            held = f"one of {self.folds} folds" if folds else "test"
            problems.append(f"split: validation + {held} must leave at least 5 % of the rows for training")
        if (self.repeat is None) != (self.fold is None) or ((self.repeat or self.whole_sites) and not folds):
            problems.append("split: repeat goes with fold, and both and whole_sites with split.by: cross_validation")
        elif (self.repeat or 1) > self.repeats or (self.fold or 1) > self.folds:
            problems.append(f"split: there are {self.repeats} repeats of {self.folds} folds, none beyond them")
        if self.test_sites and self.by != "site":
            problems.append(f"split.test_sites: needs split.by: site, found {self.by}")
        if self.test_tables and self.by != "table":
            problems.append(f"split.test_tables: needs split.by: table, found {self.by}")
        raise_all(problems)
        return self


class VaryConfig(Settings):
    """How training texts differ from batch to batch, so that the model learns what values mean and
    not one hospital's habits. All rows of a batch are written in one way, so that they still share
    their tokens; validation and test texts are never varied."""

    order: bool = True
    """Columns stand in a new order."""
    drop: Share | None = 0.15
    """Chance that a column is left out of a batch; null leaves none out."""
    wording: bool = True
    """Names of columns and words of codes are drawn among `phrase`, `aliases`, `codes` and
    `code_aliases` of the column and, with several tables, of the same quantity in other tables that
    train. Otherwise every row is told in the words of its own table, and in its units where these
    are not varied."""
    units: bool = True
    """Numbers are written in other units that clinicians use for the same quantity."""
    numbers: bool = True
    """Numbers lose a decimal now and then."""
    missing: bool = True
    """Missing values are said in some batches and left out in others."""


class SerializeConfig(Settings):
    """How a row becomes text."""

    style: Literal["sentence", "list", "compact", "template"] = "compact"
    """`sentence`: "The age is 61 years." `list`: a line a column, "- age: 61 years". `compact`:
    "age 61 years, sex woman". `template`: your own text, by `template` or `template_file`."""
    order: Literal["dictionary", "by_cardinality", "by_sharing"] = "dictionary"
    """`by_cardinality` puts columns with few values first, so that more leading tokens are shared
    between rows. `by_sharing` puts those first whose text is long for what it tells (entropy a
    character), which shares more still."""
    missing: Literal["say", "omit"] = "say"
    """Write "not recorded" for a missing value, or leave the column out."""
    interpret: bool = False
    """Say where a number stands to the `reference` of its column: "cholesterol high at 6.1 mmol/L".
    Never of a missing value."""
    template: str | None = None
    """Jinja2 text with `{{ column }}` for a value in words; only for `style: template`."""
    template_file: str | None = None
    """A file that holds the template, relative to the file that names it."""
    leave_out: list[str] = []
    """Sections of `data.columns` that the text is to do without; classical models still read them.
    In a template their columns are empty."""
    max_tokens: int = Field(1024, ge=8)
    """A longer prompt is an error; nothing is ever cut."""
    vary: VaryConfig | bool | None = None
    """Whether and how training texts vary; true is `VaryConfig` as it comes. Default: with several
    tables they do, with one they do not."""

    views: int = Field(1, ge=1)
    """With several tables: in how many ways a row is written to be scored, each with its columns in
    a new order; the mean of the log-odds is its score. Of a table that training has not seen every
    other way is in the training tables' words, as far as its dictionary's names, words and units
    tell which columns are the same. 1: as its own dictionary says."""

    @model_validator(mode="after")
    def _template_given(self) -> "SerializeConfig":
        given = (self.template is not None) + (self.template_file is not None)
        if given != (self.style == "template"):
            raise ValueError("serialize: `style: template` needs one of template and template_file, other styles none")
        return self
