"""The recipe, read top to bottom. Every method, head and number of processes goes through it."""

import json
import logging
import math
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from cardiotune.errors import InterruptedRunError, ModelError, RunError
from cardiotune.files import write_folder, write_json
from cardiotune.progress import progress as progress_bar
from cardiotune.runs import RunFolder
from cardiotune.settings import Config, TrainConfig
from cardiotune.training import checkpoint
from cardiotune.training.distributed import make_accelerator, world
from cardiotune.training.heads import RiskNetwork
from cardiotune.training.loss import Balance, corrected, mean_log_loss
from cardiotune.training.optimizer import build_optimizer
from cardiotune.training.packing import Rows, lay_out_rows
from cardiotune.training.scoring import score
from cardiotune.training.trackers import Trackers

log = logging.getLogger(__name__)


def train(
    network: RiskNetwork,
    training: Rows,
    validation: Rows,
    balance: Balance,
    config: Config,
    run: RunFolder,
    pad_id: int,
    dtype: torch.dtype,
    resume: bool = False,
) -> dict[str, Any]:
    """Fine-tune `network`; the best step's weights, by the validation metric, end in
    `run.tuned_folder(config)`.

    Returns a summary; the whole history is in `run.training` and, for TensorBoard, in `run.logs`.
    Raises RunError when the loss is no longer finite, InterruptedRunError after SIGTERM or Ctrl-C,
    when the step is finished and saved.
    """
    settings = config.train
    rank, processes = world().rank, world().size

    # --- steps ------------------------------------------------------------------------------------
    pass_rows = settings.batch_size
    step_rows = pass_rows * settings.gradient_accumulation * processes
    steps_per_epoch = len(balance.rows) / step_rows
    steps = settings.max_steps or max(1, round(settings.epochs * steps_per_epoch))
    look_every = settings.evaluate_every or max(1, round(steps_per_epoch))

    # --- model and optimizer, spread over the processes -------------------------------------------
    accelerator = make_accelerator(config, dtype)  # before anything that would settle the kind of processes for it
    progress = _Progress() if not resume else _resume(network, config, run)
    device, layout = accelerator.device, network.layout
    optimizer = build_optimizer(network, settings, config.method)
    spread, optimizer = accelerator.prepare(network, optimizer)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    # Averaging over processes and, in DeepSpeed, over passes is undone: the loss already divides by
    # the step's rows.
    scale = processes * (settings.gradient_accumulation if config.deepspeed else 1)
    torch.manual_seed(config.seed * 1000 + rank)
    if progress.folder:
        _restore(progress.folder, spread, optimizer, config, rank)
        _keep_best(progress, run, settings, device)  # now, and not when all other steps are done

    # --- loop -------------------------------------------------------------------------------------
    trackers = Trackers(run, config, progress.step) if rank == 0 else None
    batches = _batches(balance.rows, step_rows, config.seed, progress.step)
    start, first_step = time.perf_counter(), progress.step
    with progress_bar("training", steps, first_step, quiet=rank > 0) as bar, _signals() as stop_signal:
        while progress.step < steps and not progress.stopped_early:
            step = progress.step + 1
            rows = next(batches)
            own = rows[rank * len(rows) // processes : (rank + 1) * len(rows) // processes]
            factor = learning_rate_factor(progress.step, steps, settings)
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate * factor
            spread.train()
            own_loss = torch.zeros((), device=device)
            for first in range(0, len(own), pass_rows):
                part = own[first : first + pass_rows]
                batch = lay_out_rows(part.tolist(), training.prompts, pad_id, layout, training.states).to(device)
                events = torch.tensor(training.events[part], dtype=torch.float32, device=device)
                row_weights = torch.tensor(balance.weights, device=device)[events.long()]
                if training.weights is not None:
                    row_weights *= torch.tensor(training.weights[part], dtype=torch.float32, device=device)
                last_pass = first + pass_rows >= len(own)
                with _synchronized(accelerator, spread, last_pass):
                    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                        logits = spread(batch)  # (rows of this pass,)
                    loss = mean_log_loss(logits, events, row_weights, len(rows))
                    _backward(accelerator, loss * scale, last_pass)
                own_loss += loss.detach()
            loss_value = float(accelerator.reduce(own_loss, "sum"))
            norm = _clip(accelerator, spread, weights, settings.max_grad_norm)
            if not math.isfinite(loss_value) or not math.isfinite(norm):
                raise RunError(
                    f"step {step}: the loss is not finite; the last good checkpoint is kept. Lower train.learning_rate "
                    "or set model.dtype=float32"
                )
            optimizer.step()
            optimizer.zero_grad()

            progress.step = step
            rate = base_rates[0] * factor
            entry = {"step": step, "loss": loss_value, "learning_rate": rate, "grad_norm": norm}
            progress.history["steps"].append(entry)
            speed = (step - first_step) * step_rows / (time.perf_counter() - start)
            if trackers:
                trackers.add(step, {f"train/{name}": value for name, value in entry.items() if name != "step"})
            bar.advance(1, f"loss {loss_value:.3f}  {speed:.1f} rows/s")

            # --- a look at the validation part, and a checkpoint ----------------------------------
            looked = step % look_every == 0 or step == steps
            if looked:
                _keep_best(progress, run, settings, device)
                spread.eval()
                budget = config.evaluation.score_batch_tokens
                held, states = validation.prompts, validation.states
                try:
                    raw = score(spread, held, pad_id, budget, device, layout, dtype, states=states)
                except ModelError as error:
                    raise RunError(f"step {step}: {error}; the last good checkpoint is kept") from None
                seen = corrected(raw, balance.odds_multiplier)
                look = {
                    "step": step,
                    "epoch": step / steps_per_epoch,
                    **validation_metrics(validation.events, seen, validation.weights),
                }
                better = progress.add_look(look, settings)
                if trackers:
                    trackers.add(step, {f"validation/{name}": look[name] for name in ("log_loss", "brier", "auroc")})
                recent = np.mean([entry["loss"] for entry in progress.history["steps"][-look_every:]])
                bar.say(
                    f"step {step}/{steps}  loss {recent:.3f}  validation log-loss {look['log_loss']:.4f}  "
                    f"AUROC {look['auroc']:.3f}  {speed:.1f} rows/s" + ("  best" if better else "")
                )
            asked = _agree(stop_signal, device)
            due = settings.save_every is not None and step % settings.save_every == 0
            if looked or due or asked:
                _save(accelerator, network, spread, optimizer, progress, config, run)
            if asked:
                raise InterruptedRunError(
                    f"stopped by {signal.Signals(asked).name} after step {step}, which is saved; go on with "
                    f"`cardiotune train --resume {run.path}`",
                    asked,
                )
    if trackers:
        trackers.close()
    if progress.stopped_early:
        log.info("no better validation %s in %d looks: stopped", settings.select_on, progress.looks_without_better)

    # --- the best step becomes the run's model ----------------------------------------------------
    _keep_best(progress, run, settings, device)
    if not progress.best:
        raise ModelError(
            f"{run.checkpoints}: no step that was judged on the validation part is whole; train the run again"
        )
    seconds = time.perf_counter() - start
    summary = {
        "steps": progress.step,
        "steps_planned": steps,
        "rows_a_step": step_rows,
        "rows_per_second": round((progress.step - first_step) * step_rows / seconds, 3),
        "selected_step": int(progress.best["step"]),
        "selected_on": settings.select_on,
        **({"better_steps_lost": lost} if (lost := _better_than_best(progress, settings)) else {}),
        "dtype": str(dtype).removeprefix("torch."),
        "processes": processes,
        "odds_multiplier": balance.odds_multiplier,
    }
    if rank == 0:
        publish_weights(run, _step_folder(run, int(progress.best["step"])), config)
        write_json(run.training, {**summary, "history": progress.history})
    accelerator.wait_for_everyone()
    return {**summary, "resumed_after_step": first_step} if first_step else summary


def learning_rate_factor(step: int, steps: int, settings: TrainConfig) -> float:
    """What the learning rate is multiplied by at a step counted from 0: linear warm-up, then the
    chosen schedule."""
    warm_up = math.ceil(settings.warmup_share * steps)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    done = (step - warm_up) / max(1, steps - warm_up)
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if settings.schedule == "linear" else 1.0


def validation_metrics(events: np.ndarray, logits: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    """log_loss, brier and auroc of logits (rows,), each row with its weight."""
    risks = 1 / (1 + np.exp(-logits))
    return {
        "log_loss": float(log_loss(events, risks, labels=[0, 1], sample_weight=weights)),
        "brier": float(brier_score_loss(events, risks, sample_weight=weights)),
        "auroc": float(roc_auc_score(events, logits, sample_weight=weights)),
    }


def publish_weights(run: RunFolder, step_folder: Path, config: Config) -> None:
    """Copy a checkpoint's weights to the run's `adapter/` or `model/`."""
    checkpoint.verify(step_folder, inside="weights/")

    def fill(work: Path) -> None:
        for file in (step_folder / "weights").iterdir():
            shutil.copy2(file, work / file.name)

    write_folder(run.tuned_folder(config.method.kind), fill)


# --------------------------------------------------------------------------------------------------
# progress


class _Progress:
    """Where training stands; everything here is in a checkpoint's `state.json`."""

    def __init__(self) -> None:
        self.step = 0
        self.best: dict[str, float] = {}
        self.looks_without_better = 0
        self.stopped_early = False
        self.history: dict[str, list[dict[str, float]]] = {"steps": [], "validation": []}
        self.folder: Path | None = None

    def add_look(self, look: dict[str, float], settings: TrainConfig) -> bool:
        """Record a look at the validation part; True when it is the best so far."""
        self.history["validation"].append(look)
        better = not self.best or _key(look, settings.select_on) < _key(self.best, settings.select_on)
        self.best = look if better else self.best
        self.looks_without_better = 0 if better else self.looks_without_better + 1
        self.stopped_early = bool(settings.early_stopping) and self.looks_without_better >= (
            settings.early_stopping or 0
        )
        return better

    def as_json(self, config: Config) -> dict[str, Any]:
        kept = ("step", "best", "looks_without_better", "stopped_early", "history")
        return {**{name: getattr(self, name) for name in kept}, "config": config.model_dump(mode="json")}


def _key(look: dict[str, float], metric: str) -> float:
    """Smaller is better."""
    return -look["auroc"] if metric == "auroc" else look[metric]


def _batches(rows: np.ndarray, step_rows: int, seed: int, skip: int) -> Iterator[np.ndarray]:
    """Row numbers of each optimizer step after `skip` steps: shuffled epochs end to end, order from
    seed and epoch.

    A step may cross the border of two epochs, so that all have the same number of rows: a short
    last step would give its few rows the weight of many.
    """
    waiting, epoch = np.empty(0, dtype=np.int64), 0
    while True:
        while len(waiting) < step_rows:
            waiting = np.concatenate([waiting, np.random.default_rng([seed, epoch]).permutation(rows)])
            epoch += 1
        if skip:
            skip -= 1
        else:
            yield waiting[:step_rows]
        waiting = waiting[step_rows:]


# --------------------------------------------------------------------------------------------------
# one process or many


@contextmanager
def _synchronized(accelerator: Any, spread: Any, last_pass: bool) -> Iterator[None]:
    """Plain data parallelism exchanges gradients in the step's last pass only."""
    if last_pass or accelerator.distributed_type == "DEEPSPEED":
        yield
    else:
        with accelerator.no_sync(spread):
            yield


def _backward(accelerator: Any, loss: torch.Tensor, last_pass: bool) -> None:
    if accelerator.distributed_type == "DEEPSPEED":
        # The engine steps the optimizer itself in the step's last pass.
        accelerator.deepspeed_engine_wrapped.backward(loss, sync_gradients=last_pass)
    else:
        loss.backward()  # type: ignore[no-untyped-call]


def _clip(accelerator: Any, spread: Any, weights: list[torch.nn.Parameter], limit: float) -> float:
    """Clip the gradient to the limit; its norm before. DeepSpeed has clipped already."""
    if accelerator.distributed_type == "DEEPSPEED":
        return float(spread.get_global_grad_norm())
    return float(torch.nn.utils.clip_grad_norm_(weights, limit))


def _agree(stop_signal: list[int], device: torch.device) -> int:
    """The signal that any process has got, or 0: all stop after the same step."""
    return _greatest(stop_signal[0], device)


def _greatest(own: int, device: torch.device) -> int:
    """The greatest of all processes' numbers."""
    if world().size == 1:
        return own
    seen = torch.tensor(own, device=device)
    torch.distributed.all_reduce(seen, torch.distributed.ReduceOp.MAX)
    return int(seen)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list whose one element becomes the number of the first SIGTERM or SIGINT; a second one acts
    at once."""
    got = [0]
    before: dict[int, Any] = {}

    def note(number: int, _: Any) -> None:
        got[0] = number
        for known, handler in before.items():
            signal.signal(known, handler)

    try:
        for wanted in (signal.SIGTERM, signal.SIGINT):
            before[wanted] = signal.signal(wanted, note)
    except ValueError:  # not the main thread: signals are somebody else's
        pass
    try:
        yield got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --------------------------------------------------------------------------------------------------
# checkpoints


def _step_folder(run: RunFolder, step: int) -> Path:
    return run.checkpoints / f"step-{step:06d}"


def _save(
    accelerator: Any,
    network: RiskNetwork,
    spread: Any,
    optimizer: Any,
    progress: _Progress,
    config: Config,
    run: RunFolder,
) -> None:
    """Write a checkpoint, read its weights back, drop those that are no longer needed. A joint act
    of all processes."""
    state = checkpoint.trained_state(network)
    generators = _all_generators()
    engine_folder = run.checkpoints / ".engine"
    deepspeed = accelerator.distributed_type == "DEEPSPEED"
    if deepspeed:
        spread.save_checkpoint(str(engine_folder), tag="engine", exclude_frozen_parameters=True)
    if world().rank == 0:

        def fill(work: Path) -> None:
            (work / "weights").mkdir()
            checkpoint.save_weights(network, state, work / "weights")
            if deepspeed:
                for script in engine_folder.rglob(
                    "*.py"
                ):  # a converter that DeepSpeed leaves; a folder with code is refused
                    script.unlink()
                engine_folder.replace(work / "engine")
            else:
                save_file(checkpoint.optimizer_tensors(optimizer), work / "optimizer.safetensors")
            save_file({"generators": generators}, work / "generators.safetensors")
            write_json(work / "state.json", progress.as_json(config))

        folder = _step_folder(run, progress.step)
        write_folder(folder, fill)
        checkpoint.check_same_weights(network, state, folder / "weights")
        best = {int(progress.best["step"])} if progress.best else set()
        checkpoint.drop_old(run, best, config.train.save_total_limit, progress.step)
    accelerator.wait_for_everyone()


def _keep_best(progress: _Progress, run: RunFolder, settings: TrainConfig, device: torch.device) -> None:
    """Read the best step's weights again. Where they are damaged or gone, the best of the steps
    that are whole takes its place.

    The first process reads and decides for all.
    """
    looks = sorted(
        progress.history["validation"], key=lambda look: _key(look, settings.select_on)
    )  # ties: the earlier one
    behind = [look for look in looks if look["step"] != progress.best.get("step")]
    chosen = -1
    if world().rank == 0:
        for look in [progress.best, *behind] if progress.best else []:
            folder = _step_folder(run, int(look["step"]))
            if look is not progress.best and not folder.is_dir():
                continue  # dropped long ago
            try:
                checkpoint.verify(folder, inside="weights/")
                chosen = int(look["step"])
                break
            except ModelError as error:
                log.warning("damaged checkpoint passed over: %s", error)
    chosen = _greatest(chosen, device)
    if progress.best and chosen != progress.best["step"]:
        log.warning(
            "the best step, %d, is lost; %s",
            progress.best["step"],
            f"the best that is left is {chosen}" if chosen > 0 else "no other is left",
        )
        progress.best = next((look for look in looks if look["step"] == chosen), {})


def _better_than_best(progress: _Progress, settings: TrainConfig) -> list[int]:
    """Steps that were judged better than the one that is kept, and are lost."""
    kept = _key(progress.best, settings.select_on)
    return [int(look["step"]) for look in progress.history["validation"] if _key(look, settings.select_on) < kept]


def _all_generators() -> torch.Tensor:
    """(processes, bytes) uint8: PyTorch's generator state of every process."""
    own = torch.get_rng_state()
    if torch.cuda.is_available():
        own = torch.cat([own, torch.cuda.get_rng_state()])
    if world().size == 1:
        return own[None]
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    states = [torch.empty_like(own, device=device) for _ in range(world().size)]
    torch.distributed.all_gather(states, own.to(device))
    return torch.stack(states).cpu()


def _resume(network: RiskNetwork, config: Config, run: RunFolder) -> _Progress:
    """Progress and weights of the newest good checkpoint; from the start when there is none yet."""
    progress = _Progress()
    good = checkpoint.good_checkpoints(run)
    if not good:
        log.warning("%s: no whole checkpoint; training starts at the first step", run.path)
        return progress
    state: dict[str, Any] = json.loads((good[0] / "state.json").read_text())
    before, now = state.pop("config"), config.model_dump(mode="json")
    changed = [f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in now if before.get(k) != now.get(k)]
    if changed:
        raise ModelError(
            f"{good[0]}: made with other settings ({'; '.join(changed)[:300]}); a resumed run keeps its own"
        )
    for name, value in state.items():
        setattr(progress, name, value)
    progress.folder = good[0]
    checkpoint.load_weights(network, good[0] / "weights")
    log.info("resuming after step %d", progress.step)
    return progress


def _restore(folder: Path, spread: Any, optimizer: Any, config: Config, rank: int) -> None:
    """Optimizer and random numbers, once the model is spread over the processes."""
    if config.deepspeed:
        spread.load_checkpoint(str(folder / "engine"), tag="engine", load_module_strict=False)
    else:
        inner = getattr(optimizer, "optimizer", optimizer)
        checkpoint.restore_optimizer(inner, load_file(folder / "optimizer.safetensors"))
    own = load_file(folder / "generators.safetensors")["generators"][
        rank
    ].clone()  # it reads from the start of the memory
    size = len(torch.get_rng_state())
    torch.set_rng_state(own[:size])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(own[size:])
