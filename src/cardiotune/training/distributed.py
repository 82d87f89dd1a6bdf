"""One process or many: starting them, cutting work among them, and what DeepSpeed is told."""

import atexit
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch._dynamo  # first imported after `join`, it would keep the group, and Gloo's threads, alive
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin
from torch._C._distributed_c10d import FileStore, Store, TCPStore

from cardiotune.errors import CardioTuneError, ConfigError, InterruptedRunError, ModelError, RunError
from cardiotune.processes import TRUSTED, Process, current, describing, without_strays
from cardiotune.settings import Config, DeepSpeed

log = logging.getLogger(__name__)

FAILURE = "failure.json"
"""In the folder of those that `launch` started: why the first of them failed."""
SHUTDOWN_SECONDS = 120
"""How long processes may take to finish a step and save it after SIGTERM, before they are
killed."""


def world() -> Process:
    """This process among those that it has joined to compute together (`join`); alone before that,
    as one of many is that works for itself."""
    joined = torch.distributed.is_available() and torch.distributed.is_initialized()
    return current() if joined else Process()


def join(config: Config) -> None:
    """Join the other processes, if this is one of many. Gloo comes first: DeepSpeed would ask for
    its own on a CPU."""
    process = current()
    if process.is_worker and not torch.distributed.is_initialized():
        cpu = not torch.cuda.is_available()
        if cpu and config.deepspeed:
            os.environ["DS_ACCELERATOR"] = "cpu"
        if process.size == process.local_size:
            _stay_inside(os.environ)
        torch.distributed.init_process_group(
            "gloo" if cpu else "nccl", store=_store(process), rank=process.rank, world_size=process.size
        )
        if cpu:
            atexit.register(_leave)


