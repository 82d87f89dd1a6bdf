"""Every setting, typed, with its meaning and unit, and checked; a file a section."""

from cardiotune.settings.column_types import COLUMN_ROLES, COLUMN_TYPES
from cardiotune.settings.columns import (
    DERIVE_INPUTS,
    LEARNED,
    MEANINGS,
    Column,
    Derive,
    Meaning,
    spelling,
)
from cardiotune.settings.data import CensoringDates, DataConfig, SerializeConfig, SplitConfig, UkbConfig, VaryConfig
from cardiotune.settings.evaluation import EvaluationConfig, Threshold
from cardiotune.settings.experiment import Config
from cardiotune.settings.model import Gguf, MethodConfig, ModelConfig, PackedFolder, TaskConfig
from cardiotune.settings.strict import Settings, Share, raise_all, suggest
from cardiotune.settings.training import DeepSpeed, Imbalance, LaunchConfig, Oversample, TrainConfig

__all__ = [
    "COLUMN_ROLES",
    "COLUMN_TYPES",
    "DERIVE_INPUTS",
    "LEARNED",
    "MEANINGS",
    "CensoringDates",
    "Column",
    "Config",
    "DataConfig",
    "DeepSpeed",
    "Derive",
    "EvaluationConfig",
    "Gguf",
    "Imbalance",
    "LaunchConfig",
    "Meaning",
    "MethodConfig",
    "ModelConfig",
    "Oversample",
    "PackedFolder",
    "SerializeConfig",
    "Settings",
    "Share",
    "SplitConfig",
    "TaskConfig",
    "Threshold",
    "TrainConfig",
    "UkbConfig",
    "VaryConfig",
    "raise_all",
    "spelling",
    "suggest",
]
