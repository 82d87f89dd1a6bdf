"""Who this process is: alone, or one of many that share a command's work. Nothing else reads what
launchers set.

`launch.processes` and `--workers` start processes that find one another in a private folder. Other
launchers (torchrun, DeepSpeed's, a script for SLURM or MPI) set RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT, all of them; anything less is left over from elsewhere, and a process that is alone
does all of its work, whatever such variables say.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cardiotune.errors import ConfigError

MEETING = "CARDIOTUNE_MEETING"
"""Environment variable: the private folder where processes that `launch` started meet, and leave
word of a failure."""
TRUSTED = "CARDIOTUNE_TRUST_NETWORK"
"""Environment variable: 1 lets processes of several machines meet at an address that others can
reach too."""
GROUP = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What every launcher sets."""
PLACE = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE")
"""What most launchers set besides: this process's number on its machine, and how many there are."""
OTHERS = (
    *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "NODE_RANK", "CROSS_RANK", "CROSS_SIZE"),
    *("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "TORCHELASTIC_USE_AGENT_STORE"),
    *(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")),
    *(f"MV2_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")),
)
"""What libraries below us look at too. A batch system sets some of it for processes that are alone,
so it says nothing."""


@dataclass(frozen=True)
class Process:
    """One of `size` processes, the `rank`-th from 0; on its machine the `local_rank`-th of
    `local_size`."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    meeting: Path | None = None
    """The folder of those that `launch` started."""
    address: str = ""
    """Where those of another launcher meet: a name or number of the first one's machine."""
    port: int = 0
    store_is_there: bool = False
    """Whether the launcher itself listens there, as torchrun does; else the first process will."""

    @property
    def is_worker(self) -> bool:
        """Whether it is one of many, or alone in what `launch` started."""
        return self.is_launched or self.size > 1

    @property
    def is_launched(self) -> bool:
        """Whether `launch` started it and waits for it, to go on when all are done."""
        return self.meeting is not None

    @property
    def is_open(self) -> bool:
        """Whether the place where it meets the others can be reached from other machines."""
        try:
            return self.address not in ("", "localhost") and not ip_address(self.address).is_loopback
        except ValueError:  # a name
            return True


def current(environment: Mapping[str, str] = os.environ) -> Process:
    """This process. ConfigError where a launcher's variables contradict one another."""
    meeting = environment.get(MEETING)
    if meeting is None and not _is_meant(environment):
        return Process()
    where = f"{MEETING} is set, so this is" if meeting else "WORLD_SIZE and MASTER_ADDR are set, so this is"
    if unset := [name for name in (GROUP if not meeting else GROUP[:2]) if not environment.get(name)]:
        raise ConfigError(
            f"{where} one of many processes, which needs {' and '.join(unset)} in its environment, as torchrun sets it; or "
            f"unset {MEETING if meeting else 'WORLD_SIZE'}"
        )
    if meeting and not Path(meeting).is_dir():
        raise ConfigError(
            f"{MEETING}={meeting}: no such folder; processes are started by launch.processes, so unset it"
        )
    size, rank = _number(environment, "WORLD_SIZE", 1), _number(environment, "RANK", 0)
    local_rank = _number(environment, "LOCAL_RANK", 0, known=0)
    local_size = _number(
        environment, "LOCAL_WORLD_SIZE" if environment.get("LOCAL_WORLD_SIZE") else "LOCAL_SIZE", 1, known=1
    )
    if rank >= size:
        raise ConfigError(f"RANK={rank}, but WORLD_SIZE={size}: expected 0 to {size - 1}; set both as torchrun does")
    if meeting:
        return Process(rank, size, local_rank, local_size, Path(meeting))
    return Process(
        rank,
        size,
        local_rank,
        local_size,
        address=environment["MASTER_ADDR"],
        port=_number(environment, "MASTER_PORT", 1),
        store_is_there=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def _is_meant(environment: Mapping[str, str]) -> bool:
    """Whether somebody has begun to describe a group of processes."""
    size = environment.get("WORLD_SIZE", "")
    return bool(environment.get("MASTER_ADDR")) and size.isascii() and size.isdigit() and int(size) > 1


def _number(environment: Mapping[str, str], name: str, least: int, known: int | None = None) -> int:
    text = environment.get(name) or str(known)
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise ConfigError(f"{name}={text}: expected a whole number from {least}; set it as torchrun does, or unset it")
    return int(text)


def describing(process: Process, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment in which another process is this one, and nothing contradicts it."""
    assert process.meeting is not None
    own = dict(zip(GROUP, map(str, (process.rank, process.size, process.address, process.port)), strict=True))
    place = {"LOCAL_RANK": str(process.local_rank), "LOCAL_WORLD_SIZE": str(process.local_size)}
    kept = {name: value for name, value in environment.items() if name not in (*GROUP, *PLACE, *OTHERS)}
    return {**kept, **own, **place, MEETING: str(process.meeting)}


def only_one(command: str) -> None:
    """ConfigError when several processes are asked for what one has to do."""
    process = current()
    if process.is_worker:
        raise ConfigError(
            f"{command} is done by one process, and this is one of {process.size}; start it without a launcher, or, if it was "
            f"started so, unset {', '.join(GROUP)}"
        )


def strays() -> list[str]:
    """Variables of a launcher, set where this process is alone."""
    names = () if current().is_worker else (*GROUP, *PLACE, *OTHERS)
    return [name for name in names if name in os.environ]


@contextmanager
def without_strays() -> Iterator[list[str]]:
    """Meanwhile no library is misled by variables of a launcher that has not started this process;
    which these are."""
    found = {name: os.environ.pop(name) for name in strays()}
    try:
        alone = (found.get("RANK"), found.get("WORLD_SIZE")) == ("0", "1")  # a launcher's only process
        yield [] if alone else [name for name in found if name in (*GROUP, *PLACE)]
    finally:
        os.environ.update(found)
