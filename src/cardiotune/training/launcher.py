"""`python -m cardiotune.training.launcher N ARGUMENTS...`: `cardiotune ARGUMENTS` in N processes of this machine.

torch's launcher, without its own traceback when a process fails: that process says in one line what was wrong.
"""

import logging
import os
import signal
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

SHUTDOWN_SECONDS = 120
"""How long processes may take to finish a step and save it after SIGTERM, before they are killed."""


def launch(processes: str, arguments: list[str]) -> int:
    """The exit code: 0, 1 when a process failed, or the number of the signal that killed one."""
    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN_SECONDS))
    try:
        main(["--standalone", f"--nproc-per-node={processes}", "-m", "cardiotune", *arguments])
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        # Those that fail because another one is gone, or are stopped because of it, are not the cause.
        return next((-code for code in codes if code < 0 and -code != signal.SIGTERM), 1)
    return 0


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1], sys.argv[2:]))
