"""The recipe, read top to bottom."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from cardiotune.config import TrainConfig
from cardiotune.errors import RunError
from cardiotune.runs import RunFolder, write_json
from cardiotune.training.checkpoint import check_same_weights, save_adapter
from cardiotune.training.heads import LabelTokenModel
from cardiotune.training.loss import mean_log_loss
from cardiotune.training.packing import by_token_budget, lay_out

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """Encoded rows of one part: prompts as token ids, and events (rows,) of 0 and 1."""

    prompts: Sequence[list[int]]
    events: np.ndarray


@torch.no_grad()
def score(
    model: LabelTokenModel,
    prompts: Sequence[list[int]],
    pad_id: int,
    batch_tokens: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    on_rows: Callable[[int], None] | None = None,
) -> np.ndarray:
    """(rows,) float64 logits, in the order of `prompts`. Used in training, prediction and serving alike."""
    was_training = model.training
    model.eval()
    logits = np.empty(len(prompts))
    for rows in by_token_budget(prompts, batch_tokens, model.layout):
        batch = lay_out([prompts[row] for row in rows], pad_id, model.layout).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits[rows] = model(batch).double().cpu().numpy()
        if on_rows:
            on_rows(len(rows))
    model.train(was_training)
    return logits


def train(
    model: LabelTokenModel,
    training: Rows,
    validation: Rows,
    settings: TrainConfig,
    run: RunFolder,
    pad_id: int,
    batch_tokens: int,
    dtype: torch.dtype,
    seed: int,
) -> dict[str, Any]:
    """Fine-tune `model` and leave the best adapter, by the validation metric, in `run.adapter`.

    Returns a summary; the whole history is in `run.training` and, for TensorBoard, in `run.logs`.
    Raises RunError when the loss is no longer finite.
    """
    # --- steps -------------------------------------------------------------------------------------------------------
    step_rows = settings.batch_size * settings.gradient_accumulation
    steps_per_epoch = len(training.prompts) / step_rows
    steps = settings.max_steps or max(1, round(settings.epochs * steps_per_epoch))
    look_every = settings.evaluate_every or max(1, round(steps_per_epoch))
    torch.manual_seed(seed)

    # --- optimizer ---------------------------------------------------------------------------------------------------
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps, settings))
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    device, layout = accelerator.device, model.layout

    # --- loop --------------------------------------------------------------------------------------------------------
    history: dict[str, list[dict[str, float]]] = {"steps": [], "validation": []}
    best: dict[str, float] = {}
    looks_without_better = 0
    board = _TensorBoard(run)
    batches = _batches(len(training.prompts), step_rows, seed)
    start = time.perf_counter()
    with _progress() as progress:
        bar = progress.add_task("training", total=steps, loss=float("nan"), speed=0.0)
        for step in range(1, steps + 1):
            rows = next(batches)
            model.train()
            step_loss = 0.0
            for first in range(0, len(rows), settings.batch_size):
                part = rows[first : first + settings.batch_size]
                batch = lay_out([training.prompts[row] for row in part], pad_id, layout).to(device)
                events = torch.tensor(training.events[part], dtype=torch.float32, device=device)
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    logits = model(batch)  # (rows,)
                loss = mean_log_loss(logits, events, len(rows))
                accelerator.backward(loss)
                step_loss += loss.item()
            norm = float(accelerator.clip_grad_norm_(weights, settings.max_grad_norm))
            if not math.isfinite(step_loss) or not math.isfinite(norm):
                raise RunError(
                    f"step {step}: the loss is not finite; nothing was saved from it. Lower train.learning_rate or set "
                    "model.dtype=float32"
                )
            learning_rate = schedule.get_last_lr()[0]
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

            speed = step * step_rows / (time.perf_counter() - start)
            history["steps"].append(
                {"step": step, "loss": step_loss, "learning_rate": learning_rate, "grad_norm": norm}
            )
            board.add(step, {"train/loss": step_loss, "train/learning_rate": learning_rate, "train/grad_norm": norm})
            progress.update(bar, advance=1, loss=step_loss, speed=speed)

            # --- a look at the validation part -----------------------------------------------------------------------
            if step % look_every and step != steps:
                continue
            logits = score(model, validation.prompts, pad_id, batch_tokens, device, dtype)
            look = {
                "step": step,
                "epoch": step / steps_per_epoch,
                **validation_metrics(validation.events, logits),
            }
            history["validation"].append(look)
            board.add(step, {f"validation/{name}": look[name] for name in ("log_loss", "brier", "auroc")})
            better = not best or _key(look, settings.select_on) < _key(best, settings.select_on)
            recent = np.mean([entry["loss"] for entry in history["steps"][-look_every:]])
            progress.console.print(
                f"step {step}/{steps}  loss {recent:.3f}  validation log-loss {look['log_loss']:.4f}  "
                f"AUROC {look['auroc']:.3f}  {speed:.1f} rows/s" + ("  best" if better else ""),
                highlight=False,
            )
            if better:
                best, looks_without_better = look, 0
                _keep(accelerator.unwrap_model(model), run, step)
            else:
                looks_without_better += 1
            if settings.early_stopping and looks_without_better >= settings.early_stopping:
                progress.console.print(
                    f"no better validation {settings.select_on} in {looks_without_better} looks: stopping"
                )
                break
    seconds = time.perf_counter() - start
    board.close()
    summary = {
        "steps": step,
        "steps_planned": steps,
        "rows_seen": step * step_rows,
        "rows_per_second": round(step * step_rows / seconds, 3),
        "selected_step": int(best["step"]),
        "selected_on": settings.select_on,
        "dtype": str(dtype).removeprefix("torch."),
    }
    write_json(run.training, {**summary, "history": history})
    return summary


def learning_rate_factor(step: int, steps: int, settings: TrainConfig) -> float:
    """What the learning rate is multiplied by at a step counted from 0: linear warm-up, then the chosen schedule."""
    warm_up = math.ceil(settings.warmup_share * steps)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    done = (step - warm_up) / max(1, steps - warm_up)
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if settings.schedule == "linear" else 1.0


def validation_metrics(events: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """log_loss, brier and auroc of logits (rows,)."""
    risks = 1 / (1 + np.exp(-logits))
    return {
        "log_loss": float(log_loss(events, risks, labels=[0, 1])),
        "brier": float(brier_score_loss(events, risks)),
        "auroc": float(roc_auc_score(events, logits)),
    }


def _key(look: dict[str, float], metric: str) -> float:
    """Smaller is better."""
    return -look["auroc"] if metric == "auroc" else look[metric]


def _batches(rows: int, step_rows: int, seed: int) -> Iterator[np.ndarray]:
    """Row numbers of each optimizer step: shuffled epochs end to end, an epoch's order from seed and epoch alone.

    A step may cross the border of two epochs, so that all have the same number of rows: a short last step would give
    its few rows the weight of many.
    """
    waiting, epoch = np.empty(0, dtype=np.int64), 0
    while True:
        while len(waiting) < step_rows:
            waiting = np.concatenate([waiting, np.random.default_rng([seed, epoch]).permutation(rows)])
            epoch += 1
        yield waiting[:step_rows]
        waiting = waiting[step_rows:]


def _keep(model: LabelTokenModel, run: RunFolder, step: int) -> None:
    """Save the adapter of this step as a checkpoint and as the run's adapter; read it back; drop older checkpoints."""
    folder = run.checkpoints / f"step-{step:06d}"
    save_adapter(model, folder)
    check_same_weights(model, folder)
    save_adapter(model, run.adapter)
    for older in sorted(run.checkpoints.glob("step-*"))[:-1]:
        for file in older.iterdir():
            file.unlink()
        older.rmdir()


class _TensorBoard:
    """Metrics for TensorBoard; never a row."""

    def __init__(self, run: RunFolder) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(run.logs)

    def add(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:.1f} rows/s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


__all__ = ["Rows", "learning_rate_factor", "score", "train", "validation_metrics"]
