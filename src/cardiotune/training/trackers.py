"""Where training metrics go: TensorBoard always, MLflow and Weights & Biases when asked. Numbers
and settings, no row."""

import os
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from cardiotune.errors import ConfigError
from cardiotune.files import make_folder
from cardiotune.runs import RunFolder
from cardiotune.settings import Config


class Trackers:
    """All trackers of a run behind one `add`."""

    def __init__(self, run: RunFolder, config: Config, first_step: int) -> None:
        # What an interrupted process wrote after the checkpoint is not shown twice.
        self.board = SummaryWriter(run.logs, purge_step=first_step + 1 if first_step else None)
        self.mlflow = _mlflow(config) if "mlflow" in config.trackers else None
        self.wandb = _wandb(run, config) if "wandb" in config.trackers else None

    def add(self, step: int, values: dict[str, float]) -> None:
        """Numbers of one step."""
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        if self.mlflow:
            self.mlflow.log_metrics(values, step=step)
        if self.wandb:
            self.wandb.log(values, step=step)

    def close(self) -> None:
        """Write out what is still in memory."""
        self.board.close()
        if self.mlflow:
            self.mlflow.end_run()
        if self.wandb:
            self.wandb.finish()


def _settings(config: Config) -> dict[str, Any]:
    """Settings without the data dictionary, which may name a hospital's columns and folders."""
    return config.model_dump(mode="json", exclude={"data", "runs_dir", "use"})


def _mlflow(config: Config) -> Any:
    """A local store beside the runs, unless MLFLOW_TRACKING_URI says otherwise."""
    try:
        import mlflow
    except ImportError:
        raise ConfigError("trackers: mlflow is not installed; pip install 'cardiotune[mlflow]'") from None
    if "MLFLOW_TRACKING_URI" not in os.environ:
        folder = config.run_path.parent.resolve()
        make_folder(folder)
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.set_experiment("cardiotune")
    mlflow.start_run(run_name=config.name, log_system_metrics=False)
    flat = {
        f"{s}.{k}": v
        for s, section in _settings(config).items()
        if isinstance(section, dict)
        for k, v in section.items()
    }
    mlflow.log_params({key: str(value)[:250] for key, value in flat.items()})
    return mlflow


def _wandb(run: RunFolder, config: Config) -> Any:
    """Offline unless WANDB_MODE says otherwise."""
    try:
        import wandb
    except ImportError:
        raise ConfigError("trackers: wandb is not installed; pip install 'cardiotune[wandb]'") from None
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    return wandb.init(project="cardiotune", name=config.name, dir=run.logs, mode=mode, config=_settings(config))
