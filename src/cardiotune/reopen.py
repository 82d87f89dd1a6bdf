"""A run that is there, opened again: its settings, its cohort, its model."""

from pathlib import Path
from typing import Any

import polars as pl

from cardiotune.config import load_resolved, read_yaml
from cardiotune.data.cohort import ROW_ID
from cardiotune.data.prepare import Prepared, read_prepared
from cardiotune.data.table import locate
from cardiotune.deployment.record import is_export
from cardiotune.deployment.scorer import TUNED, ZERO_SHOT
from cardiotune.errors import ConfigError, DataError, ModelError
from cardiotune.files import sha256
from cardiotune.models.saved import check_saved, saved_models
from cardiotune.models.tuned import TunedModel, read_calibrator
from cardiotune.report.learning_curve import changed_settings
from cardiotune.runs import RunFolder
from cardiotune.settings import Config, DataConfig


def open_run(path: str | Path) -> RunFolder:
    """An existing run folder; ConfigError when it is none."""
    folder = RunFolder(Path(path))
    folder.read_manifest()
    return folder


def config_of(folder: RunFolder) -> Config:
    """The resolved settings of a run, as they were recorded."""
    return load_resolved(folder.checked(folder.config))


def check_tuned(folder: RunFolder, otherwise: str = "") -> None:
    """ConfigError, before any table is read, when the run has no tuned model."""
    config = config_of(folder)
    if folder.tuned_folder(config.method.kind).is_dir():
        return
    if "tuned" in config.comparators:
        how = f"train it with `cardiotune train {folder.path}`"
    else:
        how = "its models do not hold tuned, so make another run"
    raise ConfigError(f"{folder.path}: has no tuned model; {how}{otherwise}")


def check_scorable(path: Path, model: str) -> None:
    """ConfigError, before any table is read, when a folder is no run or export that can score a
    table with this model."""
    if is_export(path):
        if model != TUNED:
            raise ConfigError(f"{path}: an export holds the tuned model alone; use --model {model} with its run")
        return
    folder = open_run(path)
    if model == TUNED:
        saved = "".join(f", {name}" for name in saved_models(folder))
        check_tuned(folder, f", or ask for another with --model: {ZERO_SHOT}{saved}")
    elif model != ZERO_SHOT:
        check_saved(folder, model)


def tuned_model(folder: RunFolder, config: Config, order: list[str]) -> TunedModel:
    """The run's own model."""
    read_calibrator(folder)  # applied to the model's risks: refused, if damaged, before hours of scoring
    return TunedModel(folder, config, order)


def reopen(folder: RunFolder, prepared: Prepared | None) -> tuple[Config, Prepared]:
    """Config and cohort of a run; DataError when the table is no longer the one that was split."""
    config = config_of(folder)
    if prepared is not None:
        return config, prepared
    recorded = folder.read_manifest().get("data")
    if recorded is None:
        raise ModelError(f"{folder.path}: was stopped before its table was prepared; start it anew with --overwrite")
    if describe_files(config) != recorded:
        tables = [table.data for table in config.tables.values()] or [config.data]
        files = ", ".join(path for data in tables for path in data.files.values())
        raise DataError(f"{files}: has changed since this run was prepared; restore it, or start a new run")
    prepared = read_prepared(config)
    try:
        saved = pl.read_parquet(folder.checked(folder.split))
    except (OSError, pl.exceptions.PolarsError):
        raise ModelError(f"{folder.split}: damaged or not there; restore it, or start a new run") from None
    if saved["row_id"].to_list() != prepared.cohort.frame[ROW_ID].to_list() or list(saved["part"]) != list(
        prepared.parts
    ):
        raise DataError(f"{folder.split}: does not match the table; restore it, or start a new run")
    return config, prepared


def differs(config: Config) -> str:
    """In what the run that is there differs from this experiment: names of settings, or its tables;
    empty where it does not, or there is none."""
    folder = RunFolder(config.run_path)
    if not folder.config.is_file() or not folder.manifest.is_file():
        return ""
    if changed := changed_settings(read_yaml(folder.config), config.model_dump(mode="json")):
        return f"settings ({', '.join(changed)})"
    recorded = folder.read_manifest().get("data")
    return "tables" if recorded is not None and recorded != describe_files(config) else ""


def describe_files(config: Config) -> dict[str, Any]:
    """For the manifest: name and sha256 of the table, and below `test` and `validation` those of
    files of their own; of several tables those of each, by its name."""
    if config.tables:
        return {"tables": {name: _describe(table.data) for name, table in config.tables.items()}}
    return _describe(config.data)


def _describe(data: DataConfig) -> dict[str, Any]:
    files = {part: locate(path, folder=data.format == "ukb") for part, path in data.files.items()}
    named: dict[str, Any] = {part: {"file": f.name, "sha256": sha256(f)} for part, f in files.items()}
    return {**named.pop("train"), **named}