def _leave() -> None:
    """Gloo's threads end before the interpreter does: one that is still there when its group is
    thrown away aborts a process whose work is done and saved. What is still under way is waited
    for, as it would be without this."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def meet() -> bool:
    """Whether this process is the first; that one waits here until all have come, however long
    their work takes.

    If one dies, its launcher ends the others.
    """
    # By the store alone: a process group would connect every process with every other.
    process = current()
    store = _store(process, timedelta(days=30))
    store.set(f"arrived/{process.rank}", "")
    while process.rank == 0 and not store.check([f"arrived/{other}" for other in range(process.size)]):
        time.sleep(0.5)
    return process.rank == 0


def _store(process: Process, timeout: timedelta = timedelta(minutes=30)) -> Store:
    """Where processes leave word for one another. Whoever can write there can run code in them.

    Processes of `launch` use a file in their private folder. Those of another launcher ask for the
    first one's address: torchrun listens there itself, on all of the machine's; else the first
    process does, and on this one alone. ConfigError for one that other machines can reach, unless
    that was asked for.
    """
    if process.meeting:
        return FileStore(str(process.meeting / "store"), process.size)
    # No name is looked up that need not be.
    address = "127.0.0.1" if process.address == "localhost" else process.address
    if process.store_is_there:
        if process.rank == 0 and os.environ.get(TRUSTED) != "1":
            log.warning(
                "port %d, which the launcher has opened, answers the whole network, and whoever reaches it can run code "
                "here; on one machine use launch.processes or --workers, on several a firewall (docs/guide.md) and %s=1",
                process.port,
                TRUSTED,
            )
        return TCPStore(address, process.port, process.size, False, timeout)
    check_meeting_place(process)
    if process.rank:
        return TCPStore(address, process.port, process.size, False, timeout)
    try:
        # Left to itself, the store would listen on all addresses of this machine.
        family = socket.getaddrinfo(address, process.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((address, process.port), family=family)
    except OSError as error:
        raise ConfigError(
            f"MASTER_ADDR={process.address}, MASTER_PORT={process.port}: cannot listen there ({error.strerror}); set an address "
            "of the first process's machine and a free port"
        ) from None
    return TCPStore(
        address, process.port, process.size, True, timeout, wait_for_workers=False, master_listen_fd=listening.detach()
    )


def check_meeting_place(process: Process) -> None:
    """ConfigError when the first process would open a port to other machines, and that was not
    asked for."""
    if process.is_open and not process.store_is_there and os.environ.get(TRUSTED) != "1":
        raise ConfigError(
            f"MASTER_ADDR={process.address}: can be reached from other machines, and whoever reaches port {process.port} there "
            f"can run code here; on one machine set 127.0.0.1, on several shut that port to all others and set {TRUSTED}=1 "
            "(docs/guide.md)"
        )


def _stay_inside(environment: MutableMapping[str, str]) -> None:
    """Let processes of one machine connect through its loopback interface, whatever its name and
    other addresses are."""
    names = [name for name, found in psutil.net_if_addrs().items() if any(a.address.startswith("127.") for a in found)]
    loopback = names[0] if names else "lo"
    environment.update(GLOO_SOCKET_IFNAME=loopback, NCCL_SOCKET_IFNAME=f"={loopback}", NCCL_RAS_ENABLE="0")


# --------------------------------------------------------------------------------------------------
# starting processes


def launch(config: Config, arguments: list[str]) -> None:
    """Run `cardiotune ARGUMENTS` in `launch.processes` processes of this machine and wait for them.

    They meet in a private folder; none listens where another machine could connect. When one fails
    the others are stopped. Raises the error of the first that failed, InterruptedRunError after a
    signal.
    """
    count = config.launch.processes
    # Its port is ours as long as the socket is open, though nobody listens: DeepSpeed tells runs
    # apart by it.
    with tempfile.TemporaryDirectory(prefix="cardiotune-") as folder, socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        workers = _Workers()
        with workers.stopped_by_signals():
            for rank in range(count):
                own = describing(Process(rank, count, rank, count, Path(folder), "127.0.0.1", port))
                own |= {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
                _stay_inside(own)
                workers.start([sys.executable, "-m", "cardiotune", *arguments], own)
            workers.wait()
        if workers.stopped_by:
            raise InterruptedRunError(
                "stopped; go on from the newest checkpoint with `cardiotune train --resume RUN`", workers.stopped_by
            )
        # Those that fail because another one is gone, or are stopped because of it, are not the
        # cause.
        if killed := [-code for code in workers.codes if code < 0 and -code != signal.SIGTERM]:
            raise RunError(
                f"one of {count} processes was killed by {signal.Signals(killed[0]).name}; is the machine out of memory?"
            )
        failure = Path(folder) / FAILURE
        if failure.is_file():
            raise failed_with(**json.loads(failure.read_text()))
        if any(workers.codes):
            raise RunError(f"{count} processes: one of them failed without a word")


class _Workers:
    """Processes that work together: all are stopped when one fails, or when a signal comes."""

    def __init__(self) -> None:
        self.stopped_by = 0
        """The last SIGTERM or SIGINT that came, or 0."""
        self.codes: list[int] = []
        """Exit codes as they ended; of those that were killed for not stopping in time,
        SIGTERM's."""
        self._all: list[subprocess.Popen[bytes]] = []
        self._until: float | None = None

    def start(self, command: list[str], environment: dict[str, str]) -> None:
        """Start one, unless a signal has come. It gets a session of its own: a terminal's Ctrl-C is
        passed on by us."""
        if not self.stopped_by:
            self._all.append(subprocess.Popen(command, env=environment, start_new_session=True))
        if self.stopped_by:  # it may have come while this one was started
            self._stop()

    def wait(self) -> None:
        """Until all have ended."""
        running = list(self._all)
        late: set[int] = set()
        while running:
            for worker in [worker for worker in running if worker.poll() is not None]:
                running.remove(worker)
                self.codes.append(-signal.SIGTERM if worker.pid in late else worker.returncode)
                if worker.returncode and self._until is None:
                    self._stop()
            if self._until is not None and time.monotonic() > self._until:
                for worker in running:
                    late.add(worker.pid)
                    worker.kill()
            time.sleep(0.05)

    def _stop(self) -> None:
        self._until = self._until or time.monotonic() + SHUTDOWN_SECONDS
        for worker in self._all:
            worker.terminate()  # which leaves alone what has ended

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Meanwhile SIGTERM and SIGINT are passed on as SIGTERM. However it ends, none of the
        processes is left behind."""

        def pass_on(number: int, _: Any) -> None:
            self.stopped_by = number
            self._stop()

        before: dict[int, Any] = {}
        with suppress(ValueError):  # not the main thread: signals are somebody else's
            for wanted in (signal.SIGTERM, signal.SIGINT):
                before[wanted] = signal.signal(wanted, pass_on)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for worker in self._all:
                worker.kill()
                worker.wait()


def tell_failure(message: str, exit_code: int) -> bool:
    """In a process that `launch` started: leave word for it, unless another was first. False in any
    other process."""
    meeting = current().meeting
    if meeting is None:
        return False
    with suppress(FileExistsError), (meeting / FAILURE).open("x", encoding="utf-8") as file:
        json.dump({"message": message, "exit_code": exit_code}, file)
    return True


def failed_with(message: str, exit_code: int) -> CardioTuneError:
    """The error that ends with this exit code."""
    error = CardioTuneError(message)
    error.exit_code = exit_code
    return error


def make_accelerator(config: Config, dtype: torch.dtype) -> Accelerator:
    """Accelerate for one process, for data-parallel ones, or with DeepSpeed."""
    cpu = not torch.cuda.is_available()
    if config.deepspeed is None:
        with without_strays():
            return Accelerator(cpu=cpu, mixed_precision="no")
    try:
        import deepspeed  # noqa: F401
    except ImportError:
        raise ModelError("use.deepspeed needs DeepSpeed: pip install 'cardiotune[deepspeed]'") from None
    plugin = DeepSpeedPlugin(hf_ds_config=deepspeed_config(config, config.deepspeed, dtype))
    # Told `cpu=True`, Accelerate would leave DeepSpeed out without a word; DS_ACCELERATOR says it
    # to DeepSpeed.
    accelerator = Accelerator(mixed_precision="no", deepspeed_plugin=plugin)
    if accelerator.distributed_type != "DEEPSPEED":
        raise RunError(f"DeepSpeed was asked for, but the processes are {accelerator.distributed_type}")
    return accelerator


def deepspeed_config(config: Config, settings: DeepSpeed, dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's own configuration. Weights that train are float32, computed on in `dtype` under
    autocast."""
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


def own_batches(batches: list[Any]) -> list[Any]:
    """This process's share of batches: every `processes`-th. All get the same number, the last ones
    one of others'.

    Under ZeRO-3 a forward pass is a joint act of all processes, so none may make fewer of them.
    """
    own = world()
    rounds = -(-len(batches) // own.size)
    return [batches[min(own.rank + turn * own.size, len(batches) - 1)] for turn in range(rounds)]


def merge(values: np.ndarray) -> np.ndarray:
    """Bring together arrays in which each process filled its own rows and left the others NaN."""
    if world().size == 1:
        return values
    known = torch.from_numpy(~np.isnan(values)).double()
    total = torch.from_numpy(np.nan_to_num(values))
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    total, known = total.to(device), known.to(device)
    torch.distributed.all_reduce(total)
    torch.distributed.all_reduce(known)
    # A row that two processes scored (see `own_batches`) is the same number twice.
    return (total / known).cpu().numpy()
