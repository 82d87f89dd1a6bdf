"""The whole experiment, and what must fit together in it."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from cardiotune.comparators import COMPARATORS, LANGUAGE, ComparatorName, having
from cardiotune.compatibility import Choice, Scoring, refusals, score_refusals
from cardiotune.families import line_of
from cardiotune.settings.data import DataConfig, SerializeConfig, SplitConfig, VaryConfig
from cardiotune.settings.evaluation import OF_GUIDELINES, YOUDEN, EvaluationConfig, Threshold
from cardiotune.settings.model import MethodConfig, ModelConfig, TaskConfig
from cardiotune.settings.strict import Settings, raise_all, suggest
from cardiotune.settings.tables import TableConfig
from cardiotune.settings.training import DeepSpeed, Imbalance, LaunchConfig, TrainConfig

CORONARY = ("cad_metagrs", "ihd_broad", "mi_algorithmic")
"""Shipped endpoints whose 10-year risk guidelines' thresholds are for."""


class Config(Settings):
    """One experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Name of the run folder below `runs_dir`."""
    runs_dir: str = "runs"
    """Folder of the run folders, relative to the working folder."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Of everything that is drawn: split, order of the rows, new weights, bootstrap."""
    use: dict[Literal["model", "dataset", "task", "method", "deepspeed"], str] = {}
    """The group files that this experiment was made from."""
    data: DataConfig
    """The table and its data dictionary."""
    tables: dict[str, TableConfig] = {}
    """Instead of `data`: several tables, by name, each with a dictionary of its own. `data` is then
    the dictionary that they share."""
    split: SplitConfig = SplitConfig()
    """How rows are parted."""
    serialize: SerializeConfig = SerializeConfig()
    """How a row becomes text."""
    task: TaskConfig
    """What is asked about a patient, and how the answer is read."""
    model: ModelConfig
    """The base model."""
    method: MethodConfig = MethodConfig()
    """How the model is fine-tuned."""
    deepspeed: DeepSpeed | None = None
    """How several processes share what training keeps in memory. Default: none, so that they are
    plain data-parallel ones."""
    imbalance: Imbalance = Imbalance()
    """Class weights and oversampling."""
    train: TrainConfig = TrainConfig()
    """The recipe's numbers."""
    trackers: list[Literal["mlflow", "wandb"]] = []
    """What the training is logged to beside TensorBoard, which always is."""
    models: list[ComparatorName] | None = None
    """The comparators to run. Default: all that fit the model (an encoder has no zero-shot), and no
    published score."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How predictions are judged."""
    launch: LaunchConfig = LaunchConfig()
    """Processes on this machine."""

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
        role = "site" if self.split.whole_sites else role
        problems = []
        if role and self.data.name_of(role) is None:
            problems.append(f"split.by: {by} needs a column with role {role} in data.columns")
        problems += self._table_problems()
        if (by == "files") != (self.data.test_path is not None):
            problems.append("split.by: files goes with data.test_path; give both or neither")
        if by != "column" and (column := self.data.name_of("split")):
            problems.append(f"split.by: {by}, but column {column} has role split; set split.by: column or role: ignore")
        if self.models == []:
            problems.append("models: name at least one of " + ", ".join(COMPARATORS))
        if len(set(self.comparators)) < len(self.comparators):
            problems.append("models: a comparator is named twice")
        sections = {column.section for column in self.data.columns.values() if column.section}
        for section in self.serialize.leave_out:
            if section not in sections:
                problems.append(f"serialize.leave_out: {section} is no section; {suggest(section, sorted(sections))}")
        left = [n for n in self.data.features if self.data.columns[n].section not in self.serialize.leave_out]
        if not left and not self.data.name_of("text"):
            problems.append("serialize.leave_out: no column is left for the text")
        dictionaries = [table.data for table in self.tables.values()] or [self.data]
        if self.serialize.interpret and not any(d.columns[n].reference for d in dictionaries for n in d.features):
            problems.append(
                "serialize.interpret: no column has a reference range; give it, data.columns.NAME.reference: [low, high]"
            )
        if self.vary and (self.method.top_layers or self.data.name_of("text") or self.serialize.style == "template"):
            problems.append(
                "serialize.vary: goes with texts that are made from columns, and not with method.top_layers, whose frozen "
                "layers are computed once; leave one of them out"
            )
        if self.serialize.views > 1 and not (self.tables and self.vary):
            problems.append(
                "serialize.views: more than 1 is for several tables whose texts vary; see tables and serialize.vary"
            )
        if "test" not in self.evaluation.parts:
            problems.append("evaluation.parts: must hold test")
        generative = set(having(lambda one: one.decoder)) & set(self.comparators)
        if self.model.family == "encoder" and generative:
            problems.append(f"models: {', '.join(sorted(generative))} needs a decoder; {self.model.name} is an encoder")
        if self.needs_llm:
            scored_in = self.model.dtype if self.model.score_dtype == "auto" else self.model.score_dtype
            problems += score_refusals(Scoring(scored_in, family=self.choice.family))
        if "tuned" in self.comparators:
            problems += [reason for reason in refusals(self.choice) if reason not in problems]
        if self.train.teacher and self.imbalance != Imbalance():
            problems.append("train.teacher: its risks take no class weights or oversampled rows; leave imbalance out")
        if about := [name for name in self.comparators if COMPARATORS[name].held_out and not self.tables]:
            problems.append(f"models: {', '.join(about)}: for experiments of several tables; see `tables`")
        for name in self.comparators:
            if COMPARATORS[name].views and self.serialize.views == 1:
                problems.append(f"models: {name} reads texts written in several ways; set serialize.views to 2 or more")
            absent = [other for other in COMPARATORS[name].needs if other not in self.comparators]
            if absent:
                words = " and ".join(f"the {other} model" for other in absent)
                problems.append(f"models: {name} stands on {words}; add {' and '.join(absent)}")
        raise_all(problems)
        return self

    def _table_problems(self) -> list[str]:
        if self.split.by == "table" and not self.tables:
            return ["split.by: table needs several tables under `tables`"]
        if not self.tables:
            return []
        problems = [] if len(self.tables) > 1 else ["tables: name at least two; for one table use `data`"]
        for name in set(self.split.test_tables or []) - set(self.tables):
            problems.append(f"split.test_tables: {name} is none of the tables; {suggest(name, sorted(self.tables))}")
        if self.split.by not in ("table", "random"):
            problems.append(f"split.by: {self.split.by} is for one table; with `tables` use random or table")
        if not set(self.tables) - set(self.test_tables):
            problems.append("tables: all of them are for the test; leave one to train on")
        if self.split.by == "table" and not self.test_tables:
            problems.append("split.by: table, but no table is held out; name it in split.test_tables")
        trained = [table for name, table in self.tables.items() if name not in self.test_tables]
        shares = [table.share for table in trained if table.share is not None]
        if shares and len(shares) < len(trained) and sum(shares) >= 1:
            problems.append(
                f"tables: shares of {sum(shares):g} together leave nothing for those that train without one; keep them below "
                "1, or give every table a share"
            )
        if self.serialize.style == "template":
            problems.append("serialize.style: a template names the columns of one table; use another style")
        for name, table in self.tables.items():
            one = "for experiments of one table"
            if table.data.name_of("text") or table.data.format == "ukb":
                problems.append(f"tables.{name}: ready text and UK Biobank exports are {one}")
            if len(table.data.files) > 1:
                problems.append(
                    f"tables.{name}: test files (data.test_path) are {one}; make each a table with part: test"
                )
            if column := table.data.name_of("split"):
                problems.append(f"tables.{name}: a column of role split ({column}) is {one}; give it role ignore")
        return problems

    @property
    def test_tables(self) -> list[str]:
        """Tables of which every row is in the test part."""
        named = self.split.test_tables or []
        return [name for name, table in self.tables.items() if table.part == "test" or name in named]

    @property
    def training_tables(self) -> list[str]:
        """Tables of which no row is in the test part."""
        return [name for name, table in self.tables.items() if table.part == "train"]

    @property
    def mixed_tables(self) -> list[str]:
        """Tables of which rows are drawn into every part."""
        others = (*self.test_tables, *self.training_tables)
        return [name for name in self.tables if name not in others] if self.split.by == "random" else []

    @property
    def judged_data(self) -> list[DataConfig]:
        """Own dictionaries of the tables that have rows in the test part."""
        judged = (*self.test_tables, *self.mixed_tables)
        return [table.data for name, table in self.tables.items() if name in judged] or [self.data]

    @property
    def vary(self) -> VaryConfig | None:
        """How training texts vary; None where they do not."""
        asked = self.serialize.vary
        if isinstance(asked, VaryConfig):
            return asked
        return VaryConfig() if asked or (asked is None and self.tables and not self.method.top_layers) else None

    @property
    def text_data(self) -> DataConfig:
        """The dictionary by which the model's own checks are written: the table's, or the first
        that trains of several."""
        return next((t.data for name, t in self.tables.items() if name not in self.test_tables), self.data)

    @property
    def needs_llm(self) -> bool:
        """Whether any comparator uses the language model."""
        return bool(set(LANGUAGE) & set(self.comparators))

    @property
    def comparators(self) -> list[ComparatorName]:
        """The comparators that run."""
        if self.models is not None:
            return self.models
        encoder = self.model.family == "encoder"
        fitting = list(having(lambda one: not one.on_request and not (one.decoder and encoder)))
        fitting = [name for name in fitting if self.serialize.views > 1 or not COMPARATORS[name].views]
        return [name for name in fitting if self.test_tables or not COMPARATORS[name].held_out]

    @property
    def choice(self) -> Choice:
        """Where this experiment stands in the compatibility table."""
        method = {"none": self.method.kind, "nf4": "qlora", "int8": "lora_8bit"}[self.method.quantization]
        method = "lora_top" if self.method.top_layers else method
        stage = "none"
        if self.deepspeed:
            stage = f"zero{self.deepspeed.stage}" + ("_offload" if self.deepspeed.offload_optimizer else "")
        family = line_of(f"{self.model.name} {self.model.hub_id}", self.model.family)
        return Choice(method, self.task.head, stage, self.model.dtype, family)

    @property
    def ten_year_coronary(self) -> bool:
        """Whether the outcome is a 10-year risk of the kind that guidelines' thresholds are for."""
        ukb = self.data.ukb
        return self.data.format == "ukb" and ukb.horizon_years == 10 and ukb.endpoint in CORONARY

    @property
    def thresholds(self) -> list[Threshold]:
        """To be described beside the task's own."""
        if self.evaluation.thresholds is not None:
            return self.evaluation.thresholds
        return [*(OF_GUIDELINES if self.ten_year_coronary else ()), YOUDEN]

    @property
    def run_path(self) -> Path:
        """The run folder."""
        return Path(self.runs_dir) / self.name

    @property
    def split_seed(self) -> int:
        """Seed of the split: its own or the experiment's."""
        return self.seed if self.split.seed is None else self.split.seed

    @property
    def sample_seed(self) -> int:
        """Seed of the rows that `data.max_rows` keeps: the same in all folds, whose own seeds
        differ."""
        return self.split_seed if self.split.by == "cross_validation" else self.seed

    @property
    def in_folds(self) -> bool:
        """Whether it is cross-validated as a whole, so that its models are those of its folds."""
        return self.split.by == "cross_validation" and self.split.fold is None
