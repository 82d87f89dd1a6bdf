"""One process or many: starting them, cutting work among them, and what DeepSpeed is told."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.distributed.rendezvous import rendezvous

from cardiotune.config import Config, DeepSpeed
from cardiotune.errors import CardioTuneError, InterruptedRunError, ModelError, RunError

FAILURE_FILE = "CARDIOTUNE_FAILURE_FILE"
"""Environment variable that `launch` gives its processes: the file in which a failing one says why."""


def world() -> tuple[int, int]:
    """(rank, processes) of this process; (0, 1) when it is alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def is_worker() -> bool:
    """Whether this process is one of many: started by `launch`, or on several machines by torchrun or DeepSpeed."""
    return is_launched() or ("MASTER_ADDR" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1)


def is_launched() -> bool:
    """Whether `launch` started this process and waits for it, to go on when all are done."""
    return FAILURE_FILE in os.environ


def join(config: Config) -> None:
    """Join the other processes, if this is one of many. Gloo comes first: DeepSpeed would ask for its own on a CPU."""
    if is_worker() and not torch.distributed.is_initialized():
        cpu = not torch.cuda.is_available()
        if cpu and config.deepspeed:
            os.environ["DS_ACCELERATOR"] = "cpu"
        torch.distributed.init_process_group("gloo" if cpu else "nccl")


def meet() -> bool:
    """Whether this process is the first; that one waits here until all have come, however long their work takes.

    If one dies, its launcher ends the others. Needs what a launcher sets: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
    """
    # By the launcher's store alone: a process group would connect every process with every other.
    store, rank, processes = next(rendezvous("env://", timeout=timedelta(days=30)))
    store.set(f"arrived/{rank}", "")
    while rank == 0 and not store.check([f"arrived/{other}" for other in range(processes)]):
        time.sleep(0.5)
    return bool(rank == 0)


def launch(config: Config, arguments: list[str]) -> None:
    """Run `cardiotune ARGUMENTS` in `launch.processes` processes, by torch's launcher, and wait for them.

    It stops the others when one dies. Raises the error of the first that failed, InterruptedRunError after a signal.
    """
    with tempfile.TemporaryDirectory() as folder:
        failure = Path(folder) / "failure.json"
        command = [sys.executable, "-m", "cardiotune.training.launcher", str(config.launch.processes), *arguments]
        environment = {**os.environ, FAILURE_FILE: str(failure), "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        # A session of its own: a terminal's Ctrl-C would reach the launcher and, through us, reach it again.
        with subprocess.Popen(command, env=environment, start_new_session=True) as launched:
            stopped_by = _wait(launched)
        if stopped_by:
            raise InterruptedRunError(
                "stopped; go on from the newest checkpoint with `cardiotune train --resume RUN`", stopped_by
            )
        if launched.returncode > 1:
            raise RunError(
                f"one of {config.launch.processes} processes was killed by {signal.Signals(launched.returncode).name}; "
                "is the machine out of memory?"
            )
        if failure.is_file():
            raise failed_with(**json.loads(failure.read_text()))
        if launched.returncode:
            raise RunError(f"{config.launch.processes} processes: one of them failed without a word")


def tell_failure(message: str, exit_code: int) -> bool:
    """In a process that `launch` started: leave word for it, unless another was first. False in any other process."""
    if not is_launched():
        return False
    with suppress(FileExistsError), open(os.environ[FAILURE_FILE], "x", encoding="utf-8") as file:
        json.dump({"message": message, "exit_code": exit_code}, file)
    return True


def failed_with(message: str, exit_code: int) -> CardioTuneError:
    """The error that ends with this exit code."""
    error = CardioTuneError(message)
    error.exit_code = exit_code
    return error


def _wait(launched: "subprocess.Popen[bytes]") -> int:
    """Wait for the launcher; pass SIGTERM and SIGINT on to it, and return which one came, or 0."""
    got = [0]

    def pass_on(number: int, _: Any) -> None:
        got[0] = number
        launched.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        launched.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return got[0]


def make_accelerator(config: Config, dtype: torch.dtype) -> Accelerator:
    """Accelerate for one process, for data-parallel ones, or with DeepSpeed."""
    cpu = not torch.cuda.is_available()
    if config.deepspeed is None:
        return Accelerator(cpu=cpu, mixed_precision="no")
    try:
        import deepspeed  # noqa: F401
    except ImportError:
        raise ModelError("use.deepspeed needs DeepSpeed: pip install 'cardiotune[deepspeed]'") from None
    from accelerate.utils import DeepSpeedPlugin

    plugin = DeepSpeedPlugin(hf_ds_config=deepspeed_config(config, config.deepspeed, dtype))
    # Told `cpu=True`, Accelerate would leave DeepSpeed out without a word; DS_ACCELERATOR says it to DeepSpeed.
    accelerator = Accelerator(mixed_precision="no", deepspeed_plugin=plugin)
    if accelerator.distributed_type != "DEEPSPEED":
        raise RunError(f"DeepSpeed was asked for, but the processes are {accelerator.distributed_type}")
    return accelerator


def deepspeed_config(config: Config, settings: DeepSpeed, dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's own configuration. Weights that train are float32, computed on in `dtype` under autocast."""
    zero: dict[str, Any] = {"stage": settings.stage, "overlap_comm": False, "contiguous_gradients": True}
    if settings.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if settings.stage == 3:
        zero |= {"stage3_gather_16bit_weights_on_model_save": True, "stage3_param_persistence_threshold": 0}
        if settings.offload_weights:
            zero["offload_param"] = {"device": "cpu"}
    return {
        "zero_optimization": zero,
        "train_micro_batch_size_per_gpu": config.train.batch_size,
        "gradient_accumulation_steps": config.train.gradient_accumulation,
        "gradient_clipping": config.train.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def share(batches: list[Any]) -> list[Any]:
    """This process's share of batches: every `processes`-th. All get the same number, the last ones one of others'.

    Under ZeRO-3 a forward pass is a joint act of all processes, so none may make fewer of them.
    """
    rank, processes = world()
    rounds = -(-len(batches) // processes)
    return [batches[min(rank + turn * processes, len(batches) - 1)] for turn in range(rounds)]


def merge(values: np.ndarray) -> np.ndarray:
    """Bring together arrays in which each process filled its own rows and left the others NaN."""
    if world()[1] == 1:
        return values
    known = torch.from_numpy(~np.isnan(values)).double()
    total = torch.from_numpy(np.nan_to_num(values))
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    total, known = total.to(device), known.to(device)
    torch.distributed.all_reduce(total)
    torch.distributed.all_reduce(known)
    # A row that two processes scored (see `share`) is the same number twice.
    return (total / known).cpu().numpy()
